"""Control groups of instances: limits, accounting and a kill that misses nobody.

On cgroup v2 a group is one directory; on v1 (also where an idle v2 tree lies beside it) it is one in
every hierarchy, all of the same name. Groups lie at the top of the tree, next to systemd's slices.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from hybrid.errors import HostError

PREFIX = "hybrid-"
CONTROLLERS = ("cpu", "cpuacct", "memory", "pids", "freezer")
"""What `create` uses on v1; v2 has cpu, memory and pids, and accounts and kills without a controller."""

_PERIOD = 100_000
"""Microseconds over which a CPU quota holds."""
_KILL_TIMEOUT = 10.0
"""Seconds after which a process that ignores SIGKILL hangs in the kernel."""


@dataclass(frozen=True, slots=True)
class Tree:
    """Where this host's control groups are mounted."""

    unified: Path | None
    """The cgroup v2 tree, if controllers are to be had there."""
    v1: Mapping[str, Path]
    """The v1 hierarchies by controller (`name=systemd` by that name); empty on v2."""
    idle: Path | None = None
    """A v2 tree beside v1 hierarchies, which have all the controllers that we use."""

    @property
    def version(self) -> str:
        return "v2" if self.unified else "v1, v2 beside it" if self.idle else "v1" if self.v1 else "none"


@cache
def tree() -> Tree:
    """This host's control groups. Looked up once: hosts do not change it while they run."""
    return read_tree(Path("/proc/self/mounts").read_text())


def read_tree(mounts: str) -> Tree:
    """The control groups in the text of /proc/self/mounts."""
    v1: dict[str, Path] = {}
    unified = None
    for line in mounts.splitlines():
        _, target, kind, options, *_ = line.split(" ")
        if kind == "cgroup2":
            unified = unified or Path(target)
        elif kind == "cgroup":
            v1 |= {name: Path(target) for name in options.split(",") if name in CONTROLLERS or name.startswith("name=")}
            v1 |= {name: Path(target) for name in ("blkio", "cpuset", "devices") if name in options.split(",")}
    if any(name in v1 for name in CONTROLLERS):
        return Tree(None, v1, idle=unified)
    return Tree(unified, {})


