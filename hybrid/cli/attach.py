"""`hybrid attach`: join our terminal to a command that runs detached."""

from __future__ import annotations

from typing import Annotated

import typer

from hybrid.cli.arguments import Name, named
from hybrid.cli.terminal import DETACH_KEYS


def attach(
    context: typer.Context,
    name: Name,
    no_stdin: Annotated[bool, typer.Option("--no-stdin", help="Pass no input on.")] = False,
    sig_proxy: Annotated[
        bool, typer.Option("--sig-proxy/--no-sig-proxy", help="Pass signals on; else they end us alone.")
    ] = True,
    detach_keys: Annotated[
        str, typer.Option("--detach-keys", metavar="KEYS", help="Typed on a terminal, they leave it running.")
    ] = DETACH_KEYS,
) -> int:
    """Show what a running instance writes from now on, and pass input and signals on to it.

    Its exit status is ours. Input arrives if it was made with -i. On a terminal the keys ctrl-p ctrl-q
    detach, and it runs on.

    Examples:

      hybrid attach web

      hybrid attach --no-stdin --no-sig-proxy web
    """
    from hybrid.cli.foreground import join
    from hybrid.cli.terminal import keys

    return join(context.obj, named(name), stdin=not no_stdin, signals=sig_proxy, detach=keys(detach_keys))
