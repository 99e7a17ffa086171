"""One run of a command that is a process of this host: who it is, whether it lives, how it ended.

What runs is known by pid, start time and boot, never by pid alone. The exit code is seen by whoever is the
command's parent: this process when it started the command attached, else a monitor that leaves a file.

The record on disk is the truth between processes. It is changed under the instance's lock, and only for the
run that it tells of: who comes late changes nothing of a later run.
"""

from __future__ import annotations

import contextlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from container.conmon import Conmon
from container.streams import Lent
from hybrid import accounting, cgroups, evidence, process
from hybrid.errors import HybridError, InstanceError
from hybrid.marks import Marks
from hybrid.store import Record, locked, now

MONITOR_PATIENCE = 5.0
"""Seconds that a monitor, or whoever started a command attached, may take to note its exit code."""

OF_A_RUN = frozenset(
    {
        *("starting", "boot", "pid", "started", "monitor_pid", "monitor_started", "monitor_name", "launch_cpu"),
        *("starter_pid", "starter_started", "began", "ended", "exit_code", "oom_killed"),
        *("health_pid", "health_started", "health_monitor"),
    }
)
"""What the record tells of one run of the command."""


class Run(ABC):
    """The record of an instance, and what is known of the command's latest run."""

    def __init__(self, record: Record, marks: Marks | None = None) -> None:
        self._record = record
        self._marks = Marks() if marks is None else marks
        self._child: process.Child | None = None
        """The program launched, until it is reaped."""
        self._attached = False
        """Whether this process started the command that runs, attached."""
        self._lent: Lent | None = None
        self._holds = 0
        """How many blocks of this process are inside the lock."""

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

    @property
    def conmon(self) -> Conmon:
        """The monitor of a detached command."""
        return Conmon(self.directory, self._record.id)

    # ---- identities ----------------------------------------------------------------------

    def _command(self) -> tuple[int, int] | None:
        """Pid and start time of the living command."""
        return self._living("")

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
        return command is None or wait_end(*command, timeout)

    def _adopt(self) -> None:
        """Take note of a command whose launcher was killed before it could save its pid."""
        if self._child is None and "pid" not in self._record.engine:
            members = self.cgroup.pids()
            with contextlib.suppress(FileNotFoundError, ValueError):
                pid = int((self.directory / "pid").read_text())
                if pid in members:
                    self._note(pid=pid, started=process.start_time(pid))

    # ---- the end of a run ----------------------------------------------------------------

    def _collect(self) -> int | None:
        """The exit code of the command, which has ended, if anybody saw it; saved for the others."""
        engine = self._record.engine
        if "ended" not in engine and "pid" in engine:
            code = self._reaped(engine["pid"]) if self._attached else None
            self._after_end()
            code = self._noted() if code is None else code
            self._attached = False
            known = {} if code is None else {"exit_code": code}
            self._note(**known, ended=self._end_time(code is not None), oom_killed=accounting.oom_killed(self.cgroup))
            self._write(wait=False)
        code = self._record.engine.get("exit_code")
        return code if isinstance(code, int) else None

    def _end_time(self, seen: bool) -> float | None:
        """When the command ended: as its monitor noted, else now, if it was seen."""
        with contextlib.suppress(FileNotFoundError):
            return self.conmon.exit_file.stat().st_mtime
        return now() if seen else None

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

    def _see_monitor_end(self) -> None:
        """Wait for the monitor, which ends soon after its command: all is noted and logged then."""
        if (monitor := self._living("monitor")) is not None and wait_end(*monitor, MONITOR_PATIENCE):
            self._reaped(monitor[0])

    def _noted(self) -> int | None:
        """The exit code that a monitor, or the process that started the command, has left on disk."""
        self._see_monitor_end()
        with contextlib.suppress(FileNotFoundError, ValueError):
            return int(self.conmon.exit_file.read_text())
        if not self._attached and (starter := self._living("starter")) is not None and starter[0] != os.getpid():
            self._await_note(*starter)
        with contextlib.suppress(HybridError):
            saved = Record.load(self.directory).engine
            code = saved.get("exit_code") if saved.get("pid") == self._record.engine.get("pid") else None
            return code if isinstance(code, int) else None
        return None

    def _await_note(self, pid: int, started: int) -> None:
        """Wait for the living process that started the command attached to note how it ended."""
        from container.log import Watch

        handle = self.open_process(pid, started)
        try:
            with Watch(self.directory) as watch:
                if "ended" not in Record.load(self.directory).engine:
                    process.either(handle, watch.fileno(), timeout=MONITOR_PATIENCE)
        except (HybridError, OSError):
            return  # removed meanwhile
        finally:
            os.close(handle)

    def open_process(self, pid: int, started: int) -> int:
        """A descriptor, to be closed, that can be read once the process has ended."""
        with contextlib.suppress(ProcessLookupError):
            handle = os.pidfd_open(pid)
            if process.start_time(pid) == started:
                return handle
            os.close(handle)
        return os.eventfd(1)

    @abstractmethod
    def _after_end(self) -> None:
        """What is to be done once the command has ended."""

    # ---- the record ----------------------------------------------------------------------

    @contextlib.contextmanager
    def _lock(self, *, wait: bool = True) -> Iterator[None]:
        """Hold the instance's lock; blocks may be nested. BlockingIOError when another has it and `wait` is false.

        FileNotFoundError when the instance is gone.
        """
        with contextlib.ExitStack() as stack:
            if self._holds == 0:
                stack.enter_context(locked(self.directory / "lock", wait=wait))
            self._holds += 1
            try:
                yield
            finally:
                self._holds -= 1

    def refresh(self) -> None:
        """Take up what other processes have saved, unless the run is this process's own."""
        if self._child is None and not self._attached:
            with contextlib.suppress(InstanceError):
                self._record = Record.load(self.directory)

    def _note(self, **engine: Any) -> None:
        """Change what is known of the run, not yet on disk."""
        self._record = replace(self._record, engine={**self._record.engine, **engine})

    def _save(self, **engine: Any) -> None:
        """Change what is saved of the run; without effect on disk when the instance was removed meanwhile."""
        self._note(**engine)
        self._write()

    def _write(self, *, wait: bool = True, begins: bool = False) -> None:
        """Save the record, under the name that it has by now, unless another run has begun.

        Without `wait` it is left to others when one of them has the lock. `begins`: with it begins a new run.
        """
        with contextlib.suppress(FileNotFoundError, BlockingIOError, InstanceError), self._lock(wait=wait):
            saved = Record.load(self.directory)
            if begins or saved.engine.get("run") == self._record.engine.get("run"):
                self._record = replace(self._record, name=saved.name)
                self._record.save()

    def _release(self) -> None:
        """Give up what this process holds of a run: the caller's files go back to their owners."""
        if self._lent is not None:
            self._lent.give_back()
            self._lent = None


def wait_end(pid: int, started: int, timeout: float | None) -> bool:
    """Whether the process that started at `started` has ended, after at most `timeout` seconds."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return process.start_time(pid) != started or process.ended(handle, timeout)
    finally:
        os.close(handle)
