"""Every error that hybrid raises on purpose.

    HybridError
    ├── SpecError             the spec says something that cannot be done
    ├── ImageError            an image cannot be had, read or trusted
    ├── InstanceError         an instance is missing, busy or in the wrong state
    ├── HostError             this machine lacks something
    ├── CommandError          the command cannot be executed (exit code 126 or 127)
    ├── NotReadyError         a phase did not end in time
    └── ToolError             an outside program failed

Libraries raise; the command line prints `what`, `where` and `mend`, once, in one place.
"""

from __future__ import annotations

from collections.abc import Sequence


class HybridError(Exception):
    """What failed, where, and what to do about it.

    `exit_code` is what `hybrid run` exits with; as in Docker, 125 means that hybrid itself failed.
    """

    exit_code = 125

    def __init__(self, what: str, *, where: str = "", mend: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.mend = mend


class SpecError(HybridError):
    """One or more mistakes in a spec; `errors` holds each with its file, line and key."""

    def __init__(self, errors: Sequence[HybridError]) -> None:
        super().__init__("; ".join(error.what for error in errors))
        self.errors = tuple(errors)


class ImageError(HybridError):
    """An image cannot be had, read or trusted."""


class InstanceError(HybridError):
    """An instance is missing, busy or in the wrong state."""


class HostError(HybridError):
    """This machine lacks something that the kind needs."""


class CommandError(HybridError):
    """The command cannot be executed: 127 when it is not there, 126 when it may not be run."""

    def __init__(self, what: str, *, exit_code: int, mend: str = "") -> None:
        super().__init__(what, mend=mend)
        self.exit_code = exit_code


class NotReadyError(HybridError):
    """A phase did not end in time; `phase` names it, `tail` holds the console's or log's last lines."""

    def __init__(self, what: str, *, phase: str, tail: str = "", mend: str = "") -> None:
        super().__init__(what, mend=mend)
        self.phase = phase
        self.tail = tail


class ToolError(HybridError):
    """An outside program failed; `stderr` is its last output."""

    def __init__(self, what: str, *, returncode: int, stderr: str = "", mend: str = "") -> None:
        super().__init__(what, mend=mend)
        self.returncode = returncode
        self.stderr = stderr
