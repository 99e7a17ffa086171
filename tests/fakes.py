"""A driver without an engine or a clock, which keeps the promises of `hybrid.driver`.

Its commands are scripted: what a command does is looked up by its argv. Each mark comes one millisecond
after the one before it.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from hybrid.driver import Evidence, Kind, Problem, Request, State, Status, Stdio, Usage
from hybrid.errors import CommandError, InstanceError, NotReadyError
from hybrid.home import Home
from hybrid.image import Image
from hybrid.marks import Mark, Marks
from hybrid.store import InstanceStore, Record, locked, new_id


@dataclass(frozen=True)
class Behaviour:
    """What a scripted command does."""

    stdout: bytes = b""
    stderr: bytes = b""
    exit_code: int | None = 0
    """None: it runs until a signal ends it."""
    echo: bool = False
    """It copies its standard input to its standard output first."""
    traps: Mapping[int, int] = field(default_factory=dict)
    """Signal to the exit code with which the command ends on it; any other but SIGKILL is ignored."""
    healthy: bool = True
    refused: int | None = None
    """The exit code (126, 127) of a command that cannot be executed."""


class FakeDriver:
    """See `hybrid.driver.Driver`."""

    kind: ClassVar[Kind] = Kind.HOST

    def __init__(self, home: Home, behaviours: Mapping[Sequence[str], Behaviour] | None = None) -> None:
        self.store = InstanceStore(home)
        self.behaviours = {tuple(argv): behaviour for argv, behaviour in (behaviours or {}).items()}
        self.running: dict[str, FakeInstance] = {}
        """By the record's id: what a real host would show."""
        self.codes: dict[str, int] = {}

    def problems(self) -> Sequence[Problem]:
        return []

    def warnings(self) -> Sequence[Problem]:
        return []

    def facts(self) -> Mapping[str, str]:
        return {"engine": "fake"}

    def prepare(self, image: Image) -> int:
        return 0

    def create(self, request: Request) -> FakeInstance:
        process = request.process
        with self.store.making(request.name) as (directory, commit):
            record = commit(
                Record(
                    name=request.name,
                    id=new_id(),
                    kind=self.kind,
                    image=request.image.digest,
                    image_name="",
                    command=process.argv,
                    created=0.0,
                    directory=directory,
                    stop_signal=process.stop_signal,
                    stop_timeout=process.stop_timeout,
                    engine={"checked": process.healthcheck is not None},
                )
            )
        tick(request.marks, Mark.CREATE)
        return FakeInstance(self, record, request.marks)

    def open(self, record: Record) -> FakeInstance:
        return FakeInstance(self, record, Marks())


def tick(marks: Marks, mark: Mark) -> None:
    """Stamp a mark one millisecond after the latest."""
    marks.stamp(mark, max(marks.values(), default=0) + 1_000_000)


class FakeInstance:
    """See `hybrid.driver.Instance`."""

    kind: ClassVar[Kind] = Kind.HOST

    def __init__(self, driver: FakeDriver, record: Record, marks: Marks) -> None:
        self.driver = driver
        self._record = record
        self._marks = marks

    @property
    def record(self) -> Record:
        return self._record

    @property
    def marks(self) -> Marks:
        return self._marks

    @property
    def behaviour(self) -> Behaviour:
        return self.driver.behaviours[self._record.command]

    def start(self, stdio: Stdio | None) -> None:
        with locked(self._record.directory / "lock"):
            if self._record.id in self.driver.running:
                raise InstanceError(f"{self._record.name} is running")
            if self.behaviour.refused is not None:
                raise CommandError(self._record.command[0], exit_code=self.behaviour.refused)
            self.driver.codes.pop(self._record.id, None)
            self.driver.running[self._record.id] = self
            tick(self._marks, Mark.SPAWN)
            self._speak(stdio)
            tick(self._marks, Mark.ENTRYPOINT)
            if self.behaviour.exit_code is not None:
                self._end(self.behaviour.exit_code)

    def _speak(self, stdio: Stdio | None) -> None:
        out = err = -1
        try:
            if stdio is None:
                out, err = (os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600) for path in self.logs())
                stdio = Stdio(-1, out, err)
            while self.behaviour.echo and stdio.stdin >= 0 and (data := os.read(stdio.stdin, 65536)):
                os.write(stdio.stdout, data)
            os.write(stdio.stdout, self.behaviour.stdout)
            os.write(stdio.stderr, self.behaviour.stderr)
        finally:
            for descriptor in (out, err):
                if descriptor >= 0:
                    os.close(descriptor)

    def _end(self, code: int) -> None:
        self.driver.running.pop(self._record.id, None)
        self.driver.codes[self._record.id] = code

    def wait_entrypoint(self, timeout: float) -> None:
        if self.status().state is State.CREATED:
            raise InstanceError(f"{self._record.name} was not started")

    def wait_ready(self, timeout: float) -> None:
        self.wait_entrypoint(timeout)
        if self._record.engine["checked"]:
            if self.status().state is State.EXITED:
                raise NotReadyError("the command ended before its healthcheck passed", phase="ready")
            if not self.behaviour.healthy:
                raise NotReadyError("the healthcheck did not pass", phase="ready", tail="sick")
            tick(self._marks, Mark.READY)
        else:
            self._marks.stamp(Mark.READY, self._marks[Mark.ENTRYPOINT])

    def wait(self, timeout: float | None = None) -> int:
        if self._record.id in self.driver.running:
            raise NotReadyError(f"{self._record.name} did not end", phase="stop")
        tick(self._marks, Mark.STOP)
        return self.driver.codes[self._record.id]

    def signal(self, number: int) -> None:
        if self._record.id in self.driver.running:
            if number == signal.SIGKILL:
                self._end(128 + number)
            elif (code := self.behaviour.traps.get(number)) is not None:
                self._end(code)

    def stop(self, timeout: float) -> int | None:
        if self.status().state is State.RUNNING:
            tick(self._marks, Mark.STOPPING)
            self.signal(self._record.stop_signal)
            self.signal(signal.SIGKILL)
            tick(self._marks, Mark.STOP)
        return self.driver.codes.get(self._record.id)

    def status(self) -> Status:
        if self._record.id in self.driver.running:
            return Status(State.RUNNING, pid=os.getpid())
        if self._record.id in self.driver.codes:
            return Status(State.EXITED, exit_code=self.driver.codes[self._record.id])
        return Status(State.CREATED)

    def usage(self) -> Usage:
        if self._record.id not in self.driver.running:
            raise InstanceError(f"{self._record.name} is not running")
        return Usage(0.5, 2 << 20, 1 << 20, 1, 4096)

    def evidence(self) -> Evidence:
        if self._record.id not in self.driver.running:
            raise InstanceError(f"{self._record.name} is not running")
        return Evidence(kernel_release="0", boot_id="fake", os_name="Fake", uid_map="0 0 1")

    def logs(self) -> tuple[Path, Path]:
        return self._record.directory / "stdout.log", self._record.directory / "stderr.log"

    def destroy(self) -> None:
        self.driver.running.pop(self._record.id, None)
        self.driver.codes.pop(self._record.id, None)
        shutil.rmtree(self._record.directory, ignore_errors=True)
        tick(self._marks, Mark.GONE)
