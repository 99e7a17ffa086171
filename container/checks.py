"""The healthcheck of a run of a local command: followed by this process when it is attached, else by a monitor."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from container.leftovers import strays
from container.records import saved_process
from container.runtime import in_view
from container.session import bury
from hybrid import cgroups, health, monitor, process
from hybrid.marks import Mark

if TYPE_CHECKING:
    from hybrid.image import Healthcheck
    from hybrid.marks import Marks
    from hybrid.store import Record

_PATIENCE = 5.0
"""Seconds that a monitor that was killed may take to end."""


class Checks:
    """The healthcheck of one instance, as this process takes part in it."""

    def __init__(self) -> None:
        self._follower: health.Follower | None = None

    def begin(
        self,
        record: Record,
        marks: Marks,
        probe: Callable[[Sequence[str]], Sequence[str]],
        *,
        attached: bool,
    ) -> dict[str, Any]:
        """Follow the healthcheck of a command that has been executed, if it has one; what the record is to keep.

        `probe` makes of a probe's command the one that executes it inside the instance.
        """
        if (check := saved_process(record).healthcheck) is None:
            return {}
        job = self._job(record, check, probe(check.test), marks.get(Mark.ENTRYPOINT) or time.monotonic_ns())
        view = partial(in_view, at=record.directory / "rootfs")
        if attached:
            with suppress(ProcessLookupError):  # it has ended already
                self._follower = health.Follower(job, check, view, bury)
            return _known(os.getpid(), monitor=False)
        child = view(lambda: health.launch(job, record.id))
        process.disown(child)
        return _known(child.pid, monitor=True)

    @staticmethod
    def _job(record: Record, check: Healthcheck, argv: Sequence[str], began: int) -> monitor.Job:
        engine, group = record.engine, cgroups.Cgroup(record.id)
        return monitor.Job(
            directory=os.fspath(record.directory),
            pid=engine["pid"],
            started=engine["started"],
            began=began,
            timing=asdict(health.timing(check)),
            argv=list(argv),
            env={name: value for name in ("PATH", "XDG_RUNTIME_DIR", "HOME") if (value := os.environ.get(name))},
            freezer=_freezer(group),
        )

    def release(self) -> None:
        """Give up what this process holds: the command has ended, or is about to be ended."""
        if self._follower is not None:
            self._follower.close()
            self._follower = None

    def end(self, record: Record) -> None:
        """Follow it no longer, and let no monitor do so, also one that no record knows.

        What a monitor leaves of a probe lies in the instance, and ends with it; or is on its way there, and ends here.
        """
        self.release()
        if saved_process(record).healthcheck is None:
            return
        for pid in self._strays(record):
            process.send_signal(pid, process.start_time(pid))
            process.reap_adopted(pid, _PATIENCE)
        if record.engine.get("health_monitor"):
            process.reap_adopted(record.engine["health_pid"], 0)  # it has ended with the command before
        health.forget(record.directory)

    @staticmethod
    def _strays(record: Record) -> Iterator[int]:
        """The monitors, and after them what enters the instance for a probe."""
        for word in (os.fsencode(monitor.__file__), os.fsencode(record.directory / "probe.json")):
            for pid in strays(record):
                with suppress(OSError):
                    if word in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                        yield pid


def _known(pid: int, *, monitor: bool) -> dict[str, Any]:
    """What the record keeps of who follows it: a monitor, or the process that started the command attached."""
    return {"health_pid": pid, "health_started": process.start_time(pid), "health_monitor": monitor}


def _freezer(group: cgroups.Cgroup) -> str:
    """The file that says whether a control group is paused."""
    root = group.tree.unified or group.tree.v1.get("freezer")
    name = "cgroup.freeze" if group.tree.unified else "freezer.state"
    return str(root / group.path[1:] / name) if root else ""
