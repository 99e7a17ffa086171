"""What a VM's command has written, with its times and in its order.

stdout.log and stderr.log hold the bytes of all runs. index.log says when they came: "STREAM BYTES MS", a line each,
by the guest's init, before it writes what lies from there; BYTES of that stream in this run, MS since the guest's
boot. The host adds "run OUT ERR TIME" before each run, with the sizes of the two files, and "end TIME", the moment
of the last line of the run before, for the guest's clock is not the host's. All the rest is the guest's word: numbers
are bounded by what is in the files, and a wrong one spoils the guest's own log only.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hybrid.driver import LogPart

_PIECE = 1 << 16
_LONGEST_LINE = 128


def files(directory: Path) -> tuple[Path, Path]:
    """The files of the two streams."""
    return directory / "stdout.log", directory / "stderr.log"


def begin_run(directory: Path) -> None:
    """Note in the index that a run begins; what is in the logs is of earlier ones."""
    index = directory / "index.log"
    sizes = [path.stat().st_size if path.exists() else 0 for path in files(directory)]
    with index.open("ab") as file:
        status = os.fstat(file.fileno())
        end = f"\nend {status.st_mtime:.3f}\n" if status.st_size else ""
        file.write(f"{end}run {sizes[0]} {sizes[1]} {time.time():.3f}\n".encode())


@dataclass(slots=True)
class _Run:
    """One run's place in the files and in time."""

    bases: tuple[int, int]
    began: float
    last: int = 0
    """The guest's milliseconds at its last line."""
    ended: float | None = None
    """The host's time then, if it is over."""

    def when(self, milliseconds: int, now: float) -> float:
        at = (self.ended if self.ended is not None else now) - (self.last - milliseconds) / 1000
        return min(max(at, self.began), max(now, self.began))


@dataclass(slots=True)
class _Mark:
    """From where on bytes of a stream came at a moment."""

    stream: int
    start: int
    run: _Run
    milliseconds: int
    end: int | None = None


@dataclass
class Reader:
    """Gives what is new at each call of `read`."""

    directory: Path
    _offset: int = 0
    _rest: bytes = b""
    _runs: list[_Run] = field(default_factory=list)
    _marks: list[_Mark] = field(default_factory=list)
    _done: dict[int, int] = field(default_factory=lambda: {1: 0, 2: 0})
    """How much of each stream was given."""

    def read(self) -> Iterator[LogPart]:
        """The parts that were written since the last call."""
        with contextlib.ExitStack() as opened:
            try:
                logs = [opened.enter_context(path.open("rb")) for path in files(self.directory)]
            except FileNotFoundError:
                return
            now = self._read_index()
            sizes = {number: os.fstat(log.fileno()).st_size for number, log in enumerate(logs, 1)}
            for mark in self._marks:
                start = max(self._done[mark.stream], mark.start)
                end = min(sizes[mark.stream], sizes[mark.stream] if mark.end is None else mark.end)
                at = mark.run.when(mark.milliseconds, now)
                yield from self._parts(logs[mark.stream - 1].fileno(), mark.stream, start, end, at)
                self._done[mark.stream] = max(self._done[mark.stream], end)
            self._marks = list({mark.stream: mark for mark in self._marks}.values())  # more may come of the last ones

    def _parts(self, log: int, stream: int, start: int, end: int, at: float) -> Iterator[LogPart]:
        while start < end:
            data = os.pread(log, min(_PIECE, end - start), start)
            if not data:
                return
            start += len(data)
            for line in _lines(data):
                yield LogPart(stream, line, at)

    def _read_index(self) -> float:
        """Take in what is new in the index; the host's time of its last line."""
        with (self.directory / "index.log").open("rb") as file:
            file.seek(self._offset)
            while data := file.read(_PIECE):
                self._offset += len(data)
                *lines, rest = (self._rest + data).split(b"\n")
                self._rest = rest[:_LONGEST_LINE]
                for line in lines:
                    self._take(line[:_LONGEST_LINE].split(b" "))
            return os.fstat(file.fileno()).st_mtime

    def _take(self, words: list[bytes]) -> None:
        with contextlib.suppress(ValueError, IndexError):
            if words[0] == b"run":
                run = _Run((int(words[1]), int(words[2])), float(words[3]))
                if run.began < 1e11 and min(run.bases) >= 0:
                    self._runs.append(run)
            elif words[0] == b"end" and self._runs:
                self._runs[-1].ended = min(float(words[1]), 1e11)
            elif self._runs and words[0] in (b"1", b"2"):
                self._mark(int(words[0]), int(words[1]), int(words[2]))

    def _mark(self, stream: int, offset: int, milliseconds: int) -> None:
        run = self._runs[-1]
        start = run.bases[stream - 1] + offset
        if not 0 <= offset < 1 << 62 or not run.last <= milliseconds < 1 << 50:
            return
        run.last = milliseconds
        for mark in reversed(self._marks):
            if mark.stream == stream:
                mark.end = max(start, mark.start)
                break
        self._marks.append(_Mark(stream, start, run, milliseconds))


def _lines(data: bytes) -> list[bytes]:
    """Split after each newline only."""
    *whole, rest = data.split(b"\n")
    return [line + b"\n" for line in whole] + ([rest] if rest else [])


def follow(directory: Path, wait: Callable[[], bool]) -> Iterator[LogPart]:
    """All parts, then those that come, until `wait` (which returns when there may be news) says that it is over."""
    reader = Reader(directory)
    going_on = True
    while going_on:
        yield from reader.read()
        going_on = wait()
    yield from reader.read()
