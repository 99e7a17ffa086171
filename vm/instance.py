"""One virtual machine, through its life: start, serve, stop, destroy."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import resource
import select
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from hybrid import network
from hybrid.cgroups import Cgroup, join
from hybrid.driver import Evidence, Health, Inside, Kind, LogPart, Size, State, Stats, Status, Stdio, Usage
from hybrid.errors import CommandError, HybridError, InstanceError, NotReadyError
from hybrid.home import Home
from hybrid.marks import Mark, Marks
from hybrid.network.model import Guest
from hybrid.process import send_signal, start_time
from hybrid.store import Record, discard, locked
from hybrid.usage import cpu_seconds, disk_bytes, memory
from hybrid.volumes import from_record
from vm import accounting, domain, guest, log, paused, shares
from vm.control import Control
from vm.events import Events
from vm.streams import Feed, Follow, Wakeups

KILLED = 128 + signal.SIGKILL
ENTERING = 120.0
"""Seconds within which a guest that is being started must execute its command."""

LISTENING = 60.0
"""Seconds after which a follower of the log looks again, should an event be lost."""


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
        self._told = ""
        """The names that the guest was started with, until it is known to have the latest."""
        self._control = Control(self._run / "control")
        self._size: Size | None = None
        """Of the command's terminal, to be told once the guest is up."""

    @property
    def record(self) -> Record:
        return self._record

    @property
    def marks(self) -> Marks:
        return self._marks

    @property
    def home(self) -> Home:
        return self._home

    @property
    def _run(self) -> Path:
        return self._home.run / self._record.id

    def logs(self) -> tuple[Path, Path]:
        return self._record.directory / "stdout.log", self._record.directory / "stderr.log"

    # ---- start ---------------------------------------------------------------------------

    def start(self, stdio: Stdio | None) -> None:
        with locked(self._record.directory / "lock"):
            if self.status().state in (State.RUNNING, State.PAUSED):
                raise InstanceError(f"{self._record.name} is running", mend=f"hybrid stop {self._record.name}")
            self._kill()  # a VM that was up for its files only, and whose owner was killed
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

        wanted = guest.load_process(self._record.directory).stdin_open
        has_stdin = wanted if stdio is None else stdio.stdin >= 0
        join()
        connection = connect(self._home, self._record.engine.get("uri"))
        joined = network.attach(self._record, Guest(connection.qemu_uid(), self._run / "control"))
        self._told = joined.hosts
        machine = guest.write_files(self._home, self._record, self._run, joined, has_stdin=has_stdin)
        machine = connection.adapt(machine)
        starts = [path.stat().st_size for path in log.files(self._record.directory)]
        self._save(
            root=None if connection.root is None else str(connection.root),
            exit_code=None,
            finished=None,
            oom_killed=False,
        )
        self._events = Events(machine.events, self._marks)
        if machine.share is not None:
            self._serve_shares(machine.share, connection.qemu_uid())
        pid = connection.start(machine.name, domain.xml(machine))
        self._marks.stamp(Mark.SPAWN)
        machine.initrd.unlink()  # QEMU has read it
        self._save(pid=pid, started=start_time(pid), boot_id=_boot_id(), began=time.time())
        self._enter_cgroup(pid)
        if stdio is not None:
            self._follow(stdio, starts)
            if has_stdin:
                self._feed = Feed(stdio.stdin, self._run / "stdin", lambda total: self._control.say(f"eof {total}"))

    def _follow(self, stdio: Stdio, starts: Sequence[int]) -> None:
        """Join streams to what the command writes from there on."""
        out, err = log.files(self._record.directory)
        self._streams = [Follow(out, stdio.stdout, starts[0]), Follow(err, stdio.stderr, starts[1])]

    def attach(self, stdio: Stdio) -> None:
        if self.status().state not in (State.RUNNING, State.PAUSED):
            raise InstanceError(f"{self._record.name} is not running", mend=f"hybrid start {self._record.name}")
        self._follow(stdio, [path.stat().st_size for path in log.files(self._record.directory)])
        if stdio.stdin < 0 or not guest.load_process(self._record.directory).stdin_open:
            return
        self._serve(lambda: self._up() or self._ended(), ENTERING, Mark.STOP)
        before = self._control.ask("input")
        base = int(before) if before.isdigit() else 0
        try:
            self._feed = Feed(stdio.stdin, self._run / "stdin", lambda total: self._control.say(f"eof {base + total}"))
        except OSError:
            raise InstanceError(f"{self._record.name} has ended") from None

    def _serve_shares(self, path: Path, owner: int) -> None:
        record = self._record
        shares.serve(record.directory, path, record.id, from_record(record.engine, None), owner)

    def _enter_cgroup(self, pid: int) -> None:
        cgroup = Cgroup(self._record.id)
        cgroup.create()
        cgroup.add(pid)
        cpus = self._record.engine.get("cpus")
        if cpus is not None and (cgroup.tree.usable or cpus != int(cpus)):  # it has no more CPUs than that anyway
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
        if self._told:
            network.refresh(self._record, self._told)
            self._told = ""

    def wait_ready(self, timeout: float) -> None:
        self.wait_entrypoint(timeout)
        if not self._record.engine.get("probed"):
            self._marks.stamp(Mark.READY, self._marks.get(Mark.ENTRYPOINT))
            return
        self._serve(self._has_health, timeout, Mark.READY)
        if Mark.READY not in self._events.seen and self._events.health is Health.UNHEALTHY and not self._ended():
            raise self._not_ready("the healthcheck failed as often as it may", Mark.READY)
        if Mark.READY not in self._events.seen:
            raise self._not_ready(f"the command ended ({self._exit_words()}) before it was healthy", Mark.READY)

    def _has_health(self) -> bool:
        return Mark.READY in self._events.seen or self._events.health is Health.UNHEALTHY or self._ended()

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
            code, text = self._events.probes[-1] if self._events.probes else (None, "")
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
                if self._size is not None and self._up():
                    size, self._size = self._size, None
                    self.resize(size)
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
        pid = self._pid()
        if pid is not None and paused.is_paused(pid):
            if number != signal.SIGKILL:
                raise InstanceError(f"{self._record.name} is paused", mend=f"hybrid unpause {self._record.name}")
            paused.resume(pid)
        self._control.say(f"signal {int(number)}")

    def resize(self, size: Size) -> None:
        if self._up():
            self._control.say(f"resize {size.rows} {size.columns}")
        else:
            self._size = size

    def pause(self) -> None:
        if self.status().state is not State.RUNNING or (pid := self._pid()) is None:
            raise InstanceError(f"{self._record.name} is {self.status().state}", mend="it must be running")
        paused.pause(pid)

    def unpause(self) -> None:
        if self.status().state is not State.PAUSED or (pid := self._pid()) is None:
            raise InstanceError(f"{self._record.name} is not paused", mend="hybrid ps shows what is")
        paused.resume(pid)

    def stop(self, timeout: float) -> int | None:
        self._events.read()
        if self.status().state not in (State.RUNNING, State.PAUSED):
            return self.status().exit_code
        if (pid := self._pid()) is not None:
            paused.resume(pid)
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
        pid, began = self._pid(), self._record.engine.get("began")
        code = self._events.exit_code if self._events.exit_code is not None else self._record.engine.get("exit_code")
        if pid is not None and self._events.exit_code is None:
            state = State.PAUSED if paused.is_paused(pid) else State.RUNNING
            return Status(state, pid=pid, started=began, oom_killed=self._events.oom_killed, health=self._health())
        if "root" not in self._record.engine:
            return Status(State.CREATED)
        return Status(
            State.EXITED,
            exit_code=code,
            started=began,
            finished=_last_change(self._record.directory),
            oom_killed=self._events.oom_killed,
        )

    def _health(self) -> Health | None:
        """What the guest's init says; nothing yet is that the instance is starting."""
        return (self._events.health or Health.STARTING) if self._record.engine.get("probed") else None

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
        pids = {pid, *Cgroup(self._record.id).pids()}  # what serves its shares is in the group too
        pss, private = memory(pids)
        return Usage(
            cpu_seconds=sum(map(cpu_seconds, pids)) + self._launch_cpu,
            pss_bytes=pss,
            private_bytes=private,
            processes=len(pids),
            disk_bytes=disk_bytes(self._record.directory),
        )

    def stats(self) -> Stats:
        if (pid := self._pid()) is None:
            raise InstanceError(f"{self._record.name} is not running", mend=f"hybrid start {self._record.name}")
        return accounting.of_vm(self._record, pid)

    def log(self, *, follow: bool = False) -> Iterator[LogPart]:
        if not follow:
            return log.Reader(self._record.directory).read()
        return log.follow(self._record.directory, self._log_grows)

    def _log_grows(self) -> bool:
        """Wait for news of the command's output; false when there will be none."""
        self._record = Record.load(self._record.directory)
        self._events.read()
        if self._ended():
            return False
        with self._wakeups() as wakeups:
            wakeups.wait(None, LISTENING)
        return True

    def evidence(self) -> Evidence:
        from vm.evidence import from_guest

        pid = self._pid()
        self._events.forget_evidence()
        self._control.say("evidence")
        self._serve(lambda: self._events.evidence_complete or self._ended(), 30, Mark.STOP)
        return from_guest(self._events.evidence, pid)

    # ---- inside --------------------------------------------------------------------------

    @property
    def inside(self) -> Inside:
        from vm.access import VmInside

        return VmInside(self._record.directory, self._run, self._check_enterable, self._guest_up)

    @contextlib.contextmanager
    def _guest_up(self) -> Iterator[None]:
        """Have a guest that can be entered within the block, whether the command runs or not."""
        from vm.visit import visit

        if self._now().status().state in (State.RUNNING, State.PAUSED):
            self._check_enterable()
            yield
            return
        with locked(self._record.directory / "lock"):  # it cannot start meanwhile: a disk is used once
            if self._now().status().state is State.RUNNING:
                self._check_enterable()
                yield
            else:
                with visit(self):
                    yield

    def _now(self) -> VmInstance:
        """The instance as its record has it now, apart from this one, which may be serving streams."""
        return VmInstance(self._home, Record.load(self._record.directory))

    def _check_enterable(self) -> None:
        """Return once the command is executed. InstanceError unless the instance runs."""
        other = self._now()
        state = other.status().state
        if state is not State.RUNNING:
            raise InstanceError(f"{self._record.name} is {state}", mend="it must be running")
        other.wait_entrypoint(ENTERING)

    # ---- end -----------------------------------------------------------------------------

    def destroy(self) -> None:
        with contextlib.ExitStack() as steps:  # run last to first; one that fails stops none
            steps.callback(self._marks.stamp, Mark.GONE)
            steps.callback(_remove, self._record.directory)
            steps.callback(self._forget_run)
            steps.callback(Cgroup(self._record.id).remove)
            steps.callback(Cgroup(self._record.id).kill)
            steps.callback(self._kill)
            for stream in self._streams:
                steps.callback(stream.close)
            if self._feed is not None:
                steps.callback(self._feed.close)
            self._streams, self._feed = [], None

    def end(self) -> None:
        """End the VM and what libvirt keeps of it, whatever it is doing; the instance stays."""
        with contextlib.ExitStack() as steps:
            steps.callback(self._forget_run)
            steps.callback(Cgroup(self._record.id).remove)
            steps.callback(Cgroup(self._record.id).kill)
            steps.callback(self._kill)

    def _kill(self) -> None:
        """End QEMU, also one that was started but never recorded, and return when it has gone."""
        pids = {pid for pid in (self._pid(), guest.find_qemu(self._record.id)) if pid is not None}
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                handle = os.pidfd_open(pid)
                send_signal(pid, start_time(pid), signal.SIGKILL)
                select.select([handle], [], [], 10)
                os.close(handle)
        network.detach(self._record)

    def _forget_run(self) -> None:
        shutil.rmtree(self._run, ignore_errors=True)
        from vm.connection import forget

        forget(self._home, self._record.engine, guest.domain_name(self._record.id))


def _own_cpu() -> float:
    """CPU seconds of this thread and of the children that were waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.thread_time() + children.ru_utime + children.ru_stime


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _last_change(directory: Path) -> float | None:
    """When the guest was last heard of: an ended one says so."""
    with contextlib.suppress(OSError):
        return max(os.stat(directory / name).st_mtime for name in ("events", "console.log"))  # noqa: PTH116
    return None


def _tail(path: Path, size: int = 2000) -> str:
    """The end of a log as printable text."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - size))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "".join(character if character.isprintable() or character == "\n" else "" for character in text).strip()


def _remove(directory: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        discard(directory)
