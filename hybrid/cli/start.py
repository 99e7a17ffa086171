"""`hybrid start`: run the command of an instance that exists, once more or for the first time."""

from __future__ import annotations

from typing import Annotated

import typer

from hybrid.cli.arguments import Names, named


def start(
    context: typer.Context,
    names: Names,
    attach: Annotated[bool, typer.Option("--attach", "-a", help="Show what it writes, and pass signals on.")] = False,
    interactive: Annotated[
        bool, typer.Option("--interactive", "-i", help="Show what it writes, and pass our input on.")
    ] = False,
) -> int:
    """Start instances that were created or have ended, on the writable layer that they have.

    With -a or -i there is one NAME, and its exit status is ours.

    Examples:

      hybrid start web cache

      hybrid start -ai shell
    """
    from hybrid.cli import deeds
    from hybrid.cli.each import each

    if not (attach or interactive):
        return each(names, lambda name: deeds.start(named(name)))
    if len(names) > 1:
        raise typer.BadParameter("one instance can be attached to, not several", param_hint="NAME...")
    from hybrid.cli.foreground import live

    return live(context.obj, lambda: named(names[0]), stdin=interactive)
