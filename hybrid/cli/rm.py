"""`hybrid rm`: remove an instance and all that it left on the host."""

from __future__ import annotations

from typing import Annotated

import typer


def rm(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Names of instances, or the start of an id.")],
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Also one that runs or whose record is damaged.")
    ] = False,
) -> int:
    """Remove instances with their writable layers and logs.

    Examples:

      hybrid rm web

      hybrid rm -f web cache
    """
    from hybrid.cli.each import each
    from hybrid.home import default_home
    from hybrid.salvage import remove

    home = default_home()
    return each(names, lambda name: remove(name, home, force=force))
