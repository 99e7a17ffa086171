"""Arguments that many commands have: names of instances, and how the shell completes them."""

from __future__ import annotations

import os
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


def complete_image(incomplete: str) -> list[str]:
    """Names of images that start so, the short one where that is enough; and specs in reach."""
    from hybrid.home import default_home

    try:
        names = [link.name.replace("+", "/") for link in (default_home().images / "names").iterdir()]
    except OSError:
        names = []
    shorter = [name.removeprefix("docker.io/library/").removeprefix("localhost/") for name in names]
    found = [name for name in (*shorter, *names) if name.startswith(incomplete)]
    return sorted(dict.fromkeys(found), key=lambda name: (len(name), name)) + _specs(incomplete)


def _specs(incomplete: str) -> list[str]:
    """Spec files and directories that a path so begun may lead to."""
    above, _, start = incomplete.rpartition("/")
    try:
        entries = sorted(os.scandir(above or ("/" if incomplete.startswith("/") else ".")), key=lambda each: each.name)
    except OSError:
        return []
    prefix = incomplete[: len(incomplete) - len(start)]
    return [
        prefix + each.name + ("/" if each.is_dir() else "")
        for each in entries
        if each.name.startswith(start)
        and (start.startswith(".") or not each.name.startswith("."))
        and (each.is_dir() or each.name.endswith((".yaml", ".yml")))
    ]


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
