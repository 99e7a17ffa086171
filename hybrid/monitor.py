"""The life of a healthcheck: Docker's states, the probes that change them, and a file that anybody can read.

The standard library only: a detached instance's monitor runs this file as a program, in an interpreter that
sees no other module. It lives beside the instance and ends with it.

    health.json   {"Status": "healthy", "FailingStreak": 0, "Log": [the last five results], …}: see `Checks.values`
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field

STARTING, HEALTHY, UNHEALTHY = "starting", "healthy", "unhealthy"
RESULTS = 5
"""How many results are kept, and
OUTPUT the bytes of what each probe wrote, as in Docker."""
OUTPUT = 4096
FILE = "health.json"
_PR_SET_CHILD_SUBREAPER = 36
_GRACE = 5.0
"""Seconds that a runtime may take to end once what it has started in the instance was killed."""
_PATIENCE = 10.0
"""Seconds after which a probe that was killed hangs in the kernel."""
_PAUSE = 0.5
"""Seconds from one look at a paused instance to the next: the freezer tells nobody when it thaws."""


@dataclass(frozen=True)
class Timing:
    """When probes run and how they count, in seconds: hybrid.image.Healthcheck without its command."""

    interval: float
    timeout: float
    retries: int
    start_period: float
    start_interval: float


@dataclass(frozen=True)
class Result:
    """What one probe yielded. Times are CLOCK_MONOTONIC's, in nanoseconds."""

    start: int
    end: int
    exit_code: int | None
    """None when it did not end in time."""
    output: str = ""


@dataclass
class Checks:
    """The state that results make, with Docker's meaning.

    Until the first pass probes are as far apart as `start_interval`, since what is measured then is the moment
    of readiness. Failures meanwhile count once an interval, and not in the start period: so an instance that
    never gets healthy is unhealthy when it would be for Docker.
    """

    timing: Timing
    began: int
    """When the command was executed; CLOCK_MONOTONIC, ns."""
    status: str = STARTING
    streak: int = 0
    passed: int | None = None
    """When the first probe that passed had ended."""
    log: list[Result] = field(default_factory=list)

    def take(self, result: Result) -> None:
        """Take in a probe's result."""
        self.log = [*self.log[1 - RESULTS :], result]
        if result.exit_code == 0:
            self.status, self.streak = HEALTHY, 0
            self.passed = result.end if self.passed is None else self.passed
        elif self._counts(result):
            self.streak += 1
            if self.streak >= self.timing.retries:
                self.status = UNHEALTHY

    def _counts(self, result: Result) -> bool:
        if self.status != STARTING:
            return True
        due = self.timing.start_period + (self.streak + 1) * self.timing.interval
        return (result.end - self.began) / 1e9 >= due

    def pause(self) -> float:
        """Seconds from the end of one probe to the start of the next."""
        if self.status == STARTING:
            return min(self.timing.start_interval, self.timing.interval)
        return self.timing.interval

    def values(self) -> dict[str, object]:
        """What is kept in the file: Docker's State.Health, and when it first passed."""
        shift = time.time_ns() - time.monotonic_ns()
        log = [
            {
                "Start": (each.start + shift) / 1e9,
                "End": (each.end + shift) / 1e9,
                "ExitCode": -1 if each.exit_code is None else each.exit_code,
                "Output": each.output if each.exit_code is not None else f"no end within {self.timing.timeout:g} s\n",
            }
            for each in self.log
        ]
        return {"Status": self.status, "FailingStreak": self.streak, "Log": log, "Passed": self.passed}


Probe = Callable[[], Result]


def follow(
    checks: Checks, probe: Probe, tell: Callable[[Checks], None], ended: int, frozen: Callable[[], bool] = lambda: False
) -> None:
    """Probe, tell each result, and go on until the descriptor `ended` can be read. No probe runs while frozen."""
    tell(checks)
    wait = 0.0
    while not readable(ended, wait):
        if frozen():
            wait = _PAUSE
            continue
        result = probe()
        if readable(ended, 0):
            return
        if result.exit_code is None and frozen():
            continue  # what was paused cannot answer
        checks.take(result)
        tell(checks)
        wait = checks.pause()


def execute(argv: list[str], env: dict[str, str], timeout: float, ended: int, reap: Callable[[int], int]) -> Result:
    """Execute a probe's program and wait for its end.

    After `timeout` seconds, or when `ended` can be read, it is killed with all that it has started. `reap` waits
    for the ended program and gives its wait status.
    """
    start = time.monotonic_ns()
    reads, writes = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    actions = [(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, writes, 1), (os.POSIX_SPAWN_DUP2, writes, 2)]
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGCHLD,))  # nobody reaps it before it has a handle
    try:
        pid = os.posix_spawnp(argv[0], argv, env, file_actions=actions, setsid=True, setsigmask=())
        handle = os.pidfd_open(pid)
    except OSError as error:
        os.close(reads)
        return Result(start, time.monotonic_ns(), 126, f"{argv[0]}: {error.strerror}")
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(null)
        os.close(writes)
    try:
        kept = _collect(reads, handle, ended, start / 1e9 + timeout)
        code = None
        if readable(handle, 0):
            code = os.waitstatus_to_exitcode(reap(pid))
            code = code if code >= 0 else 128 - code
        else:
            _kill(pid, handle, reap)
        kept += _drain(reads, OUTPUT - len(kept))
        return Result(start, time.monotonic_ns(), code, kept[:OUTPUT].decode(errors="replace"))
    finally:
        os.close(handle)
        os.close(reads)