class Cgroup:
    """The control group of the instance `id`, whether or not it exists already.

    Whoever creates it removes it. An OCI runtime that is told `path` makes the very same group.
    """

    def __init__(self, id: str, where: Tree | None = None) -> None:
        self.path = f"/{PREFIX}{id}"
        """Absolute, in every hierarchy."""
        self.tree = where or tree()

    @property
    def directories(self) -> list[Path]:
        """Where the group is, or would be."""
        roots = [self.tree.unified] if self.tree.unified else list(dict.fromkeys(self.tree.v1.values()))
        return [root / self.path[1:] for root in roots]

    def exists(self) -> bool:
        return any(directory.is_dir() for directory in self.directories)

    def create(self) -> None:
        """Make the group in every hierarchy that accounts, limits or kills; HostError when it cannot be."""
        try:
            if self.tree.unified is not None:
                enable(self.tree.unified, ("cpu", "memory", "pids"))
                (self.tree.unified / self.path[1:]).mkdir(exist_ok=True)
            for root in {self.tree.v1[name] for name in CONTROLLERS if name in self.tree.v1}:
                (root / self.path[1:]).mkdir(exist_ok=True)
        except OSError as error:
            self.remove()
            raise HostError(
                f"no control group can be made: {error.strerror}",
                where=str(error.filename or ""),
                mend="run as root, with /sys/fs/cgroup mounted read-write",
            ) from None

    def add(self, pid: int) -> None:
        """Move a process into the group; 0 is the caller."""
        for directory in self.directories:
            if directory.is_dir():
                (directory / "cgroup.procs").write_text(str(pid))

    def limit(self, *, cpus: float | None = None, memory: int | None = None, pids: int | None = None) -> None:
        """Bound CPU time (in CPUs), memory (bytes, swap included where the host counts it) and processes."""
        if cpus is not None:
            self._limit_cpus(max(1000, round(cpus * _PERIOD)))
        if memory is not None:
            self._limit_memory(memory)
        if pids is not None:
            self._write("pids", "pids.max", str(pids))

    def cpu_seconds(self) -> float:
        """CPU time spent in the group until now, by ended processes too."""
        if self.tree.unified is not None:
            return self._fields("cpu.stat").get("usage_usec", 0) / 1e6
        path = self._file("cpuacct", "cpuacct.usage")
        with contextlib.suppress(FileNotFoundError):
            return int(path.read_text()) / 1e9 if path else 0.0
        return 0.0

    def pids(self) -> set[int]:
        """The living processes in the group and below it."""
        found: set[int] = set()
        for directory in self.directories:
            for group in _groups(directory):
                with contextlib.suppress(FileNotFoundError, OSError):
                    found.update(int(line) for line in (group / "cgroup.procs").read_text().split() if line != "0")
        return found

    def kill(self, spare: int | None = None) -> None:
        """SIGKILL every process of the group, those they make meanwhile too, and return when all have ended.

        Those that have become children of this process (a subreaper) are reaped, for a pid namespace
        ends only when all in it are; all but `spare`, whose exit code somebody wants. HostError when
        some have not ended after ten seconds.
        """
        deadline = time.monotonic() + _KILL_TIMEOUT
        while pids := self.pids():
            if time.monotonic() > deadline:
                raise HostError(
                    f"processes survive SIGKILL: {', '.join(map(str, sorted(pids)))}",
                    mend="they hang in the kernel: see dmesg",
                )
            with self._frozen():
                handles = dict(_handles(pids))
                self._kill_all(handles.values())
            _see_end(handles, spare, deadline)

    def remove(self) -> None:
        """Remove the group; nothing happens when there is none. Its processes must have ended.

        A process leaves its group a moment after it has ended, which v1 tells nobody: hence the retries.
        """
        deadline = time.monotonic() + 2
        for directory in self.directories:
            for group in _groups(directory):
                while not _removed(group):
                    if time.monotonic() > deadline:
                        raise HostError(f"the control group {group} is still in use", mend=f"rmdir {group}, later")
                    time.sleep(0.002)

    def _limit_cpus(self, quota: int) -> None:
        if self.tree.unified is not None:
            self._write("cpu", "cpu.max", f"{quota} {_PERIOD}")
        else:
            self._write("cpu", "cpu.cfs_period_us", str(_PERIOD))
            self._write("cpu", "cpu.cfs_quota_us", str(quota))

    def _limit_memory(self, limit: int) -> None:
        if self.tree.unified is not None:
            self._write("memory", "memory.max", str(limit))
            if limits_swap(self.tree):
                self._write("memory", "memory.swap.max", "0")
        else:
            self._write("memory", "memory.limit_in_bytes", str(limit))
            if limits_swap(self.tree):
                self._write("memory", "memory.memsw.limit_in_bytes", str(limit))

    def _write(self, controller: str, name: str, value: str) -> None:
        path = self._file(controller, name)
        try:
            if path is None:
                raise FileNotFoundError(errno.ENOENT, "no such controller")
            path.write_text(value)
        except OSError as error:
            raise HostError(
                f"the host cannot limit {controller}: {error.strerror}",
                where=str(path or ""),
                mend=f"enable the {controller} controller, or take the limit out of the spec",
            ) from None

    def _file(self, controller: str, name: str) -> Path | None:
        root = self.tree.unified or self.tree.v1.get(controller)
        return root / self.path[1:] / name if root else None

    def _fields(self, name: str) -> dict[str, int]:
        try:
            text = self.directories[0].joinpath(name).read_text()
        except FileNotFoundError:
            return {}
        return {key: int(value) for key, value in (line.split() for line in text.splitlines())}

    def _kill_all(self, handles: Collection[int]) -> None:
        killer = self.tree.unified / self.path[1:] / "cgroup.kill" if self.tree.unified else None
        if killer is not None and killer.exists():
            killer.write_text("1")
            return
        for handle in handles:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, signal.SIGKILL)

    @contextlib.contextmanager
    def _frozen(self) -> Iterator[None]:
        """On v1, keep the group's processes from making new ones meanwhile."""
        state = self._file("freezer", "freezer.state") if not self.tree.unified else None
        if state is None or not state.exists():
            yield
            return
        with contextlib.suppress(OSError):
            state.write_text("FROZEN")
        try:
            yield
        finally:
            state.write_text("THAWED")


def limits_swap(where: Tree) -> bool:
    """Whether this host's control groups can bound swap."""
    if where.unified is not None:
        return Path("/proc/swaps").read_text().count("\n") > 1
    return "memory" in where.v1 and (where.v1["memory"] / "memory.memsw.limit_in_bytes").exists()


def enable(root: Path, controllers: Collection[str]) -> None:
    """Give the groups below a cgroup v2 directory these controllers, those that it has itself."""
    control = root / "cgroup.subtree_control"
    wanted = set(controllers) & set((root / "cgroup.controllers").read_text().split())
    if missing := wanted - set(control.read_text().split()):
        control.write_text(" ".join(f"+{name}" for name in sorted(missing)))


def _groups(directory: Path) -> Iterator[Path]:
    """The groups below a directory, deepest first, and itself last."""
    with contextlib.suppress(FileNotFoundError):
        for entry in os.scandir(directory):
            if entry.is_dir(follow_symlinks=False):
                yield from _groups(Path(entry.path))
        yield directory


def _removed(group: Path) -> bool:
    try:
        group.rmdir()
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno in (errno.EBUSY, errno.ENOTEMPTY):
            return False
        raise HostError(f"{group}: {error.strerror}", mend="run as root") from None
    return True


def _handles(pids: Collection[int]) -> Iterator[tuple[int, int]]:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            yield pid, os.pidfd_open(pid)


def _see_end(handles: Mapping[int, int], spare: int | None, deadline: float) -> None:
    """Return when all these processes have ended, or at the deadline; reaps ours and closes their handles."""
    pids = {handle: pid for pid, handle in handles.items()}
    poller = select.poll()
    for handle in pids:
        poller.register(handle, select.POLLIN)
    try:
        while pids and (ended := poller.poll(max(0.0, deadline - time.monotonic()) * 1000)):
            for handle, _ in ended:
                poller.unregister(handle)
                if (pid := pids.pop(handle)) != spare:
                    with contextlib.suppress(ChildProcessError):
                        os.waitpid(pid, os.WNOHANG)
    finally:
        for handle in handles.values():
            os.close(handle)
