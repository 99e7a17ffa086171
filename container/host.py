"""The kind host: the baseline. The same tree, by chroot, and nothing isolated.

A mount namespace is there only to keep its mounts off the host; it confines nobody: the command has the
host's processes, network, ids, devices and capabilities, and none of the spec's limits. A control group
counts what it costs and finds all its processes at the end.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from container import enter, mounts
from container.driver import needs, open_files
from container.enter import Plan
from container.local import LocalInstance
from container.mounts import Layers
from container.procevents import ProcessEvents
from container.records import new_record, saved_process
from hybrid import cgroups, health, process
from hybrid.defaults import hosts
from hybrid.driver import Kind, Problem, Request, Stdio
from hybrid.errors import CommandError, HybridError, NotReadyError
from hybrid.marks import Mark
from hybrid.store import InstanceStore, Record

if TYPE_CHECKING:
    from hybrid.home import Home
    from hybrid.image import Image

_SHARED = ("proc", "sys", "dev")
"""The host's own directories that the command sees."""

_MONITOR = """
exit=$1 pid=$2
shift 2
exec 3>&0 </dev/null
"$@" &
echo $! >"$pid"
exec 3>&-
wait $!
echo $? >"$exit.new"
mv "$exit.new" "$exit"
"""
"""Starts a detached command, and stays to note its exit code. Standard input is a pipe's write end: what
goes wrong is told there, and it is closed by execve."""

_OUTPUT = 65536
"""Bytes kept of what a probe writes."""
_PATIENCE = 60.0
"""Seconds that a detached command may take to be executed."""


class HostDriver:
    """See `hybrid.driver.Driver`."""

    kind: ClassVar[Kind] = Kind.HOST

    def __init__(self, home: Home) -> None:
        self._home = home

    def problems(self) -> Sequence[Problem]:
        return needs("root", "overlay", "cgroups")

    def warnings(self) -> Sequence[Problem]:
        return []

    def facts(self) -> Mapping[str, str]:
        return {"engine": "chroot", "kernel": os.uname().release, "cgroups": cgroups.tree().version}

    def prepare(self, image: Image) -> int:
        return 0

    def create(self, request: Request) -> HostInstance:
        with InstanceStore(self._home).making(request.name) as (directory, commit):
            Layers(request.image.tree, directory / "layer", directory / "rootfs").prepare(None)
            record = commit(new_record(request, self.kind, directory, tree=str(request.image.tree)))
        request.marks.stamp(Mark.CREATE)
        return HostInstance(record, request.marks)

    def open(self, record: Record) -> HostInstance:
        return HostInstance(record)


