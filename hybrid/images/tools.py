"""Running the outside programs that make images: watched line by line, their failures told in one line."""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from hybrid import process
from hybrid.errors import ImageError, ToolError

_KEPT_LINES = 400
_FULL = "no space left on device"


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
    be killed before it.
    """
    kept: deque[bytes] = deque(maxlen=_KEPT_LINES)
    with process.spawn(
        argv,
        stdin=stdin,
        stdout=stdout,
        stderr=process.PIPE,
        env={**os.environ, "LC_ALL": "C", **(env or {})},
        pass_fds=pass_fds,
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
        raise error


@contextmanager
def disk_full_told(directory: Path) -> Iterator[None]:
    """Turn whatever way a full disk shows itself into one clear error."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _full(directory) from None
    except ToolError as error:
        if _FULL not in error.stderr.lower():
            raise
        raise _full(directory) from None


def _full(directory: Path) -> ImageError:
    return ImageError(
        "no space is left for the image",
        where=str(directory),
        mend="free some (hybrid image rm), or set HYBRID_HOME to a larger disk",
    )
