"""One trial: a fresh instance taken through all its phases, and the sample that it yielded.

Nothing here decides, summarises or formats. A trial that fails is a sample too, with what failed and
in which phase; whatever happens, the instance is destroyed.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from hybrid import machine
from hybrid.driver import Driver, Evidence, Instance, Kind, Request, Stdio, Usage
from hybrid.errors import HybridError, InstanceError, NotReadyError
from hybrid.marks import Mark

ENDING = 1.0
"""Seconds within which an end must be seen that explains why a step failed."""

KILLED = 128 + signal.SIGKILL

Expose: TypeAlias = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True, slots=True)
class Turn:
    """Which trial it is: its place in the run's order."""

    number: int
    """From 1, over all kinds, warm-up included."""
    block: int
    """The block that holds each kind once; 0 and below while warming up."""
    kind: Kind
    warmup: bool = False


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a trial yielded no figures."""

    what: str
    phase: str
    """The step that failed: create, spawn, entrypoint, ready, usage, evidence, stop or gone."""
    mend: str = ""
    tail: str = ""
    """The last lines of the console or log."""
    exit_code: int = 125


@dataclass(frozen=True, slots=True)
class Sample:
    """What one trial yielded. All durations come from the host's CLOCK_MONOTONIC."""

    turn: Turn
    marks: Mapping[str, int]
    """Nanoseconds since the request, by mark."""
    phases: Mapping[str, float]
    """Seconds, by the name of the mark that ends the phase."""
    usage: Usage | None
    """At ready; None when the command had ended by then, or on failure."""
    evidence: Evidence | None
    exit_code: int | None
    ended: bool
    """The command ended by itself: nobody stopped it."""
    before: machine.Load
    after: machine.Load
    failure: Failure | None = None

    @property
    def killed(self) -> bool:
        """The command did not end on its stop signal; how long that took says nothing of the kind."""
        return not self.ended and self.exit_code == KILLED

    def seconds(self, end: Mark) -> float | None:
        """Seconds from the request to `end`; None when it was not reached."""
        return self.marks[end] / 1e9 if end in self.marks else None


def trial(
    driver: Driver, request: Request, turn: Turn, *, logs: Path, timeout: float, expose: Expose = nullcontext
) -> Sample:
    """Take one fresh instance from request to gone and return what was seen.

    `timeout` bounds, in seconds, each wait on its own. The command's input is empty, its output goes
    to two files in `logs`, which stay only when something was written to them. A caller that can be
    interrupted shields the whole call, and `expose` opens the part that may be cut: whatever is raised
    in there, the instance is destroyed before it goes on.
    """
    before = machine.load()
    life = _Life(request, timeout)
    failure = None
    out, err = (logs / f"{turn.number:04d}-{turn.kind}.{name}" for name in ("stdout", "stderr"))
    try:
        with _output(out, err) as stdio, _created(driver, life) as instance, expose():
            life.go_through(instance, stdio)
    except (HybridError, OSError) as error:
        failure = _failure(error, life.step, _tail(err))
    return Sample(
        turn=turn,
        marks=_since_request(request),
        phases=request.marks.phases(),
        usage=life.usage,
        evidence=life.evidence,
        exit_code=life.exit_code,
        ended=life.ended,
        before=before,
        after=machine.load(),
        failure=failure,
    )


class _Life:
    """The steps of an instance's life, and what was seen on the way; `step` is the one being taken."""

    def __init__(self, request: Request, timeout: float) -> None:
        self.request = request
        self.timeout = timeout
        self.step = "create"
        self.usage: Usage | None = None
        self.evidence: Evidence | None = None
        self.exit_code: int | None = None
        self.ended = False

    def go_through(self, instance: Instance, stdio: Stdio) -> None:
        self.step = "spawn"
        instance.start(stdio)
        self.step = "entrypoint"
        instance.wait_entrypoint(self.timeout)
        self.step = "ready"
        self._unless_ended(instance, self._become_ready)
        if not self.ended:
            self._unless_ended(instance, self._look)
        self.step = "stop"
        self.exit_code = instance.wait(self.timeout) if self.ended else self._stop(instance)

    def _become_ready(self, instance: Instance) -> None:
        instance.wait_ready(self.timeout)

    def _look(self, instance: Instance) -> None:
        self.step = "usage"
        self.usage = instance.usage()
        self.step = "evidence"
        self.evidence = instance.evidence()

    def _stop(self, instance: Instance) -> int | None:
        return instance.stop(self.request.process.stop_timeout)

    def _unless_ended(self, instance: Instance, step: Callable[[Instance], None]) -> None:
        """Take a step that needs a running command; a command that ended by itself, with 0, may fail it.

        With a healthcheck, a command that ends otherwise before it was ready has failed. What was read
        of a command that was about to end is dropped: nobody knows how much of it was left.
        """
        try:
            step(instance)
        except HybridError:
            self.exit_code = _exit_code(instance)
            if self.exit_code is None:
                raise
            if self.exit_code != 0 and self.step == "ready" and self.request.process.healthcheck is not None:
                raise
            self.ended, self.usage = True, None


def _exit_code(instance: Instance) -> int | None:
    """The exit code of a command that has ended, or is just about to; None when it runs on."""
    try:
        return instance.wait(ENDING)
    except NotReadyError:
        return None


@contextmanager
def _created(driver: Driver, life: _Life) -> Iterator[Instance]:
    """A new instance; when the block ends, however it ends, nothing of it is left."""
    request = life.request
    request.marks.stamp(Mark.REQUEST)
    instance = driver.create(request)
    try:
        _same_image(instance, request.image.digest)
        yield instance
    except BaseException:
        instance.destroy()
        raise
    life.step = "gone"
    instance.destroy()


def _same_image(instance: Instance, digest: str) -> None:
    if instance.record.image != digest:
        raise InstanceError(
            f"the {instance.kind} was made of {instance.record.image}, not of {digest}",
            mend="hybrid image ls shows the images; only equal digests are compared",
        )


@contextmanager
def _output(*paths: Path) -> Iterator[Stdio]:
    """Streams for the command: empty input, and two files, of which an empty one is removed at the end."""
    paths[0].parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        descriptors = []
        for path in paths:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            stack.callback(_close, descriptor, path)
            descriptors.append(descriptor)
        yield Stdio(-1, *descriptors)


def _close(descriptor: int, path: Path) -> None:
    empty = os.fstat(descriptor).st_size == 0
    os.close(descriptor)
    if empty:
        path.unlink(missing_ok=True)


def _tail(path: Path, most: int = 2000) -> str:
    """The end of a file; nothing when there is no file."""
    try:
        return path.read_bytes()[-most:].decode(errors="replace")
    except FileNotFoundError:
        return ""


def _failure(error: HybridError | OSError, step: str, said: str) -> Failure:
    """What failed, with the engine's words and then the command's own last ones."""
    if isinstance(error, OSError):
        return Failure(what=str(error), phase=step, tail=said)
    late = error if isinstance(error, NotReadyError) else None
    return Failure(
        what=error.what,
        phase=late.phase if late is not None and late.phase else step,
        mend=error.mend,
        tail="\n".join(filter(None, [late.tail.rstrip() if late is not None else "", said.rstrip()])),
        exit_code=error.exit_code,
    )


def _since_request(request: Request) -> Mapping[str, int]:
    start = request.marks.get(Mark.REQUEST, 0)
    return {mark.value: at - start for mark, at in sorted(request.marks.items(), key=lambda item: item[1])}
