"""What is true now of an instance: seen in /proc, in its control group and in its monitor's log."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from container.run import Run
from hybrid import accounting, evidence, freezer, usage
from hybrid.driver import Evidence, Health, LogPart, State, Stats, Status, Usage
from hybrid.errors import HybridError, InstanceError

_TAIL = 2000


class View(Run):
    """The part of `hybrid.driver.Instance` that looks and changes nothing."""

    def status(self) -> Status:
        self.refresh()
        if self._record.engine.get("starting"):
            self._adopt()
        engine, command = self._record.engine, self._command()
        began = engine.get("began")
        if command is not None and not self._ended(0):
            state = State.PAUSED if freezer.is_frozen(self.cgroup) else State.RUNNING
            killed = accounting.oom_killed(self.cgroup)
            return Status(state, pid=command[0], started=began, oom_killed=killed, health=self._health())
        if "boot" not in engine or (command is None and "pid" not in engine and self._being_started()):
            return Status(State.CREATED)
        code = self._collect()
        engine = self._record.engine
        return Status(
            State.EXITED,
            exit_code=code,
            started=began,
            finished=engine.get("ended"),
            oom_killed=bool(engine.get("oom_killed")),
        )

    def running_pid(self) -> int | None:
        """The command's pid on the host, if it lives."""
        self.refresh()
        if self._record.engine.get("starting"):
            self._adopt()
        command = self._command()
        return None if command is None or self._ended(0) else command[0]

    def running_or_raise(self, *, paused: bool = False) -> int:
        """The command's pid on the host; InstanceError when it does not run, or is paused, unless that is allowed."""
        if (pid := self.running_pid()) is None:
            raise InstanceError(f"{self._record.name} is not running", mend=f"hybrid start {self._record.name}")
        if not paused and freezer.is_frozen(self.cgroup):
            raise InstanceError(f"{self._record.name} is paused", mend=f"hybrid unpause {self._record.name}")
        return pid

    def _health(self) -> Health | None:
        """What the healthcheck says; nothing while nobody follows it."""
        if self._living("health") is None:
            return None
        from hybrid import health

        return health.read(self.directory).status

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

    def stats(self) -> Stats:
        return accounting.stats(self.cgroup, self.running_or_raise(paused=True))

    def evidence(self) -> Evidence:
        if (command := self._command()) is None:
            raise InstanceError(f"{self._record.name} is not running")
        monitor = self._living("monitor")
        return evidence.of_process(command[0], {} if monitor is None else {"conmon": monitor[0]})

    def log(self, *, follow: bool = False) -> Iterator[LogPart]:
        from container import log

        self.refresh()
        if not follow or self._living("monitor") is None:
            if self._command() is None:
                self._see_monitor_end()
            yield from log.Reader(self.conmon.log).parts()
            return
        handle = self._open_command()
        try:
            yield from log.follow(self.conmon.log, handle, self._see_monitor_end)
        finally:
            os.close(handle)

    def _tail(self) -> str:
        """The end of what a detached command wrote last."""
        text = b""
        with contextlib.suppress(HybridError):
            for part in self.log():
                text = (text + part.data)[-_TAIL:]
        return text.decode(errors="replace").strip()

    def _open_command(self) -> int:
        """A descriptor, to be closed, that can be read once the command has ended."""
        engine = self._record.engine
        return self.open_process(engine.get("pid", -1), engine.get("started", -1))

    def _being_started(self) -> bool:
        """Whether a living process, not this one, is starting it."""
        starter = self._living("starter") if self._record.engine.get("starting") else None
        return starter is not None and starter[0] != os.getpid()
