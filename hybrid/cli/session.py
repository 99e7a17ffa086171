"""A program executed in a running instance and joined to our terminal: what `exec` and `shell` do alike."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from typing import TYPE_CHECKING

from hybrid.cli import terminal
from hybrid.cli.signals import FORWARDED, forwarded

if TYPE_CHECKING:
    from hybrid.driver import Execution, Instance


def run(instance: Instance, execution: Execution, *, stdin: bool) -> int:
    """Execute it, serve its streams and pass our signals on; its exit code."""
    with ExitStack() as ending:
        shown = execution.terminal is not None
        stdio = ending.enter_context(terminal.joined(terminal=shown, stdin=stdin))
        session = instance.inside.exec(execution, stdio)
        ending.callback(session.close)
        from hybrid.cli import deeds  # loaded while the program starts

        deeds.executed(instance, execution)

        def send(number: int) -> None:
            if number == signal.SIGWINCH:
                session.resize(terminal.window())
            else:
                session.signal(number)

        with forwarded(send, (*FORWARDED, signal.SIGWINCH) if shown else FORWARDED):
            return session.wait()
