"""The end of an instance: everything of a run killed and undone, from whatever process, however far it had come."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from container.leftovers import strays
from container.run import MONITOR_PATIENCE, OF_A_RUN
from container.view import View
from hybrid import process, usage
from hybrid.errors import HybridError
from hybrid.marks import Mark
from hybrid.store import discard

if TYPE_CHECKING:
    from container.checks import Checks


class Teardown(View):
    """The part of `hybrid.driver.Instance` that ends things."""

    @cached_property
    def _checks(self) -> Checks:
        """The healthcheck, as this process takes part in it."""
        from container.checks import Checks

        return Checks()

    @abstractmethod
    def _forget(self) -> None:
        """Undo what a launch did outside the instance's directory, when all its processes have ended."""

    def destroy(self) -> None:
        errors: list[Exception] = []
        try:
            with self._lock():
                self.refresh()
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
        for step in (self._kill_launcher, self._kill, self._forget, self.cgroup.remove, self._release):
            _try(errors, step)
        self._attached = False
        self.conmon.exit_file.unlink(missing_ok=True)
        for path in self.directory.glob("exec-*"):
            path.unlink(missing_ok=True)
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
            self._see_monitor_end()


def _try(errors: list[Exception], step: Callable[[], object]) -> None:
    try:
        step()
    except (HybridError, OSError) as error:
        errors.append(error)
