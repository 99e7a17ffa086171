"""One virtual machine, through its life: start, serve, stop, destroy."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import resource
import select
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

from hybrid.cgroups import Cgroup
from hybrid.driver import Evidence, Kind, State, Status, Stdio, Usage
from hybrid.errors import CommandError, HybridError, InstanceError, NotReadyError
from hybrid.home import Home
from hybrid.marks import Mark, Marks
from hybrid.process import send_signal, start_time
from hybrid.store import Record, locked
from hybrid.usage import cpu_seconds, disk_bytes, memory
from vm import domain, guest
from vm.events import Events
from vm.streams import Feed, Follow, Wakeups

KILLED = 128 + signal.SIGKILL
SPEECH = 10.0
"""Seconds that the guest's init may take to hear one line."""


class VmInstance:
    """A `hybrid.driver.Instance` whose command runs in a guest kernel."""

    kind: ClassVar[Kind] = Kind.VM

    def __init__(self, home: Home, record: Record, marks: Marks | None = None) -> None:
        self._home = home
        self._record = record
        self._marks = marks if marks is not None else Marks()
        self._events = Events(record.directory / "events")
        self._streams: list[Follow] = []
        self._feed: Feed | None = None
        self._launch_cpu = 0.0
        self._speaking = threading.Lock()

    @property
    def record(self) -> Record:
        return self._record

    @property
    def marks(self) -> Marks:
        return self._marks

    @property
    def _run(self) -> Path:
        return self._home.run / self._record.id

    def logs(self) -> tuple[Path, Path]:
        return self._record.directory / "stdout.log", self._record.directory / "stderr.log"

    # ---- start ---------------------------------------------------------------------------

    def start(self, stdio: Stdio | None) -> None:
        with locked(self._record.directory / "lock"):
            if self.status().state is State.RUNNING:
                raise InstanceError(f"{self._record.name} is running", mend=f"hybrid stop {self._record.name}")
            cpu_before = _own_cpu()
            try:
                self._launch(stdio)
            except BaseException:
                self._kill()
                self._forget_run()
                raise
            self._launch_cpu = _own_cpu() - cpu_before

    def _launch(self, stdio: Stdio | None) -> None:
        from vm.connection import connect

        has_stdin = stdio is not None and stdio.stdin >= 0
        machine = guest.write_files(self._home, self._record, self._run, has_stdin=has_stdin)
        connection = connect(self._home)
        self._save(root=str(connection.root), exit_code=None)
        self._events = Events(machine.events, self._marks)
        connection.start(machine.name, domain.xml(machine))
        self._marks.stamp(Mark.SPAWN)
        machine.initrd.unlink()  # QEMU has read it
        pid = int((connection.root / f"run/qemu/{machine.name}.pid").read_text())
        self._save(pid=pid, started=start_time(pid), boot_id=_boot_id())
        self._enter_cgroup(pid)
        if stdio is not None:
            out, err = self.logs()
            self._streams = [Follow(out, stdio.stdout), Follow(err, stdio.stderr)]
            if has_stdin:
                self._feed = Feed(stdio.stdin, self._run / "stdin", lambda total: self._say(f"eof {total}"))

    def _enter_cgroup(self, pid: int) -> None:
        cgroup = Cgroup(self._record.id)
        cgroup.create()
        cgroup.add(pid)
        cpus = self._record.engine.get("cpus")
        if cpus is not None:
            cgroup.limit(cpus=cpus)

    def _save(self, **engine: object) -> None:
        self._record = dataclasses.replace(self._record, engine={**self._record.engine, **engine})
        self._record.save()

    # ---- wait ----------------------------------------------------------------------------

    def wait_entrypoint(self, timeout: float) -> None:
        self._serve(lambda: Mark.ENTRYPOINT in self._events.seen or self._ended(), timeout, Mark.ENTRYPOINT)
        self._check_executed()
        if Mark.ENTRYPOINT not in self._events.seen:
            raise self._not_ready("the VM ended before the command was executed", self._phase())

    def wait_ready(self, timeout: float) -> None:
        self.wait_entrypoint(timeout)
        if not self._record.engine.get("probed"):
            self._marks.stamp(Mark.READY, self._marks.get(Mark.ENTRYPOINT))
            return
        self._serve(lambda: Mark.READY in self._events.seen or self._ended(), timeout, Mark.READY)
        if Mark.READY not in self._events.seen:
            raise self._not_ready(f"the command ended ({self._exit_words()}) before it was healthy", Mark.READY)

    def wait(self, timeout: float | None = None) -> int:
        self._serve(self._ended, timeout, Mark.STOP)
        self._check_executed()
        self._marks.stamp(Mark.STOP)
        for stream in self._streams:
            stream.copy()
        code = self._events.exit_code
        if code is None:
            code = self._kill_code()
            if code is None:
                raise self._not_ready("the VM ended without telling an exit code", self._phase())
        self._kill()  # the guest has synced its disk before it told its exit code
        self._save(exit_code=code)
        return code

    def _kill_code(self) -> int | None:
        """137 when somebody removed or killed the instance while this process waited for it."""
        with contextlib.suppress(HybridError):
            self._record = Record.load(self._record.directory)
            code = self._record.engine.get("exit_code")
            return code if isinstance(code, int) else None
        return KILLED

    def _check_executed(self) -> None:
        self._events.read()
        if (number := self._events.exec_errno) is not None:
            missing = number in (2, 20)
            raise CommandError(
                f"{self._record.command[0]}: {os.strerror(number)}",
                exit_code=127 if missing else 126,
                mend="check the command, and the image it should be in",
            )
        if self._events.failure:
            raise self._not_ready(f"the guest did not come up: {self._events.failure}", self._phase())

    def _ended(self) -> bool:
        return self._events.exit_code is not None or self._pid() is None or bool(self._events.failure)

    def _up(self) -> bool:
        """Whether the guest's init listens."""
        return Mark.INIT in self._events.seen

    def _exit_words(self) -> str:
        return f"exit code {self._events.exit_code}" if self._events.exit_code is not None else "with its VM"

    def _phase(self) -> Mark:
        order = (Mark.KERNEL, Mark.INIT, Mark.ENTRYPOINT)
        return next((mark for mark in order if mark not in self._events.seen), Mark.READY)

    def _not_ready(self, what: str, phase: Mark) -> NotReadyError:
        tail = _tail(self._record.directory / "console.log")
        if phase is Mark.READY:
            code, text = self._events.probe or (None, "")
            tail = f"healthcheck: exit code {code}: {text}" if code is not None else _tail(self.logs()[1])
        return NotReadyError(f"{self._record.name}: {what}", phase=phase.value, tail=tail)

    def _serve(self, done: Callable[[], bool], timeout: float | None, awaited: Mark) -> None:
        """Pass streams on and read events until `done`; NotReadyError when `timeout` seconds are over.

        Woken by inotify on the files that QEMU writes, by QEMU's end, and by the streams.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._wakeups() as wakeups:
            while True:
                self._events.read()
                for stream in self._streams:
                    stream.copy()
                if done():
                    return
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    phase = self._phase() if awaited is not Mark.STOP else Mark.STOP
                    raise self._not_ready(f"the phase {phase} did not end within {timeout:g} s", phase)
                wakeups.wait(self._feed if self._up() else None, left)

    @contextlib.contextmanager
    def _wakeups(self) -> Iterator[Wakeups]:
        wakeups = Wakeups([self._record.directory / "events", *self.logs()], self._pid())
        try:
            yield wakeups
        finally:
            wakeups.close()

    # ---- talk ----------------------------------------------------------------------------

    def signal(self, number: int) -> None:
        self._say(f"signal {int(number)}")

    def _say(self, line: str) -> None:
        """Tell the guest's init something, which must be up (mark INIT), and return when it has heard it.

        A connection lasts for one line, so any process may speak, and any thread.
        """
        with (
            self._speaking,
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as control,
        ):
            control.settimeout(SPEECH)
            control.connect(str(self._run / "control"))
            control.sendall(line.encode() + b"\n")
            control.recv(1)

    def stop(self, timeout: float) -> int | None:
        self._events.read()
        if self.status().state is not State.RUNNING:
            return self.status().exit_code
        self._marks.stamp(Mark.STOPPING)
        deadline = time.monotonic() + timeout
        try:
            self._serve(lambda: self._up() or self._ended(), timeout, Mark.STOP)
            self.signal(self._record.stop_signal)
            self._serve(self._ended, max(0.0, deadline - time.monotonic()), Mark.STOP)
        except NotReadyError:
            self._save(exit_code=KILLED)
        self._marks.stamp(Mark.STOP)
        self._kill()
        if self._events.exit_code is not None:
            self._save(exit_code=self._events.exit_code)
        self._forget_run()
        return self.status().exit_code

    # ---- look ----------------------------------------------------------------------------

    def status(self) -> Status:
        self._events.read()
        pid = self._pid()
        code = self._events.exit_code if self._events.exit_code is not None else self._record.engine.get("exit_code")
        if pid is not None and self._events.exit_code is None:
            return Status(State.RUNNING, pid=pid)
        if "root" not in self._record.engine:
            return Status(State.CREATED)
        return Status(State.EXITED, exit_code=code)

    def _pid(self) -> int | None:
        """QEMU's pid while it is the process that was recorded, else None."""
        engine = self._record.engine
        pid = engine.get("pid")
        if not isinstance(pid, int) or engine.get("boot_id") != _boot_id():
            return None
        return pid if start_time(pid) == engine.get("started") else None

    def usage(self) -> Usage:
        pid = self._pid()
        if pid is None:
            raise InstanceError(f"{self._record.name} is not running", mend=f"hybrid ps -a shows {self._record.name}")
        pss, private = memory([pid])
        return Usage(
            cpu_seconds=cpu_seconds(pid) + self._launch_cpu,
            pss_bytes=pss,
            private_bytes=private,
            processes=1,
            disk_bytes=disk_bytes(self._record.directory),
        )

    def evidence(self) -> Evidence:
        from vm.evidence import from_guest

        pid = self._pid()
        self._events.forget_evidence()
        self._say("evidence")
        self._serve(lambda: self._events.evidence_complete or self._ended(), 30, Mark.STOP)
        return from_guest(self._events.evidence, pid)

    # ---- end -----------------------------------------------------------------------------

    def destroy(self) -> None:
        with contextlib.ExitStack() as steps:  # run last to first; one that fails stops none
            steps.callback(self._marks.stamp, Mark.GONE)
            steps.callback(_remove_directory, self._record.directory)
            steps.callback(self._forget_run)
            steps.callback(Cgroup(self._record.id).remove)
            steps.callback(self._kill)
            for stream in self._streams:
                steps.callback(stream.close)
            if self._feed is not None:
                steps.callback(self._feed.close)
            self._streams, self._feed = [], None

    def _kill(self) -> None:
        """End QEMU, also one that was started but never recorded, and return when it has gone."""
        pids = {pid for pid in (self._pid(), guest.find_qemu(self._record.id)) if pid is not None}
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                handle = os.pidfd_open(pid)
                send_signal(pid, start_time(pid), signal.SIGKILL)
                select.select([handle], [], [], 10)
                os.close(handle)

    def _forget_run(self) -> None:
        shutil.rmtree(self._run, ignore_errors=True)
        root = self._record.engine.get("root")
        if isinstance(root, str) and Path(root).parent == self._home.run:
            from vm.connection import forget

            forget(Path(root), guest.domain_name(self._record.id))


def _own_cpu() -> float:
    """CPU seconds of this thread and of the children that were waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.thread_time() + children.ru_utime + children.ru_stime


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _tail(path: Path, size: int = 2000) -> str:
    """The end of a log as printable text."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - size))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "".join(character if character.isprintable() or character == "\n" else "" for character in text).strip()


def _remove_directory(directory: Path) -> None:
    """Hide the directory first, so that no half-removed instance is ever listed."""
    hidden = directory.with_name(f".{directory.name}.gone-{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        directory.rename(hidden)
        shutil.rmtree(hidden)
