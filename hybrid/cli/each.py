"""One deed done to several instances: all are tried, each failure is told, and the exit code says if any failed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hybrid.cli.errors import tell


def each(names: Sequence[str], deed: Callable[[str], str | None]) -> int:
    """Do `deed` to every name, once each; print what it returns, or the name when that is nothing; 1 if one failed."""
    failed = False
    for name in dict.fromkeys(names):
        try:
            done = deed(name)
            print(name if done is None else done, flush=True)
        except BrokenPipeError:
            raise
        except Exception as error:
            failed = True
            tell(error)
    return int(failed)
