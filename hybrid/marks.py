"""Marks: named moments in an instance's life, stamped by the host's CLOCK_MONOTONIC.

The guest's clock is never asked: a mark is the moment at which the host saw an event.
A phase carries the name of the mark that ends it and lasts from the mark before it, so
the phases of a trial always add up to the whole.
"""

from __future__ import annotations

import time
from enum import StrEnum
from itertools import pairwise


class Mark(StrEnum):
    """The moments, in the order in which they happen. A kind skips those it does not have."""

    REQUEST = "request"  # the caller asked for an instance
    CREATE = "create"  # its directory, writable layer and configuration exist
    SPAWN = "spawn"  # the engine's process (runtime, QEMU) runs
    KERNEL = "kernel"  # a guest kernel has booted and handed over to our init (VMs only)
    INIT = "init"  # our init has set up the root, about to execute the command (VMs only)
    ENTRYPOINT = "entrypoint"  # the command is executed
    READY = "ready"  # the healthcheck passed for the first time (none: the entrypoint)
    STOPPING = "stopping"  # the caller asked it to stop
    STOP = "stop"  # the command has ended
    GONE = "gone"  # nothing of the instance is left on the host


class Marks(dict[Mark, int]):
    """Nanoseconds of CLOCK_MONOTONIC by mark. Setting a mark twice keeps the first."""

    def stamp(self, mark: Mark, at: int | None = None) -> None:
        """Record `mark` at `at` ns (now, if None) unless it is there already."""
        self.setdefault(mark, time.monotonic_ns() if at is None else at)

    def phases(self) -> dict[str, float]:
        """Seconds from each mark to the one before it, by the name of the later mark.

        What lies between the last start-up mark and STOPPING (or an end that nobody asked for) is the
        instance's life, not a phase, and is left out.
        """
        present = [mark for mark in Mark if mark in self]
        return {
            later.value: (self[later] - self[earlier]) / 1e9
            for earlier, later in pairwise(present)
            if later is not Mark.STOPPING and (later is not Mark.STOP or earlier is Mark.STOPPING)
        }

    def seconds(self, start: Mark, end: Mark) -> float | None:
        """Seconds from `start` to `end`; None when either was not reached."""
        if start not in self or end not in self:
            return None
        return (self[end] - self[start]) / 1e9
