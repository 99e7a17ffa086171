"""An instance whose command is a process that this host sees: what the kinds container and host share.

What runs is known by pid, start time and boot, never by pid alone. The exit code is seen by whoever is the
command's parent: this process when it started the command attached, else a monitor that leaves a file.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from container.leftovers import remove_directory, strays
from container.records import saved_process
from hybrid import cgroups, evidence, health, process, usage
from hybrid.driver import Evidence, Kind, State, Status, Stdio, Usage
from hybrid.errors import HybridError, InstanceError, NotReadyError
from hybrid.marks import Mark, Marks
from hybrid.store import Record, locked

_MONITOR_PATIENCE = 5.0
"""Seconds that a monitor may take to note an exit code."""
_TAIL = 2000


class LocalInstance(ABC):
    """See `hybrid.driver.Instance`. A kind says how to launch, settle, probe and tear down."""

    kind: ClassVar[Kind]

    def __init__(self, record: Record, marks: Marks | None = None) -> None:
        self._record = record
        self._marks = Marks() if marks is None else marks
        self._child: process.Child | None = None
        """The program launched, until it is reaped."""
        self._attached = False
        self._borrowed: list[tuple[int, int, int]] = []
        """Files that the command writes to: own descriptor, owner and group before it started."""

    @property
    def record(self) -> Record:
        return self._record

    @property
    def marks(self) -> Marks:
        return self._marks

    @property
    def directory(self) -> Path:
        return self._record.directory

    @property
    def cgroup(self) -> cgroups.Cgroup:
        return cgroups.Cgroup(self._record.id)

    # ---- what a kind does in its own way -------------------------------------------------

    @abstractmethod
    def _launch(self, stdio: Stdio | None) -> None:
        """Launch the command (mark SPAWN): attached into `self._child`; detached to its end, as `_settle` does."""

    @abstractmethod
    def _settle(self, timeout: float | None) -> None:
        """Return once the launched command is executed (mark ENTRYPOINT) and its pid saved."""

    @abstractmethod
    def _probe(self, argv: Sequence[str], timeout: float) -> health.Outcome:
        """Execute a command inside the running instance."""

    @abstractmethod
    def _exit_file(self) -> Path:
        """Where the monitor of a detached instance leaves the exit code."""

    @abstractmethod
    def _forget(self) -> None:
        """Undo what a launch did outside the instance's directory, when all its processes have ended."""

    # ---- the command's life --------------------------------------------------------------

    def start(self, stdio: Stdio | None) -> None:
        with locked(self.directory / "lock"):
            if self.status().state is State.RUNNING:
                raise InstanceError(f"{self._record.name} is running", mend=f"hybrid stop {self._record.name}")
            try:
                if "boot" in self._record.engine:
                    self._clear()
                self._save(starting=True, boot=evidence.boot_id())
                self._attached = stdio is not None
                if stdio is not None:
                    self._borrow(stdio)
                self._launch(stdio)
            except BaseException:
                self._clear()
                raise

    def wait_entrypoint(self, timeout: float) -> None:
        if self._record.engine.get("starting"):
            self._settle(timeout)
        elif self.status().state is State.CREATED:
            raise InstanceError(f"{self._record.name} was not started", mend=f"hybrid start {self._record.name}")

    def wait_ready(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        self.wait_entrypoint(timeout)
        check = saved_process(self._record).healthcheck
        if check is None:
            self._marks.stamp(Mark.READY, self._marks.get(Mark.ENTRYPOINT))
            return
        try:
            health.wait_healthy(check, self._probe, self._ended, deadline - time.monotonic())
        except NotReadyError as error:
            error.tail = error.tail or self._tail()
            raise
        self._marks.stamp(Mark.READY)

    def wait(self, timeout: float | None = None) -> int:
        self._settled(timeout)
        if not self._ended(timeout):
            raise NotReadyError(f"{self._record.name} did not end within {timeout:g} s", phase="stop")
        self._marks.stamp(Mark.STOP)
        if (code := self._collect()) is None:
            raise InstanceError(f"nobody saw the exit code of {self._record.name}")
        return code

    def signal(self, number: int) -> None:
        self._settled(None)
        if (command := self._command()) is not None:
            process.send_signal(*command, number)

    def stop(self, timeout: float) -> int | None:
        with contextlib.suppress(HybridError):
            self._settled(timeout)
        if self.status().state is State.RUNNING:
            self._marks.stamp(Mark.STOPPING)
            self.signal(self._record.stop_signal)
            if not self._ended(timeout):
                self._kill()
            self._marks.stamp(Mark.STOP)
        return self._collect() if "pid" in self._record.engine else None

    # ---- what is true now ----------------------------------------------------------------

    def status(self) -> Status:
        if self._record.engine.get("starting"):
            self._adopt()
        command = self._command()
        if command is not None and not self._ended(0):
            return Status(State.RUNNING, pid=command[0])
        if "boot" not in self._record.engine:
            return Status(State.CREATED)
        return Status(State.EXITED, exit_code=self._collect())

    def usage(self) -> Usage:
        pids = self.cgroup.pids()
        if not pids:
            raise InstanceError(f"{self._record.name} is not running")
        monitor = self._living("monitor")
        cpu = self.cgroup.cpu_seconds() + float(self._record.engine.get("launch_cpu", 0.0))
        if monitor is not None:
            pids.add(monitor[0])
            cpu += usage.cpu_seconds(monitor[0]) + usage.children_cpu_seconds(monitor[0])
        pss, private = usage.memory(pids)
        return Usage(cpu, pss, private, len(pids), usage.disk_bytes(self.directory))

    def evidence(self) -> Evidence:
        if (command := self._command()) is None:
            raise InstanceError(f"{self._record.name} is not running")
        monitor = self._living("monitor")
        return evidence.of_process(command[0], {} if monitor is None else {self._monitor_name: monitor[0]})

    def logs(self) -> tuple[Path, Path]:
        return self.directory / "stdout.log", self.directory / "stderr.log"

    # ---- the end -------------------------------------------------------------------------

    def destroy(self) -> None:
        errors: list[Exception] = []
        try:
            with locked(self.directory / "lock"):
                _try(errors, self._clear)
                # The directory is how the next attempt finds what could not be removed by this one.
                if not errors and self.directory.exists():
                    _try(errors, lambda: remove_directory(self.directory))
        except FileNotFoundError:  # removed by another process: what is left are children of this one
            _try(errors, self._clear)
        if errors:
            raise errors[0]
        self._marks.stamp(Mark.GONE)

    def _clear(self) -> None:
        """Kill what is left of a launch and undo it. Every step is tried; the first failure is raised."""
        errors: list[Exception] = []
        _try(errors, self._kill_launcher)
        _try(errors, self._kill)
        _try(errors, self._forget)
        _try(errors, self.cgroup.remove)
        _try(errors, self._release)
        with contextlib.suppress(FileNotFoundError):
            self._exit_file().unlink()
        if errors:
            raise errors[0]
        engine = {k: v for k, v in self._record.engine.items() if k not in _RUN}
        if engine != self._record.engine:
            self._record = replace(self._record, engine=engine)
            self._write()

    def _kill_launcher(self) -> None:
        """Kill a launch that has not come to its end, ours or that of a process that was killed."""
        if self._child is not None and self._child.pid != self._record.engine.get("pid"):
            process.bounded(self._child, 0)
            self._child = None
        if self._record.engine.get("starting"):
            for pid in strays(self._record):
                for each in (pid, *usage.descendants(pid)):
                    process.send_signal(each, process.start_time(each))

    def _kill(self) -> None:
        """End every process of the instance, and its monitor."""
        if (command := self._command()) is not None:
            process.send_signal(*command)
        self.cgroup.kill(spare=self._record.engine.get("pid"))
        if command is not None:
            self._ended(_MONITOR_PATIENCE)
            self._collect()
        if (monitor := self._living("monitor")) is not None:
            process.send_signal(*monitor)
            self._see_end(monitor)

    # ---- identities ----------------------------------------------------------------------

    def _command(self) -> tuple[int, int] | None:
        """Pid and start time of the living command."""
        return self._living("")

    @property
    def _monitor_name(self) -> str:
        return str(self._record.engine.get("monitor_name", "monitor"))

    def _living(self, who: str) -> tuple[int, int] | None:
        """The process saved as `who`, if it is still the same one."""
        engine = self._record.engine
        prefix = f"{who}_" if who else ""
        pid, started = engine.get(f"{prefix}pid"), engine.get(f"{prefix}started")
        if pid is None or started is None or engine.get("boot") != evidence.boot_id():
            return None
        return (pid, started) if process.start_time(pid) == started else None

    def _ended(self, timeout: float | None) -> bool:
        """Whether the command has ended, after waiting for that for at most `timeout` seconds."""
        command = self._command()
        return command is None or _wait_end(*command, timeout)

    def _settled(self, timeout: float | None) -> None:
        if self._record.engine.get("starting") and self._child is not None:
            self._settle(timeout)

    def _adopt(self) -> None:
        """Take note of a command whose launcher was killed before it could save its pid."""
        if self._child is None:
            members = self.cgroup.pids()
            with contextlib.suppress(FileNotFoundError, ValueError):
                pid = int((self.directory / "pid").read_text())
                if pid in members:
                    self._note(pid=pid, started=process.start_time(pid))

    def _collect(self) -> int | None:
        """The exit code of the command, which has ended, if anybody saw it; saved for the others."""
        engine = self._record.engine
        if "exit_code" not in engine and "pid" in engine:
            code = self._reaped(engine["pid"]) if self._attached else None
            code = self._noted() if code is None else code
            self._after_end()
            if code is not None:
                self._save(exit_code=code)
        code = self._record.engine.get("exit_code")
        return code if isinstance(code, int) else None

    def _reaped(self, pid: int) -> int | None:
        """The exit code of an ended process that is a child of ours, else None."""
        if self._child is not None and self._child.pid == pid:
            child, self._child = self._child, None
            process.reap(child)
            return child.returncode if child.returncode >= 0 else 128 - child.returncode
        try:
            return process.exit_code(os.waitpid(pid, 0)[1])
        except ChildProcessError:
            return None

    def _see_end(self, monitor: tuple[int, int]) -> None:
        """Wait for a monitor that is about to end."""
        if _wait_end(*monitor, _MONITOR_PATIENCE):
            self._reaped(monitor[0])

    def _noted(self) -> int | None:
        """The exit code that a monitor, or the process that started the command, has left on disk."""
        if (monitor := self._living("monitor")) is not None:
            self._see_end(monitor)
        with contextlib.suppress(FileNotFoundError, ValueError):
            return int(self._exit_file().read_text())
        with contextlib.suppress(HybridError):
            code = Record.load(self.directory).engine.get("exit_code")
            return code if isinstance(code, int) else None
        return None

    def _after_end(self) -> None:
        """What is to be done once the command has ended."""
        self._release()

    # ---- odds and ends -------------------------------------------------------------------

    def _note(self, **engine: Any) -> None:
        """Change what is known of the run, not yet on disk."""
        self._record = replace(self._record, engine={**self._record.engine, **engine})

    def _save(self, **engine: Any) -> None:
        """Change what is saved of the run; without effect on disk when the instance was removed meanwhile."""
        self._note(**engine)
        self._write()

    def _write(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._record.save()

    def _borrow(self, stdio: Stdio) -> None:
        """Remember who owns the files that the caller gave: runtimes give them to the container's root.

        A pipe is let alone: a copy of its descriptor would keep it open.
        """
        for descriptor in {stdio.stdin, stdio.stdout, stdio.stderr}:
            if descriptor >= 0 and stat.S_ISREG((status := os.fstat(descriptor)).st_mode):
                self._borrowed.append((os.dup(descriptor), status.st_uid, status.st_gid))

    def _release(self) -> None:
        """Give up what this process holds of a run: the caller's files go back to their owners."""
        while self._borrowed:
            descriptor, uid, gid = self._borrowed.pop()
            with contextlib.suppress(OSError):
                os.fchown(descriptor, uid, gid)
            os.close(descriptor)

    def _tail(self) -> str:
        """The end of what a detached command wrote last."""
        for path in reversed(self.logs()):
            with contextlib.suppress(FileNotFoundError):
                if text := path.read_bytes()[-_TAIL:]:
                    return text.decode(errors="replace").strip()
        return ""


_RUN = frozenset(("starting", "boot", "pid", "started", "monitor_pid", "monitor_started", "launch_cpu", "exit_code"))
"""What the record tells of one run of the command."""


def _try(errors: list[Exception], step: Callable[[], object]) -> None:
    try:
        step()
    except (HybridError, OSError) as error:
        errors.append(error)


def _wait_end(pid: int, started: int, timeout: float | None) -> bool:
    """Whether the process that started at `started` has ended, after at most `timeout` seconds."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return process.start_time(pid) != started or process.ended(handle, timeout)
    finally:
        os.close(handle)
