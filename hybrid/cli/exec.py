"""`hybrid exec`: one more program in a running instance."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hybrid.cli.arguments import Name, named

CONTEXT = {"allow_interspersed_args": False}


def exec(
    name: Name,
    command: Annotated[list[str], typer.Argument(metavar="COMMAND...", help="The program and its arguments.")],
    interactive: Annotated[bool, typer.Option("--interactive", "-i", help="Pass our standard input on.")] = False,
    terminal: Annotated[bool, typer.Option("--tty", "-t", help="Give it a terminal.")] = False,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Do not wait for it.")] = False,
    env: Annotated[
        list[str] | None,
        typer.Option("--env", "-e", metavar="NAME[=VALUE]", help="Set a variable; without a value, as it is here."),
    ] = None,
    env_file: Annotated[
        list[Path] | None, typer.Option("--env-file", metavar="FILE", help="Read variables, a line each.")
    ] = None,
    workdir: Annotated[str | None, typer.Option("--workdir", "-w", metavar="DIR", help="Where it starts.")] = None,
    user: Annotated[
        str | None, typer.Option("--user", "-u", metavar="USER[:GROUP]", help="Who executes it: names or numbers.")
    ] = None,
) -> int:
    """Execute a program in a running instance: in the container's namespaces, or inside the guest.

    Its exit status is ours: 125 when hybrid itself failed, 126 when it cannot be executed, 127 when it is not
    there, 128+n when signal n ended it. Signals that we get go to it. Options come before NAME.

    Examples:

      hybrid exec web cat /etc/os-release

      hybrid exec -it -u app -w /srv web sh

      tar c src | hybrid exec -i web tar x -C /srv
    """
    from hybrid.cli.environment import variables
    from hybrid.cli.terminal import check, window
    from hybrid.driver import Execution

    if workdir is not None and not workdir.startswith("/"):
        raise typer.BadParameter(f"{workdir!r} is no absolute path", param_hint="--workdir")
    words = tuple(command[1:] if command[:1] == ["--"] else command)
    if not detach:
        check(terminal, interactive)
    size = window() if terminal else None
    shown = {"TERM": "xterm"} if terminal else {}
    execution = Execution(words, shown | variables(env or [], env_file or []), workdir, user, size)
    instance = named(name)
    if detach:
        from hybrid.cli import background

        return background.run(instance, execution)
    from hybrid.cli import session

    return session.run(instance, execution, stdin=interactive)