def _collect(reads: int, handle: int, ended: int, deadline: float) -> bytes:
    """What a program writes until it has ended, the deadline has passed or `ended` can be read."""
    poller = select.poll()
    for descriptor in (reads, handle, ended):
        poller.register(descriptor, select.POLLIN)
    kept = b""
    while (left := deadline - time.monotonic()) > 0:
        ready = {descriptor for descriptor, _ in poller.poll(left * 1000)}
        if reads in ready:
            data = _drain(reads, OUTPUT)
            kept += data[: OUTPUT - len(kept)]
            if not data:
                poller.unregister(reads)
        if ready & {handle, ended}:
            break
    return kept


def _drain(reads: int, most: int) -> bytes:
    """What can be read now, `most` bytes of it."""
    kept = b""
    with suppress(BlockingIOError):
        while data := os.read(reads, 65536):
            kept += data[: max(0, most - len(kept))]
            if len(kept) >= most:
                break
    return kept


def _kill(pid: int, handle: int, reap: Callable[[int], int]) -> None:
    """Kill all that a probe has started, the last first; then itself, if that has not ended it."""
    for each in tree(pid):
        with suppress(ProcessLookupError, PermissionError):
            os.kill(each, signal.SIGKILL)
    if not readable(handle, _GRACE):
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
    if readable(handle, _PATIENCE):
        reap(pid)


class Reaper:
    """Waits for every child of this process the moment it ends, those that it adopts too.

    A runtime that dies leaves what it has started in the instance; and the instance's pid namespace, so the
    instance itself, ends only when all in it are waited for.
    """

    def __init__(self) -> None:
        self._ended: dict[int, int] = {}
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: self._reap())

    def _reap(self) -> None:
        with suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0] != 0:
                self._ended[found[0]] = found[1]

    def status(self, pid: int) -> int:
        """The wait status of a child that has ended; the others' are forgotten."""
        self._reap()
        status, self._ended = self._ended[pid], {}
        return status


def tree(pid: int) -> list[int]:
    """The living processes below one and in their sessions, whose leaders are among them; itself left out."""
    found: dict[int, tuple[int, int]] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208
        if name.isdecimal():
            with suppress(OSError):
                state, parent, _, session = _stat(int(name))
                if state not in "ZX":
                    found[int(name)] = parent, session
    below: set[int] = set()
    new = {pid}
    while new:
        new = {each for each, (parent, session) in found.items() if parent in new or session in new} - below - {pid}
        below |= new
    return sorted(below, reverse=True)


def _stat(pid: int) -> tuple[str, int, int, int]:
    """State, parent, process group and session of a process."""
    with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123
        fields = file.read().rpartition(b")")[2].split()
    return fields[0].decode(), int(fields[1]), int(fields[2]), int(fields[3])


def readable(descriptor: int, timeout: float) -> bool:
    """Whether a descriptor can be read, after waiting for that for at most `timeout` seconds."""
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(max(0.0, timeout) * 1000))


def write(directory: str, checks: Checks) -> None:
    """Put the state in its file, in one step; nothing happens when the instance has gone."""
    temporary = f"{directory}/.{FILE}.{os.getpid()}"
    with suppress(FileNotFoundError):
        with open(temporary, "w") as file:  # noqa: PTH123
            json.dump(checks.values(), file)
        os.replace(temporary, f"{directory}/{FILE}")  # noqa: PTH105


@dataclass(frozen=True)
class Job:
    """What a detached instance's monitor does. JSON values only."""

    directory: str
    pid: int
    """The command's, and when it started, in clock ticks since boot."""
    started: int
    began: int
    timing: dict[str, float]
    argv: list[str]
    """Executes one probe inside the instance."""
    env: dict[str, str]
    freezer: str = ""
    """The file of its control group that says whether it is paused."""

    def dumps(self) -> str:
        return json.dumps(asdict(self))


def is_frozen(path: str) -> bool:
    """Whether a control group is frozen, by its freezer.state (v1) or cgroup.freeze (v2)."""
    try:
        with open(path) as file:  # noqa: PTH123
            return file.read().strip() in ("FROZEN", "FREEZING", "1")
    except OSError:
        return False


def main() -> None:
    """Do the job in the file that the second argument names; the first is the instance's id, for those who look."""
    with open(sys.argv[2]) as file:  # noqa: PTH123
        job = Job(**json.load(file))
    try:
        ended = os.pidfd_open(job.pid)
        if _started(job.pid) != job.started:
            return
    except OSError:
        return
    timing = Timing(**{**job.timing, "retries": int(job.timing["retries"])})  # type: ignore[arg-type]
    checks, reaper = Checks(timing, job.began), Reaper()
    follow(
        checks,
        lambda: execute(job.argv, job.env, timing.timeout, ended, reaper.status),
        lambda now: write(job.directory, now),
        ended,
        lambda: is_frozen(job.freezer),
    )


def _started(pid: int) -> int:
    with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123
        return int(file.read().rpartition(b")")[2].split()[19])


if __name__ == "__main__":
    main()
