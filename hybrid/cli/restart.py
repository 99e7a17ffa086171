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
    from hybrid.cli.each import each
    from hybrid.cli.start import detached

    def deed(name: str) -> None:
        instance = named(name)
        instance.stop(instance.record.stop_timeout if timeout is None else timeout)
        detached(instance)

    return each(names, deed)
