"""`hybrid shell`: a shell in a running instance."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from hybrid.cli.arguments import Name, named

if TYPE_CHECKING:
    from hybrid.driver import Instance

SHELLS = ("/bin/bash", "/usr/bin/bash", "/bin/sh", "/usr/bin/sh", "/bin/ash", "/busybox/sh")


def shell(
    name: Name,
    workdir: Annotated[str | None, typer.Option("--workdir", "-w", metavar="DIR", help="Where it starts.")] = None,
    user: Annotated[
        str | None, typer.Option("--user", "-u", metavar="USER[:GROUP]", help="Who executes it: names or numbers.")
    ] = None,
) -> int:
    """Open bash in a running instance, or sh where there is no bash.

    Examples:

      hybrid shell web

      echo 'ls /srv' | hybrid shell -u app web
    """
    from hybrid.cli import session
    from hybrid.cli.terminal import window
    from hybrid.driver import Execution

    instance = named(name)
    shown = os.isatty(0) and os.isatty(1)
    env = {"TERM": "xterm"} if shown else {}
    execution = Execution((find(instance),), env, workdir, user, window() if shown else None)
    return session.run(instance, execution, stdin=True)


def find(instance: Instance) -> str:
    """The first shell that the instance has; CommandError (127) when it has none."""
    from hybrid.errors import CommandError

    for path in SHELLS:
        try:
            instance.inside.stat(path)
            return path
        except OSError:
            continue
    raise CommandError(
        f"{instance.record.name} has no shell: its image brings none",
        exit_code=127,
        mend=f"hybrid exec {instance.record.name} PROGRAM runs one that it has",
    )
