"""One run of a command that is a process of this host: who it is, whether it lives, how it ended.

What runs is known by pid, start time and boot, never by pid alone. The exit code is seen by whoever is the
command's parent: this process when it started the command attached, else a monitor that leaves a file.
"""

from __future__ import annotations

import contextlib
import os
import stat
from abc import ABC, abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import Any

from hybrid import cgroups, evidence, process
from hybrid.driver import Stdio
from hybrid.errors import HybridError
from hybrid.marks import Marks
from hybrid.store import Record

MONITOR_PATIENCE = 5.0
"""Seconds that a monitor may take to note an exit code."""

OF_A_RUN = frozenset(
    {
        *("starting", "boot", "pid", "started", "monitor_pid", "monitor_started", "launch_cpu", "exit_code"),
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

    @abstractmethod
    def _exit_file(self) -> Path:
        """Where the monitor of a detached instance leaves the exit code."""

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
        return command is None or wait_end(*command, timeout)

    def _open_command(self) -> int:
        """A descriptor, to be closed, that can be read once the command has ended."""
        if (command := self._command()) is not None:
            with contextlib.suppress(ProcessLookupError):
                return os.pidfd_open(command[0])
        return os.eventfd(1)

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
        if wait_end(*monitor, MONITOR_PATIENCE):
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
