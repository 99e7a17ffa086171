"""The kind host: the baseline. The same tree, by chroot, and nothing isolated.

A mount namespace is there only to keep its mounts off the host; it confines nobody: the command has the
host's processes, network, ids, devices and capabilities, and none of the spec's limits. A control group
counts what it costs and finds all its processes at the end.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeVar

from container import enter, mounts, volumes, within
from container.become import launch, not_executed
from container.driver import check_limits, needs
from container.enter import Plan
from container.inside import Ids, LocalInside
from container.local import LocalInstance
from container.mounts import Layers
from container.procevents import ProcessEvents
from container.records import new_record, saved_process
from container.session import FailedSession, HostSession
from hybrid import cgroups, limits, process
from hybrid.defaults import hosts
from hybrid.driver import Execution, Kind, Problem, Request, Session, Stdio
from hybrid.errors import CommandError, HybridError
from hybrid.marks import Mark
from hybrid.network import plan
from hybrid.store import InstanceStore, Record, new_id
from hybrid.volumes import from_record, prepared, to_record

if TYPE_CHECKING:
    from hybrid.home import Home
    from hybrid.image import Image, Process

_SHARED = ("proc", "sys", "dev")
"""The host's own directories that the command sees."""


T = TypeVar("T")


class HostDriver:
    """See `hybrid.driver.Driver`."""

    kind: ClassVar[Kind] = Kind.HOST

    def __init__(self, home: Home) -> None:
        self._home = home

    def problems(self) -> Sequence[Problem]:
        return needs("user", "conmon", "overlay", "cgroups") if os.geteuid() == 0 else needs("user")

    def warnings(self) -> Sequence[Problem]:
        return []

    def facts(self) -> Mapping[str, str]:
        return {"engine": "chroot", "kernel": os.uname().release, "cgroups": cgroups.tree().version}

    def prepare(self, image: Image) -> int:
        return 0

    def create(self, request: Request) -> HostInstance:
        id = new_id()
        check_limits(request.spec)
        given = {name: list(pair) for name, pair in limits.here(request.spec).items()}
        network = plan.make(request.spec, self.kind, self._home, request.process.hostname)
        with (
            InstanceStore(self._home).making(request.name, id) as (directory, commit),
            prepared(request.spec, request.image, self._home, directory) as mounted,
        ):
            Layers(request.image.tree, directory / "layer", directory / "rootfs").prepare(None)
            engine = {
                "tree": str(request.image.tree),
                "rlimits": given,
                "read_only": request.spec.read_only,
                "network": network,
            }
            record = commit(new_record(request, self.kind, directory, id=id, **engine, **to_record(mounted)))
        request.marks.stamp(Mark.CREATE)
        return HostInstance(record, request.marks)

    def open(self, record: Record) -> HostInstance:
        return HostInstance(record)