class HostInstance(LocalInstance):
    """See `hybrid.driver.Instance`."""

    kind: ClassVar[Kind] = Kind.HOST

    @property
    def layers(self) -> Layers:
        return Layers(Path(self._record.engine["tree"]), self.directory / "layer", self.directory / "rootfs")

    def _exit_file(self) -> Path:
        return self.directory / "exit"

    # ---- start ---------------------------------------------------------------------------

    def _launch(self, stdio: Stdio | None) -> None:
        self.cgroup.create()
        with ProcessEvents() as events:
            mounts.private(self._run_detached if stdio is None else partial(self._run, stdio))
            # A detached command's process runs the interpreter first, and the command after it.
            at = events.nth(self._record.engine["pid"], 1 if stdio is None else 0)
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

    def _run(self, stdio: Stdio) -> None:
        """Attached: the command is this process's child."""
        plan = self._mount()
        stdin = process.DEVNULL if stdio.stdin < 0 else stdio.stdin
        self._marks.stamp(Mark.SPAWN)
        with _becoming(lambda: enter.become(plan)) as setup:
            child = process.launch(
                plan.argv,
                executable=plan.executable,
                env=plan.env,
                stdin=stdin,
                stdout=stdio.stdout,
                stderr=stdio.stderr,
                setup=setup,
                new_session=True,
            )
        self._child = child
        self._save(pid=child.pid, started=process.start_time(child.pid))

    def _run_detached(self) -> None:
        """Detached: a shell is the command's parent, and notes its exit code."""
        plan = self._mount()
        paths = {name: self.directory / name for name in ("plan", "pid", "exit")}
        paths["pid"].unlink(missing_ok=True)
        paths["plan"].write_text(plan.dumps())
        launcher = [sys.executable, "-I", "-S", enter.__file__, str(paths["plan"])]
        argv = ["/bin/sh", "-c", _MONITOR, self._record.id, str(paths["exit"]), str(paths["pid"]), *launcher]
        out, err = (os.open(p, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640) for p in self.logs())
        told, telling = os.pipe2(os.O_CLOEXEC)
        try:
            self._marks.stamp(Mark.SPAWN)
            child = process.launch(argv, stdin=telling, stdout=out, stderr=err, new_session=True)
            os.close(telling)
            telling = -1
            self._child = child
            self._await_execution(told)
            process.disown(child)
            self._child = None
        finally:
            for descriptor in (out, err, told, telling):
                if descriptor >= 0:
                    os.close(descriptor)
        pid, monitor = int(paths["pid"].read_text()), child.pid
        self._save(
            **{"pid": pid, "started": process.start_time(pid)},
            **{"monitor_pid": monitor, "monitor_started": process.start_time(monitor), "monitor_name": "sh"},
        )

    def _await_execution(self, told: int) -> None:
        """Return when the pipe says that the command is executed; its failure if it is not."""
        poller = select.poll()
        poller.register(told, select.POLLIN)
        if not poller.poll(_PATIENCE * 1000):
            raise NotReadyError(f"the command was not executed within {_PATIENCE:g} s", phase="entrypoint")
        if words := os.read(told, 4096).decode(errors="replace"):
            number, _, text = words.partition(" ")
            raise _not_executed(self._record.command[0], OSError(int(number), text))

    def _mount(self) -> Plan:
        """Mount the root filesystem, with the host's own directories in it, in this thread's namespace."""
        mounts.mount_root(self.layers, None)
        root = os.open(self.layers.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for name in _SHARED:
                mounts.bind_in(root, name, Path("/", name))
            mounts.write_in(root, "etc/hosts", hosts(socket.gethostname()))
        finally:
            os.close(root)
        return self._plan(str(self.layers.root))

    def _plan(self, root: str) -> Plan:
        what = saved_process(self._record)
        return Plan(
            root=root,
            procs=[str(path / "cgroup.procs") for path in self.cgroup.directories if path.is_dir()],
            cwd=what.cwd,
            uid=what.uid,
            gid=what.gid,
            groups=list(what.groups),
            open_files=list(open_files()),
            argv=list(what.argv),
            executable=what.executable,
            env=dict(what.env),
        )

    # ---- the rest ------------------------------------------------------------------------

    def _probe(self, argv: Sequence[str], timeout: float) -> health.Outcome:
        if (command := self._command()) is None:
            return health.Outcome(None, "the command has ended")
        plan = self._plan("/")

        def become() -> None:
            mounts.enter(command[0])
            enter.become(plan)

        output = os.memfd_create("output")
        try:
            with _becoming(become) as setup:
                child = process.launch(argv, env=plan.env, stdout=output, stderr=output, setup=setup, new_session=True)
            code = process.bounded(child, timeout)
            return health.Outcome(code, os.pread(output, _OUTPUT, 0).decode(errors="replace"))
        except CommandError as error:
            return health.Outcome(error.exit_code, error.what)
        finally:
            os.close(output)

    def _after_end(self) -> None:
        """What the command has left running ends with it, as it would in a container."""
        super()._after_end()
        self.cgroup.kill()

    def _forget(self) -> None:
        """Nothing: mounts and namespace have ended with the processes."""


@contextmanager
def _becoming(change: Callable[[], None]) -> Iterator[Callable[[], None]]:
    """The `setup` of a launch that changes the child; what goes wrong there, or at execve, is raised here."""
    told, telling = os.pipe2(os.O_CLOEXEC)

    def setup() -> None:
        try:
            change()
        except OSError as error:
            os.write(telling, f"{error.filename or ''}: {error.strerror}".encode())
            raise

    try:
        yield setup
    except OSError as error:
        raise _not_executed("", error) from None
    except Exception:
        os.close(telling)
        telling = -1
        if words := os.read(told, 4096).decode(errors="replace"):
            raise HybridError(f"the command's process could not be set up: {words}") from None
        raise
    finally:
        for descriptor in (told, telling):
            if descriptor >= 0:
                os.close(descriptor)


def _not_executed(command: str, error: OSError) -> CommandError:
    missing = error.errno in (errno.ENOENT, errno.ENOTDIR)
    return CommandError(f"{command or error.filename}: {error.strerror}", exit_code=127 if missing else 126)


def _leads_session(pid: int) -> bool:
    try:
        return os.getsid(pid) == pid
    except ProcessLookupError:
        return False
