"""Running the outside programs that make images: watched line by line, their failures told in one line."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from hybrid import process
from hybrid.errors import ImageError

_PR_SET_PDEATHSIG = 1
_KEPT_LINES = 400
_FULL = "no space left on device"


def alone(argv: Sequence[str]) -> list[str]:
    """`argv` in a process namespace of its own, so that all it starts ends with it, however it ends.

    Only root may; without that, what it started may go on for a while.
    """
    if os.geteuid() != 0:
        return list(argv)
    return [process.need("unshare", "util-linux"), "--pid", "--fork", "--kill-child", "--mount-proc", *argv]


def _die_with_parent() -> Callable[[], None]:
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    return lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def watch(
    argv: Sequence[process.Argument],
    line: Callable[[str], None],
    *,
    stdout: process.Stream = process.DEVNULL,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    stdin: process.Stream = process.DEVNULL,
) -> None:
    """Run a program to its end, handing each line of its standard error to `line`. ToolError when it fails.

    `pass_fds` keeps the lock on the directory it works in held for as long as it lives, should this process
    be killed before it. The program itself is killed with this process. A full disk is the OSError that it
    would be for this process.
    """
    kept: deque[bytes] = deque(maxlen=_KEPT_LINES)
    with process.spawn(
        argv,
        stdin=stdin,
        stdout=stdout,
        stderr=process.PIPE,
        env={**os.environ, "LC_ALL": "C", **(env or {})},
        pass_fds=pass_fds,
        setup=_die_with_parent(),
    ) as child:
        assert child.stderr is not None
        for raw in child.stderr:
            kept.append(raw[:2000])
            line(raw[:2000].decode(errors="replace").rstrip())
        returncode = child.wait()
    if returncode != 0:
        stderr = b"".join(kept)
        error = process.failed(argv, returncode, stderr)
        error.stderr = stderr.decode(errors="replace")
        if _FULL in error.stderr.lower():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise error


@contextmanager
def disk_full_told(directory: Path) -> Iterator[None]:
    """Turn a full disk into one clear error."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ImageError(
            "no space is left for the image",
            where=str(directory),
            mend="free some (hybrid image rm), or set HYBRID_HOME to a larger disk",
        ) from None
