"""`hybrid kill`: a signal for the command, SIGKILL unless another is asked for."""

from __future__ import annotations

from typing import Annotated

import typer

from hybrid.cli.arguments import Names, named


def kill(
    names: Names,
    text: Annotated[str, typer.Option("--signal", "-s", metavar="SIGNAL", help="A name or a number.")] = "SIGKILL",
) -> int:
    """Send the commands of running instances a signal.

    Examples:

      hybrid kill web

      hybrid kill -s HUP web
    """
    from hybrid.cli import deeds
    from hybrid.cli.each import each
    from hybrid.driver import State
    from hybrid.errors import InstanceError
    from hybrid.units import parse_signal

    try:
        number = parse_signal(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--signal") from None

    def deed(name: str) -> None:
        instance = named(name)
        if instance.status().state not in (State.RUNNING, State.PAUSED):
            raise InstanceError(f"{name} is not running", mend=f"hybrid start {name}")
        instance.signal(number)
        deeds.journal().note("kill", instance.record, signal=number)

    return each(names, deed)
