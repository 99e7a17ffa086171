"""Where errors become words on standard error, for every command."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator, Sequence

import typer

from hybrid.errors import HybridError, NotReadyError, SpecError, ToolError

_TAIL_LINES = 20
_FULL = "free some space, or set HYBRID_HOME to a place that has more"
_CLOSED = "set HYBRID_HOME to a folder that you may write to, or run it as root"
_MENDS = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), _FULL),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR), _CLOSED),
}
"""Where the file system says no, it is about our own files: these errors come up anywhere in the code."""


def report(error: Exception, words: Sequence[str]) -> int:
    """Say what failed, where, and what mends it; return the exit code.

    `hybrid run` keeps Docker's codes: what the command returns is never mistaken for our own failure.
    """
    running = next((word for word in words if not word.startswith("-")), "") == "run"
    if isinstance(error, BrokenPipeError):
        raise error
    if isinstance(error, typer.TyperException):
        _say(_usage(error))
        return 125 if running else int(getattr(error, "exit_code", 1))
    if isinstance(error, HybridError):
        _say(lines(error))
        return error.exit_code if running else 1
    if os.environ.get("HYBRID_DEBUG"):
        raise error
    _say(_unexpected(error))
    return 125 if running else 1


def lines(error: HybridError) -> Iterator[str]:
    """An error as the user reads it."""
    if isinstance(error, SpecError):
        for single in error.errors:
            yield from lines(single)
        return
    yield f"hybrid: {error.what}"
    if error.where:
        yield f"  at   {error.where}"
    if isinstance(error, NotReadyError):
        yield from _tail(error.tail)
    if isinstance(error, ToolError):
        yield from _tail("\n".join(error.stderr.splitlines()[:-1]))
    if error.mend:
        yield f"  mend {error.mend}"


def _tail(text: str) -> Iterator[str]:
    for line in text.rstrip().splitlines()[-_TAIL_LINES:]:
        yield f"  | {line}"


def _usage(error: typer.TyperException) -> Iterator[str]:
    """A mistake on the command line, and where its help is."""
    context = getattr(error, "ctx", None)
    message = getattr(error, "format_message", error.__str__)()
    if context is not None and type(error).__name__ == "NoArgsIsHelpError":
        yield message
        return
    yield f"hybrid: {message}"
    if context is not None:
        yield f"  mend {context.command_path} --help says how"


def _unexpected(error: Exception) -> Iterator[str]:
    """What nobody foresaw where it happened. HYBRID_DEBUG shows where that was."""
    if not isinstance(error, OSError) or not error.strerror:
        yield f"hybrid: {type(error).__name__}: {error} (a bug; HYBRID_DEBUG=1 shows where it came from)"
        return
    yield f"hybrid: {error.strerror}"
    if error.filename is not None:
        yield f"  at   {os.fsdecode(error.filename)}"
    yield f"  mend {_MENDS.get(error.errno or 0, 'HYBRID_DEBUG=1 shows where it came from')}"


def _say(text: Iterator[str]) -> None:
    sys.stdout.flush()
    for line in text:
        print(printable(line), file=sys.stderr)
    sys.stderr.flush()


def printable(text: str) -> str:
    """`text` without what would steer a terminal: names and logs come from images that nobody vouched for."""
    return "".join(c if c.isprintable() or c in "\n\t" else f"\\x{ord(c):02x}" for c in text)
