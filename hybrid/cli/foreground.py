"""A command that this process stays with: started or attached to, its streams and signals are ours until it ends."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from typing import TYPE_CHECKING

from hybrid.cli import deeds, terminal
from hybrid.cli.signals import FORWARDED, forwarded, held
from hybrid.driver import Stdio

if TYPE_CHECKING:
    from hybrid.driver import Instance
    from hybrid.interrupt import Interrupts


def live(
    interrupts: Interrupts,
    make: Callable[[], Instance],
    *,
    stdin: bool = True,
    made: bool = False,
    remove: bool = False,
) -> int:
    """Take an instance through a run in the foreground; its exit code.

    What was `made` for this run is destroyed when the run fails to start, and with `remove` in any case.
    Our terminal is the command's once that runs: until then Ctrl-C is ours.
    """
    with (
        interrupts.shield(),
        ExitStack() as undo,
        forwarded(lambda number: _send(instance, number), (*FORWARDED, signal.SIGWINCH)) as send,
    ):
        with held(interrupts) as waiting:
            instance = make()
            if made:
                undo.callback(deeds.destroy, instance)
            instance.start(Stdio(0 if stdin else -1, 1, 2))
            with interrupts.expose():
                instance.wait_entrypoint(deeds.START_SECONDS)
        deeds.started(instance)
        shown = has_terminal(instance)
        with terminal.raw() if shown and stdin else nullcontext():
            if shown:
                instance.resize(terminal.window())
            for number in waiting:
                send(number)
            code = instance.wait()
        deeds.journal().note_end(instance)
        if made and not remove:
            undo.pop_all()
        return code


def join(interrupts: Interrupts, instance: Instance, *, stdin: bool, signals: bool, detach: bytes) -> int:
    """Attach to a running instance until it ends, its exit code; or until the keys are typed, 0."""
    numbers = (*(FORWARDED if signals else ()), signal.SIGWINCH)
    shown = has_terminal(instance)
    try:
        with (
            interrupts.shield() if signals else nullcontext(),
            forwarded(lambda number: _send(instance, number), numbers),
            terminal.joined(terminal=shown, stdin=stdin, detach=detach) as stdio,
        ):
            instance.attach(stdio)
            deeds.journal().note("attach", instance.record)
            if shown:
                instance.resize(terminal.window())
            return instance.wait()
    except terminal.Detached:
        print(f"\ndetached from {instance.record.name}, which runs on", file=sys.stderr)
        return 0


def has_terminal(instance: Instance) -> bool:
    """Whether the command's three streams are one terminal."""
    return bool(instance.record.spec.get("tty"))


def _send(instance: Instance, number: int) -> None:
    if number != signal.SIGWINCH:
        instance.signal(number)
    elif has_terminal(instance):
        instance.resize(terminal.window())
