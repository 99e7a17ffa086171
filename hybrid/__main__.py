"""The command `hybrid`: every way out of it is here."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from collections.abc import Sequence
from typing import NoReturn


def main() -> NoReturn:
    """Run this process's command line and exit with its code.

    Python's collector and its orderly teardown would cost a fifth of a short command, and free nothing
    that the end of the process does not free.
    """
    gc.set_threshold(100_000)
    _complete_streams()
    code = run(sys.argv[1:])
    atexit._run_exitfuncs()
    sys.stderr.flush()
    os._exit(code)


def _complete_streams() -> None:
    """Put /dev/null where we were started with a standard stream closed, before a file of ours gets its number."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, number)
            if null != number:
                os.close(null)
            setattr(sys, name, os.fdopen(number, mode))


def run(words: Sequence[str]) -> int:
    """Run one command line and return its exit code. Nothing that was begun is left half done."""
    from hybrid.cli import app, errors
    from hybrid.interrupt import Interrupts

    try:
        with Interrupts() as interrupts:
            try:
                code = app.run(words, interrupts)
            except KeyboardInterrupt:
                code = 130
            except Exception as error:
                code = errors.report(error, words)
        if code == 130 and interrupts.number is not None:
            code = 128 + interrupts.number
        sys.stdout.flush()
    except BrokenPipeError:
        code = 1  # whoever read our output has gone and needs no message; typer does the same
    return code


if __name__ == "__main__":
    main()
