"""What the guest's init says: lines in a file that QEMU writes, read as they come.

Everything in it is the guest's word. Lines are bounded, numbers checked, unknown words ignored; a
mark is stamped with the host's clock when the line is read.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from hybrid.marks import Mark, Marks

LONGEST_LINE = 4096
_MARKS = {"kernel": Mark.KERNEL, "init": Mark.INIT, "entrypoint": Mark.ENTRYPOINT, "ready": Mark.READY}


@dataclass(slots=True)
class Events:
    """The events read so far. With `marks`, each named moment is stamped there as it is read."""

    path: Path
    marks: Marks | None = None
    seen: set[Mark] = field(default_factory=set)
    exit_code: int | None = None
    exec_errno: int | None = None
    failure: str = ""
    """Why the init gave up, in its words."""
    probe: tuple[int, str] | None = None
    """The last failed healthcheck: its exit code and output."""
    evidence: list[tuple[str, str]] = field(default_factory=list)
    evidence_complete: bool = False
    _offset: int = 0
    _rest: bytes = b""

    def read(self) -> None:
        """Take in what was written since the last call."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            while data := os.pread(descriptor, 1 << 16, self._offset):
                self._offset += len(data)
                *lines, rest = (self._rest + data).split(b"\n")
                self._rest = rest[:LONGEST_LINE]
                for line in lines:
                    self._take(line[:LONGEST_LINE].decode("ascii", "replace").strip())
        finally:
            os.close(descriptor)

    def _take(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        if mark := _MARKS.get(word):
            self.seen.add(mark)
            if self.marks is not None:
                self.marks.stamp(mark)
        elif word == "exit" and rest.isdigit() and int(rest) < 256:
            self.exit_code = int(rest)
        elif word == "exec-failed" and rest.isdigit():
            self.exec_errno = int(rest)
        elif word == "failed":
            self.failure = rest[:200]
        elif word == "probe":
            code, _, text = rest.partition(" ")
            if code.isdigit():
                self.probe = int(code), _unhex(text)
        elif word == "evidence":
            self._take_evidence(*rest.partition(" ")[::2])

    def _take_evidence(self, key: str, text: str) -> None:
        if key == "end":
            self.evidence_complete = True
        elif len(self.evidence) < 64:
            self.evidence.append((key, _unhex(text)))

    def forget_evidence(self) -> None:
        """Drop what was told, before asking again."""
        self.evidence.clear()
        self.evidence_complete = False


def _unhex(text: str) -> str:
    try:
        return bytes.fromhex(text).decode(errors="replace")
    except ValueError:
        return ""
