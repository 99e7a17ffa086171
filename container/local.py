"""An instance whose command is a process that this host sees: what the kinds container and host share.

How its command is known, and how its exit code is found, is the story of `container.run`.
"""

from __future__ import annotations

import contextlib
import os
import time
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from container.checks import Checks
from container.leftovers import strays
from container.records import saved_process
from container.run import MONITOR_PATIENCE, OF_A_RUN, Run
from hybrid import evidence, health, process, usage
from hybrid.driver import Evidence, Health, Kind, State, Status, Stdio, Usage
from hybrid.errors import HybridError, InstanceError, NotReadyError
from hybrid.marks import Mark, Marks
from hybrid.store import Record, discard, locked

_TAIL = 2000


class LocalInstance(Run):
    """See `hybrid.driver.Instance`. A kind says how to launch, settle, probe and tear down."""

    kind: ClassVar[Kind]

    def __init__(self, record: Record, marks: Marks | None = None) -> None:
        super().__init__(record, marks)
        self._checks = Checks()

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
                if not self._record.engine.get("starting"):
                    self._follow_health()
            except BaseException:
                self._clear()
                raise

    def wait_entrypoint(self, timeout: float) -> None:
        if self._record.engine.get("starting"):
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
            return Status(State.RUNNING, pid=command[0], health=self._health())
        if "boot" not in self._record.engine:
            return Status(State.CREATED)
        return Status(State.EXITED, exit_code=self._collect())

    def _health(self) -> Health | None:
        """What the healthcheck says; nothing while nobody follows it."""
        return None if self._living("health") is None else health.read(self.directory).status

    def usage(self) -> Usage:
        pids = self.cgroup.pids()
        if not pids:
            raise InstanceError(f"{self._record.name} is not running")
        cpu = self.cgroup.cpu_seconds() + float(self._record.engine.get("launch_cpu", 0.0))
        helpers = [
            self._living("monitor"),
            self._living("health") if self._record.engine.get("health_monitor") else None,
        ]
        for monitor in filter(None, helpers):
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
                    _try(errors, lambda: discard(self.directory))
        except FileNotFoundError:  # removed by another process: what is left are children of this one
            _try(errors, self._clear)
        if errors:
            raise errors[0]
        self._marks.stamp(Mark.GONE)

    def _clear(self) -> None:
        """Kill what is left of a launch and undo it. Every step is tried; the first failure is raised."""
        errors: list[Exception] = []
        _try(errors, lambda: self._checks.end(self._record))
        _try(errors, self._kill_launcher)
        _try(errors, self._kill)
        _try(errors, self._forget)
        _try(errors, self.cgroup.remove)
        _try(errors, self._release)
        with contextlib.suppress(FileNotFoundError):
            self._exit_file().unlink()
        if errors:
            raise errors[0]
        engine = {k: v for k, v in self._record.engine.items() if k not in OF_A_RUN}
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
            self._ended(MONITOR_PATIENCE)
            self._collect()
        if (monitor := self._living("monitor")) is not None:
            process.send_signal(*monitor)
            self._see_end(monitor)

    def _tail(self) -> str:
        """The end of what a detached command wrote last."""
        for path in reversed(self.logs()):
            with contextlib.suppress(FileNotFoundError):
                if text := path.read_bytes()[-_TAIL:]:
                    return text.decode(errors="replace").strip()
        return ""


def _try(errors: list[Exception], step: Callable[[], object]) -> None:
    try:
        step()
    except (HybridError, OSError) as error:
        errors.append(error)
