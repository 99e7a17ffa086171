"""`hybrid stop`: ask the command to end, and see that it does."""

from __future__ import annotations

from typing import Annotated

import typer


def stop(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Names of instances, or the start of an id.")],
    timeout: Annotated[
        float | None,
        typer.Option("--time", "-t", min=0, help="Seconds until SIGKILL; else as the spec says, else 10."),
    ] = None,
) -> int:
    """Stop instances by their stop signal, then by SIGKILL.

    Examples:

      hybrid stop web

      hybrid stop -t 1 web cache
    """
    from hybrid.cli.each import each
    from hybrid.drivers import open_instance
    from hybrid.home import default_home
    from hybrid.store import InstanceStore

    home = default_home()

    def deed(name: str) -> None:
        record = InstanceStore(home).get(name)
        open_instance(record, home).stop(record.stop_timeout if timeout is None else timeout)

    return each(names, deed)
