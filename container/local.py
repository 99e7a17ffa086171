"""An instance whose command is a process that this host sees: what the kinds container and host share.

How its command is known, and how its exit code is found, is the story of `container.run`.
"""

from __future__ import annotations

import contextlib
import os
import time
from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from signal import SIGKILL
from typing import TYPE_CHECKING, ClassVar, TypeVar

from container.records import saved_process
from container.streams import Lent
from container.teardown import Teardown
from hybrid import evidence, freezer, process
from hybrid.driver import Inside, Kind, Size, State, Stdio
from hybrid.errors import HybridError, InstanceError, NotReadyError
from hybrid.marks import Mark, Marks
from hybrid.store import Record, new_id, now

if TYPE_CHECKING:
    from container.attach import Attachment
    from container.terminal import Terminal

T = TypeVar("T")


class LocalInstance(Teardown):
    """See `hybrid.driver.Instance`. A kind says how to launch, settle, probe and tear down."""

    kind: ClassVar[Kind]

    def __init__(self, record: Record, marks: Marks | None = None) -> None:
        super().__init__(record, marks)
        self._server: Terminal | Attachment | None = None
        """What passes bytes between the caller's streams and the command while it is waited for."""
        self._size: Size | None = None
        """A size asked for before the terminal was there."""

    # ---- what a kind does in its own way -------------------------------------------------

    @abstractmethod
    def _launch(self, stdio: Stdio | None) -> None:
        """Launch the command (mark SPAWN): attached into `self._child`; detached to its end, as `_settle` does."""

    @abstractmethod
    def _settle(self, timeout: float | None) -> None:
        """Return once the launched command is executed (mark ENTRYPOINT) and its pid saved."""

    @abstractmethod
    def _probe(self, argv: Sequence[str]) -> Sequence[str]:
        """The program, with its arguments, that executes a probe's command inside the running instance."""

    @abstractmethod
    def _gave_up(self) -> HybridError:
        """Why the command could not be made; what is left of the attempt is removed."""

    @abstractmethod
    def in_mounted_root(self, work: Callable[[Path], T]) -> T:
        """The result of `work`, done where the root filesystem of the stopped instance is mounted."""

    @property
    @abstractmethod
    def inside(self) -> Inside: ...

    # ---- the command's life --------------------------------------------------------------

    def start(self, stdio: Stdio | None) -> None:
        with self._lock():
            self.refresh()
            if self.status().state in (State.RUNNING, State.PAUSED) or self._being_started():
                raise InstanceError(f"{self._record.name} is running", mend=f"hybrid stop {self._record.name}")
            try:
                if "boot" in self._record.engine:
                    self._clear()
                self._note(starting=True, run=new_id(), boot=evidence.boot_id(), began=now())
                self._note(starter_pid=os.getpid(), starter_started=process.start_time(os.getpid()))
                self._write(begins=True)
                self._attached = stdio is not None
                if stdio is not None:
                    self._lent = Lent(stdio)
                self._launch(stdio)
                if not self._record.engine.get("starting"):
                    self._follow_health()
            except BaseException:
                self._clear()
                raise

    def _monitored(self, runtime: Sequence[str]) -> tuple[int, float]:
        """Have a monitor make the detached command; the command's pid, and what making it took in CPU seconds."""
        what, conmon = saved_process(self._record), self.conmon
        if conmon.log.exists():  # a monitor that was killed may have left half a line
            from container.log import end

            os.truncate(conmon.log, end(conmon.log))
        self._child, told = conmon.launch(runtime, tty=what.tty, stdin=what.stdin_open)
        try:
            self._marks.stamp(Mark.SPAWN)
            cpu = self._finish()
            pid = conmon.told_pid(told)
        finally:
            os.close(told)
        if pid is None:
            raise self._gave_up()
        monitor = conmon.pid()
        self._note(monitor_pid=monitor, monitor_started=process.start_time(monitor), monitor_name="conmon")
        return pid, cpu

    def _finish(self) -> float:
        """The CPU seconds of the program launched, once it has ended well; its failure if it has not."""
        assert self._child is not None
        child = self._child
        cpu = process.reap(child)
        self._child = None
        if child.returncode != 0:
            raise self._gave_up()
        return cpu

    def wait_entrypoint(self, timeout: float) -> None:
        self.refresh()
        if self._record.engine.get("starting") and (self._child is not None or self._attached):
            self._settle(timeout)
            self._follow_health()
        elif self.status().state is State.CREATED:
            raise InstanceError(f"{self._record.name} was not started", mend=f"hybrid start {self._record.name}")

    def wait_ready(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        self.wait_entrypoint(timeout)
        check = saved_process(self._record).healthcheck
        if check is None:
            self._marks.stamp(Mark.READY, self._marks.get(Mark.ENTRYPOINT))
            return
        from hybrid import health

        if self._living("health") is None:  # it was killed, or never started
            self._follow_health()
        handle = self._open_command()
        try:
            passed = health.wait_healthy(self.directory, handle, deadline - time.monotonic())
        except NotReadyError as error:
            error.tail = error.tail or self._tail()
            raise
        finally:
            os.close(handle)
        self._marks.stamp(Mark.READY, passed)

    def _follow_health(self) -> None:
        """Have the healthcheck of the executed command followed, if it has one."""
        known = self._checks.begin(self._record, self._marks, self._probe, attached=self._attached)
        if known:
            self._save(**known)

    def wait(self, timeout: float | None = None) -> int:
        self.refresh()
        self._settled(timeout)
        if not self._served(timeout):
            raise NotReadyError(f"{self._record.name} did not end within {timeout:g} s", phase="stop")
        self._marks.stamp(Mark.STOP)
        self._serve(None)
        if (code := self._collect()) is None:
            raise InstanceError(f"nobody saw the exit code of {self._record.name}")
        return code

    def _settled(self, timeout: float | None) -> None:
        if self._record.engine.get("starting") and self._child is not None:
            self._settle(timeout)

    def _served(self, timeout: float | None) -> bool:
        """Whether the command has ended; its streams are served meanwhile, for at most `timeout` seconds."""
        if self._server is None:
            return self._ended(timeout)
        handle = self._open_command()
        try:
            return self._server.serve(handle, timeout)
        finally:
            os.close(handle)

    def attach(self, stdio: Stdio) -> None:
        from container.attach import Attachment

        self.running_or_raise(paused=True)
        if self._living("monitor") is None:
            raise InstanceError(f"{self._record.name} was not started detached: its streams are another's")
        what = saved_process(self._record)
        self._serve(Attachment(self.conmon, stdio, self._see_monitor_end, feed=what.stdin_open, tty=what.tty))

    def _serve(self, server: Terminal | Attachment | None) -> None:
        if self._server is not None:
            self._server.close()
        self._server = server

    def _join_terminal(self, master: int, stdio: Stdio) -> None:
        """Serve the terminal of an attached command."""
        from container.terminal import Terminal

        terminal = Terminal(master, stdio)
        if self._size is not None:
            terminal.resize(self._size)
        self._serve(terminal)

    def resize(self, size: Size) -> None:
        from container.terminal import Terminal

        self._size = size
        if isinstance(self._server, Terminal):
            self._server.resize(size)
        elif saved_process(self._record).tty and self._living("monitor") is not None:
            self.conmon.resize(size.rows, size.columns)

    def signal(self, number: int) -> None:
        self.refresh()
        self._settled(None)
        if (command := self._command()) is not None:
            process.send_signal(*command, number)
            if number == SIGKILL:
                freezer.thaw(self.cgroup)

    def pause(self) -> None:
        with self._lock():
            self.running_or_raise()
            freezer.freeze(self.cgroup)

    def unpause(self) -> None:
        with self._lock():
            if self.status().state is not State.PAUSED:
                raise InstanceError(f"{self._record.name} is not paused")
            freezer.thaw(self.cgroup)

    def stop(self, timeout: float) -> int | None:
        with contextlib.suppress(HybridError):
            self._settled(timeout)
        with contextlib.suppress(FileNotFoundError), self._lock():  # whoever is starting it comes first
            if self._being_started():
                self._clear()
        if self.status().state in (State.RUNNING, State.PAUSED):
            self._marks.stamp(Mark.STOPPING)
            freezer.thaw(self.cgroup)
            self.signal(self._record.stop_signal)
            if not self._ended(timeout):
                self._kill()
            self._marks.stamp(Mark.STOP)
        return self._collect() if "pid" in self._record.engine else None

    def _release(self) -> None:
        super()._release()
        self._serve(None)

    def _after_end(self) -> None:
        """The caller's files go back; a terminal is kept, for there may be output in it."""
        super()._release()
