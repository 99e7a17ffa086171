"""What commands do to an instance, and write down in the journal of events."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hybrid.driver import State
from hybrid.events import Journal
from hybrid.home import default_home

if TYPE_CHECKING:
    from hybrid.driver import Execution, Instance

START_SECONDS = 120.0
"""How long an instance may take until its command is executed. An emulated VM on a busy host needs most of it."""


def journal() -> Journal:
    """The journal of this home."""
    return Journal(default_home())


def start(instance: Instance) -> None:
    """Start an instance that goes on without us; return when its command is executed."""
    journal().note_end(instance)
    instance.start(None)
    instance.wait_entrypoint(START_SECONDS)
    started(instance)


def started(instance: Instance) -> None:
    journal().note("start", instance.record)


def executed(instance: Instance, execution: Execution) -> None:
    journal().note("exec_start", instance.record, command=" ".join(execution.argv))


def stop(instance: Instance, timeout: float | None) -> None:
    """Stop an instance within the seconds given, else those of its spec."""
    running = instance.status().state in (State.RUNNING, State.PAUSED)
    code = instance.stop(instance.record.stop_timeout if timeout is None else timeout)
    journal().note_end(instance)
    if running:
        journal().note("stop", instance.record, **({} if code is None else {"exitCode": code}))


def remove_at_end(instance: Instance) -> None:
    """Let a process of its own wait for the instance's end and remove it. One that is killed leaves it to `prune`."""
    import sys

    from hybrid import process

    words = [sys.executable, "-m", "hybrid", "rm", "--after-exit", instance.record.id]
    null = process.DEVNULL
    process.disown(process.launch(words, stdin=null, stdout=null, stderr=null, new_session=True))


def destroy(instance: Instance) -> None:
    instance.destroy()
    journal().note("destroy", instance.record)
