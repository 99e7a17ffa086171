"""What a detached command wrote, as its monitor keeps it: a line for each piece, with time and stream.

2024-05-06T07:08:09.123456789+00:00 stdout F a whole line, up to its newline
2024-05-06T07:08:09.123456789+00:00 stderr P a part of one; the newline is not its own
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from hybrid import process
from hybrid.driver import LogPart
from hybrid.errors import InstanceError

_LINE = re.compile(
    rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\.(\d{1,9})(?:Z|([+-]\d\d):?(\d\d)) (stdout|stderr) ([FP]) (.*)\n", re.DOTALL
)
_CHUNK = 1 << 18


class Reader:
    """Reads a log from an offset on, piece by piece; what is not yet written to its end waits."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        self._path = path
        self._offset = offset
        self._rest = b""
        self._seconds: tuple[bytes, float] = (b"", 0.0)
        """The time told last: most lines have the one of the line before."""

    def parts(self) -> Iterator[LogPart]:
        """The pieces that are there and were not read before."""
        try:
            file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            while data := os.pread(file, _CHUNK, self._offset):
                self._offset += len(data)
                *lines, self._rest = (self._rest + data).split(b"\n")
                for line in lines:
                    yield self._parse(line + b"\n")
        finally:
            os.close(file)

    def _parse(self, line: bytes) -> LogPart:
        found = _LINE.fullmatch(line)
        if found is None:
            raise InstanceError("the log is damaged: a line is not the monitor's", where=str(self._path))
        when, fraction, hours, minutes, stream, whole, data = found.groups()
        time = self._time(when, hours, minutes) + int(fraction.ljust(9, b"0")) / 1e9
        return LogPart(1 if stream == b"stdout" else 2, data + b"\n" if whole == b"F" else data, time)

    def _time(self, when: bytes, hours: bytes | None, minutes: bytes | None) -> float:
        key = b"%b%b%b" % (when, hours or b"", minutes or b"")
        if key != self._seconds[0]:
            from datetime import datetime

            zone = f"{hours.decode()}:{(minutes or b'00').decode()}" if hours else "+00:00"
            self._seconds = key, datetime.fromisoformat(when.decode() + zone).timestamp()
        return self._seconds[1]


def end(path: Path) -> int:
    """The offset from which on a log tells what was not written until now."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    try:
        at = os.fstat(file).st_size
        while at:  # what is being written right now is not whole: it counts as new
            start = max(0, at - _CHUNK)
            newline = os.pread(file, at - start, start).rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
            at = start
        return 0
    finally:
        os.close(file)


class Watch:
    """Can be read when a file of a directory has changed."""

    def __init__(self, directory: Path) -> None:
        from inotify_simple import INotify, flags

        self._notify = INotify()
        self._notify.add_watch(str(directory), flags.CREATE | flags.MODIFY | flags.MOVED_TO)

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def close(self) -> None:
        self._notify.close()

    def fileno(self) -> int:
        return int(self._notify.fileno())

    def clear(self) -> None:
        """Forget the changes until now."""
        self._notify.read(timeout=0)


def follow(path: Path, ended: int, finished: Callable[[], object]) -> Iterator[LogPart]:
    """All pieces, as they come, until the process of the pidfd `ended` has.

    `finished` is called then: it returns when all that the command wrote is in the log.
    """
    reader = Reader(path)
    with Watch(path.parent) as watch:
        while True:
            yield from reader.parts()
            process.either(ended, watch.fileno())
            if process.ended(ended, 0):
                break
            watch.clear()
    finished()
    yield from reader.parts()
