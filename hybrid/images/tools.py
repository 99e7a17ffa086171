"""Running the outside programs that make images: watched line by line, their failures told in one line."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import signal
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from hybrid import process
from hybrid.errors import ImageError, ToolError

_PR_SET_PDEATHSIG = 1
_KEPT_LINES = 400
_FULL = ("no space left on device", ": wrote only ")
"""What programs say of a full disk; the second is tar's, when a part of the last block did fit."""


def alone(argv: Sequence[str]) -> list[str]:
    """`argv` in a process namespace of its own, so that all it starts ends with it, however it ends.

    Only root may; without that, what it started may go on for a while.
    """
    if os.geteuid() != 0:
        return list(argv)
    return [process.need("unshare", "util-linux"), "--pid", "--fork", "--kill-child", "--mount-proc", *argv]


def _setup(largest: int | None) -> Callable[[], None]:
    """What a program does of itself before it starts: die with this process, write no file larger than `largest`."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def setup() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if largest is not None:
            most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            bound = largest if most == resource.RLIM_INFINITY else min(largest, most)
            resource.setrlimit(resource.RLIMIT_FSIZE, (bound, most))

    return setup


def watch(
    argv: Sequence[process.Argument],
    line: Callable[[str], None],
    *,
    stdout: process.Stream = process.DEVNULL,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    stdin: process.Stream = process.DEVNULL,
    cwd: Path | None = None,
    largest: int | None = None,
) -> None:
    """Run a program to its end, handing each line of its standard error to `line`. ToolError when it fails.

    `pass_fds` keeps the lock on the directory it works in held for as long as it lives, should this process
    be killed before it. The program itself is killed with this process. A full disk is the OSError that it
    would be for this process. `largest` is the most bytes that a file it writes may have.
    """
    kept: deque[bytes] = deque(maxlen=_KEPT_LINES)
    with process.spawn(
        argv,
        stdin=stdin,
        stdout=stdout,
        stderr=process.PIPE,
        env={**os.environ, "LC_ALL": "C", **(env or {})},
        pass_fds=pass_fds,
        cwd=cwd,
        setup=_setup(largest),
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
        if any(words in error.stderr.lower() for words in _FULL):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise error


def erase(path: Path) -> None:
    """Remove a tree, however deep its directories are; nothing happens when there is none."""
    with suppress(ToolError):
        process.run([process.need("rm", "coreutils"), "-rf", "--", path])


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
