"""`hybrid stop`: ask the command to end, and see that it does."""

from __future__ import annotations

from typing import Annotated

import typer

from hybrid.cli.arguments import Names, named


def stop(
    names: Names,
    timeout: Annotated[
        float | None,
        typer.Option("--time", "--timeout", "-t", min=0, help="Seconds until SIGKILL; else as the spec says, else 10."),
    ] = None,
) -> int:
    """Stop instances by their stop signal, then by SIGKILL.

    Examples:

      hybrid stop web

      hybrid stop -t 1 web cache
    """
    from hybrid.cli import deeds
    from hybrid.cli.each import each

    return each(names, lambda name: deeds.stop(named(name), timeout))
