"""`hybrid rm`: remove an instance and all that it left on the host."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated

import typer

from hybrid.cli.arguments import Names, named
from hybrid.errors import InstanceError


def rm(
    names: Names,
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Also one that runs or whose record is damaged.")
    ] = False,
    after_exit: Annotated[
        bool, typer.Option("--after-exit", help="Wait until it has ended; hybrid run -d --rm does it so.")
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

    def deed(name: str) -> None:
        if after_exit:
            with suppress(InstanceError):  # nobody saw its exit code; the next step says if there is none of that name
                named(name).wait()
        remove(name, home, force=force)

    return each(names, deed)
