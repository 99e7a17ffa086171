"""Work that outlives the command that began it: a process of ours that waits, since no daemon does."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from hybrid.cli import deeds
from hybrid.driver import Stdio
from hybrid.errors import CommandError, HybridError

if TYPE_CHECKING:
    from hybrid.driver import Execution, Instance


def run(instance: Instance, execution: Execution) -> int:
    """Execute a program in the instance and leave it running; 0 as soon as it runs, else what is wrong is raised."""

    def begin() -> Callable[[], object]:
        session = instance.inside.exec(execution, Stdio(-1, _null(), _null()))
        deeds.executed(instance, execution)
        return session.wait

    aside(begin)
    return 0


def aside(begin: Callable[[], Callable[[], object]]) -> None:
    """Call `begin` in a process of its own, return when it has, and let that process call what it returned.

    HybridError when `begin` raised one. That process has no terminal, hears no signal meant for us, and
    writes to nobody.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _work(begin, reader, writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read()
    if said != b"+":
        os.waitpid(child, 0)
        code, _, text = said.partition(b" ")
        raise _failure(code, text.decode(errors="replace"))


def _work(begin: Callable[[], Callable[[], object]], reader: int, writer: int) -> None:
    """The life of that process; it never returns."""
    try:
        os.close(reader)
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, signal.SIG_DFL)
        for descriptor in (0, 1, 2):
            os.dup2(_null(), descriptor)
        try:
            go_on = begin()
        except HybridError as error:
            os.write(writer, f"{error.exit_code} {error.what}\n{error.mend}".encode())
            return
        os.write(writer, b"+")
        os.close(writer)
        go_on()
    finally:
        os._exit(0)


def _null() -> int:
    return os.open(os.devnull, os.O_RDWR)


def _failure(code: bytes, text: str) -> HybridError:
    what, _, mend = text.partition("\n")
    if code in (b"126", b"127"):
        return CommandError(what, exit_code=int(code), mend=mend)
    return HybridError(what or "the process that was to wait has ended", mend=mend)
