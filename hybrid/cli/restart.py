"""`hybrid restart`: stop and start again, on the same writable layer."""

from __future__ import annotations

from typing import Annotated

import typer

from hybrid.cli.arguments import Names, named


def restart(
    names: Names,
    timeout: Annotated[
        float | None,
        typer.Option("--time", "--timeout", "-t", min=0, help="Seconds until SIGKILL; else as the spec says, else 10."),
    ] = None,
) -> int:
    """Stop instances, if they run, and start them detached.

    Examples:

      hybrid restart web

      hybrid restart -t 1 web cache
    """
    from hybrid.cli import deeds
    from hybrid.cli.each import each

    def deed(name: str) -> None:
        instance = named(name)
        deeds.stop(instance, timeout)
        deeds.start(instance)
        deeds.journal().note("restart", instance.record)

    return each(names, deed)
