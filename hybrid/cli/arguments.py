"""Arguments that many commands have: names of instances, and how the shell completes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from hybrid.driver import Instance


def complete_instance(incomplete: str) -> list[str]:
    """Names of instances that start so. Reads links and nothing else: a person waits for it."""
    from hybrid.home import default_home

    try:
        names = [link.name for link in (default_home().instances / ".names").iterdir()]
    except OSError:
        return []
    return sorted(name for name in names if name.startswith(incomplete))


_HELP = "An instance's name, or the start of its id."

Name = Annotated[str, typer.Argument(metavar="NAME", help=_HELP, autocompletion=complete_instance)]
Names = Annotated[
    list[str],
    typer.Argument(
        metavar="NAME...", help="Names of instances, or the start of an id.", autocompletion=complete_instance
    ),
]


def named(name: str) -> Instance:
    """The instance of that name, or of the only one whose id starts so; InstanceError when there is none."""
    from hybrid.drivers import open_instance
    from hybrid.home import default_home
    from hybrid.store import InstanceStore

    home = default_home()
    return open_instance(InstanceStore(home).get(name), home)