class HostInstance(LocalInstance):
    """See `hybrid.driver.Instance`."""

    kind: ClassVar[Kind] = Kind.HOST

    @property
    def layers(self) -> Layers:
        layer, root = self.directory / "layer", self.directory / "rootfs"
        return Layers(Path(self._record.engine["tree"]), layer, root, self.cgroup.name)

    # ---- start ---------------------------------------------------------------------------

    def _launch(self, stdio: Stdio | None) -> None:
        cgroups.join()
        self.cgroup.create()
        with ProcessEvents() as events:
            self.in_mounted_root(partial(self._run_detached if stdio is None else self._run, stdio))
            at = events.nth(self._record.engine["pid"])
        self._marks.stamp(Mark.ENTRYPOINT, at)
        self._save(starting=False)

    def _adopt(self) -> None:
        super()._adopt()
        if self._child is None and "pid" not in self._record.engine:  # an attached command has no file that tells it
            leaders = [pid for pid in self.cgroup.pids() if _leads_session(pid)]
            if leaders:
                self._note(pid=leaders[0], started=process.start_time(leaders[0]))

    def _settle(self, timeout: float | None) -> None:
        """Nothing: `_launch` returns when the command is executed."""

    def _run(self, stdio: Stdio | None, root: Path) -> None:
        """Attached: the command is this process's child."""
        assert stdio is not None
        plan = self._prepare(root)
        self._marks.stamp(Mark.SPAWN)
        self._child, master = launch(plan, stdio, self._size, lambda: enter.become(plan))
        if master >= 0:
            self._join_terminal(master, stdio)
        self._save(pid=self._child.pid, started=process.start_time(self._child.pid))

    def _run_detached(self, stdio: Stdio | None, root: Path) -> None:
        """Detached: a monitor makes the command, by a program of ours in the place of an OCI runtime."""
        for name in ("pid", "failure"):
            (self.directory / name).unlink(missing_ok=True)
        (self.directory / "plan").write_text(self._prepare(root).dumps())
        pid, cpu = self._monitored([sys.executable, "-I", "-S", enter.__file__, str(self.directory)])
        self._save(pid=pid, started=process.start_time(pid), launch_cpu=cpu)

    def _gave_up(self) -> HybridError:
        try:
            number, _, text = (self.directory / "failure").read_text().partition(" ")
        except FileNotFoundError:
            return HybridError("conmon could not start the command", mend="hybrid doctor")
        return not_executed(self._record.command[0], OSError(int(number), text))

    def in_mounted_root(self, work: Callable[[Path], T]) -> T:
        layers = self.layers

        def mounted() -> T:
            mounts.mount_root(layers, None)
            return work(layers.root)

        return mounts.private(mounted)

    def _prepare(self, path: Path) -> Plan:
        """Show the host's own directories in the mounted root; what the command is to become there."""
        root = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for name in _SHARED:
                mounts.bind_in(root, name, Path("/", name))
            mounts.write_in(root, "etc/hosts", hosts(socket.gethostname()))
        finally:
            os.close(root)
        mounted = from_record(self._record.engine, self.directory)
        volumes.mount_in(path, mounted, read_only=bool(self._record.engine.get("read_only")))
        return self.plan(str(path), saved_process(self._record))

    def plan(self, root: str, what: Process) -> Plan:
        return Plan(
            root=root,
            procs=[str(path / "cgroup.procs") for path in self.cgroup.directories if path.is_dir()],
            cwd=what.cwd,
            uid=what.uid,
            gid=what.gid,
            groups=list(what.groups),
            rlimits={limits.number(name): pair for name, pair in self._record.engine["rlimits"].items()},
            argv=list(what.argv),
            executable=what.executable,
            env=dict(what.env),
            tty=what.tty,
        )

    # ---- the rest ------------------------------------------------------------------------

    def _probe(self, argv: Sequence[str]) -> Sequence[str]:
        path = self.directory / "probe.json"
        path.write_text(self.plan("/", replace(saved_process(self._record), argv=tuple(argv), tty=False)).dumps())
        return [sys.executable, "-I", "-S", within.__file__, str(path), str(self._record.engine["pid"])]

    @property
    def inside(self) -> HostInside:
        return HostInside(self)

    def _after_end(self) -> None:
        """What the command has left running ends with it, as it would in a container."""
        super()._after_end()
        self.cgroup.kill()

    def _forget(self) -> None:
        """Nothing: mounts and namespace have ended with the processes."""


def _leads_session(pid: int) -> bool:
    try:
        return os.getsid(pid) == pid
    except ProcessLookupError:
        return False


class HostInside(LocalInside):
    """By a child that enters the command's root directory and control group."""

    def __init__(self, instance: HostInstance) -> None:
        super().__init__(instance, Ids())
        self._host = instance

    def _execute(self, program: Process, execution: Execution, stdio: Stdio, pid: int) -> Session:
        plan = self._host.plan("/", replace(program, tty=execution.terminal is not None))

        def become() -> None:
            mounts.enter(pid)
            enter.become(plan)

        try:
            child, master = launch(plan, stdio, execution.terminal, become)
        except CommandError as error:
            return FailedSession(error)
        if master < 0:
            return HostSession(child, None)
        from container.terminal import Terminal

        return HostSession(child, Terminal(master, stdio))
