"""Starting a program as another: what the child changes before it executes, and the errors of that."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from container.enter import Plan
from hybrid import process
from hybrid.errors import CommandError, HybridError

if TYPE_CHECKING:
    from hybrid.driver import Size, Stdio


def launch(plan: Plan, stdio: Stdio, size: Size | None, become: Callable[[], None]) -> tuple[process.Child, int]:
    """Start the plan's program in a session of its own, after `become` in the child.

    With the plan's `tty` its streams are a new terminal, whose master is returned, to be closed by the
    caller; else they are those given, and -1 is returned. CommandError when it cannot be executed.
    """
    if not plan.tty:
        stdin = process.DEVNULL if stdio.stdin < 0 else stdio.stdin
        return _started(plan, (stdin, stdio.stdout, stdio.stderr), become), -1
    from container.terminal import open_pair, take

    master, slave = open_pair(plan.uid, size)

    def changed() -> None:
        take(slave)
        become()

    try:
        return _started(plan, (slave, slave, slave), changed), master
    except BaseException:
        os.close(master)
        raise
    finally:
        os.close(slave)


def _started(plan: Plan, streams: tuple[int, int, int], become: Callable[[], None]) -> process.Child:
    with becoming(become) as setup:
        return process.launch(
            plan.argv,
            executable=plan.executable,
            env=plan.env,
            stdin=streams[0],
            stdout=streams[1],
            stderr=streams[2],
            setup=setup,
            new_session=True,
        )


@contextmanager
def becoming(change: Callable[[], None]) -> Iterator[Callable[[], None]]:
    """The `setup` of a launch that changes the child; what goes wrong there, or at execve, is raised here."""
    told, telling = os.pipe2(os.O_CLOEXEC)

    def setup() -> None:
        try:
            change()
        except OSError as error:
            os.write(telling, f"{error.filename or ''}: {error.strerror}".encode())
            raise

    try:
        yield setup
    except OSError as error:
        raise not_executed("", error) from None
    except Exception:
        os.close(telling)
        telling = -1
        if words := os.read(told, 4096).decode(errors="replace"):
            raise HybridError(f"the command's process could not be set up: {words}") from None
        raise
    finally:
        for descriptor in (told, telling):
            if descriptor >= 0:
                os.close(descriptor)


def not_executed(command: str, error: OSError) -> CommandError:
    missing = error.errno in (errno.ENOENT, errno.ENOTDIR)
    return CommandError(f"{command or error.filename}: {error.strerror}", exit_code=127 if missing else 126)
