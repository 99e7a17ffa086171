"""Who follows a healthcheck, and who waits for it.

An attached instance's healthcheck is followed by a thread of the process that started it, a detached one's by a
monitor: both by hybrid/monitor.py, which says what the states are. What they find is in a file of the instance's
directory, so any process can read it, and wait for it, woken by its change.
"""

from __future__ import annotations

import json
import os
import select
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybrid import monitor, process
from hybrid.driver import Health
from hybrid.errors import HybridError, NotReadyError
from hybrid.image import Healthcheck

_TAIL = 2000


@dataclass(frozen=True, slots=True)
class Report:
    """What is known of a running instance's health."""

    status: Health
    streak: int = 0
    """Failures in a row."""
    log: Sequence[Mapping[str, Any]] = ()
    """The last results, the latest at the end, with Docker's keys: ExitCode (-1: no end in time), Output …"""
    passed: int | None = None
    """When the first probe that passed had ended; CLOCK_MONOTONIC, ns."""


def read(directory: Path) -> Report:
    """What the healthcheck of an instance has found until now."""
    try:
        values = json.loads((directory / monitor.FILE).read_bytes())
        return Report(Health(values["Status"]), values["FailingStreak"], values["Log"], values["Passed"])
    except (OSError, ValueError, KeyError, TypeError):
        return Report(Health.STARTING)


def forget(directory: Path) -> None:
    """Remove what was found in an earlier run."""
    (directory / monitor.FILE).unlink(missing_ok=True)


def timing(check: Healthcheck) -> monitor.Timing:
    return monitor.Timing(check.interval, check.timeout, check.retries, check.start_period, check.start_interval)


class Follower:
    """A thread of this process that follows a healthcheck until the command has ended, or `close`.

    `within` does its work where probes can be executed; `bury` waits for what a runtime that died has left to us.
    """

    def __init__(
        self,
        job: monitor.Job,
        check: Healthcheck,
        within: Callable[[Callable[[], None]], None],
        bury: Callable[[], None],
    ) -> None:
        self._job, self._timing, self._bury = job, timing(check), bury
        self._over = select.epoll()
        """Can be read once the command has ended, or this is to be closed."""
        self._command, self._closing = os.pidfd_open(job.pid), os.eventfd(0)
        for descriptor in (self._command, self._closing):
            self._over.register(descriptor, select.EPOLLIN)
        self._thread = threading.Thread(target=self._run, args=(within,), daemon=True, name="healthcheck")
        self._thread.start()

    def _run(self, within: Callable[[Callable[[], None]], None]) -> None:
        job, over = self._job, self._over.fileno()

        def work() -> None:
            monitor.follow(
                monitor.Checks(self._timing, job.began),
                lambda: self._probe(over),
                lambda checks: monitor.write(job.directory, checks),
                over,
                lambda: monitor.is_frozen(job.freezer),
            )

        with suppress(OSError, HybridError):  # the instance may be taken down around it
            within(work)

    def _probe(self, over: int) -> monitor.Result:
        job = self._job
        try:
            return monitor.execute(job.argv, job.env, self._timing.timeout, over, lambda pid: os.waitpid(pid, 0)[1])
        finally:
            self._bury()

    def close(self) -> None:
        """End it, its probe too. Idempotent."""
        if not self._over.closed:
            os.eventfd_write(self._closing, 1)
            self._thread.join()
            self._over.close()
            os.close(self._command)
            os.close(self._closing)


def launch(job: monitor.Job, id: str) -> process.Child:
    """Start the monitor of a detached instance; it ends with the command. Its id and directory are in its arguments."""
    path = Path(job.directory) / "health.job"
    path.write_text(job.dumps())
    path.chmod(0o600)
    argv = [sys.executable, "-I", "-S", monitor.__file__, id, str(path)]
    return process.launch(argv, stdout=process.DEVNULL, stderr=process.DEVNULL, new_session=True)


def wait_healthy(directory: Path, command: int, timeout: float) -> int:
    """When the healthcheck passed for the first time: CLOCK_MONOTONIC, ns.

    NotReadyError when it is unhealthy, when the command (a pidfd) has ended, or after `timeout` seconds.
    """
    from inotify_simple import INotify, flags

    deadline = time.monotonic() + timeout
    with INotify() as notify:
        notify.add_watch(str(directory), flags.MOVED_TO)
        poller = select.poll()
        for descriptor in (notify.fileno(), command):
            poller.register(descriptor, select.POLLIN)
        while True:
            report = read(directory)
            if report.passed is not None:
                return report.passed
            if report.status is Health.UNHEALTHY:
                raise _failed("the healthcheck failed as often as it may", report)
            if monitor.readable(command, 0):
                raise _failed("the command ended before its healthcheck passed", report)
            if (left := deadline - time.monotonic()) <= 0:
                raise _failed(f"the healthcheck did not pass within {timeout:g} s", report)
            poller.poll(left * 1000)
            notify.read(timeout=0)


def _failed(what: str, report: Report) -> NotReadyError:
    last = report.log[-1] if report.log else None
    code = None if last is None else last["ExitCode"]
    word = "" if code is None else f" (its last probe {'did not end in time' if code == -1 else f'exited with {code}'})"
    tail = "" if last is None else str(last["Output"])[-_TAIL:].strip()
    mend = "look at the healthcheck's test, start_period and retries"
    return NotReadyError(f"{what}{word}", phase="ready", tail=tail, mend=mend)
