"""`hybrid cp`: files between this host and an instance, both ways."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from hybrid.cli.arguments import complete_instance, named


def complete(incomplete: str) -> list[str]:
    """Names of instances, up to the colon; the shell completes this host's files by itself."""
    return [f"{name}:" for name in complete_instance(incomplete)] if ":" not in incomplete else []


def cp(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="NAME:PATH, a path of this host, or -.", autocompletion=complete)
    ],
    target: Annotated[
        str,
        typer.Argument(metavar="TARGET", help="Likewise: one of the two is in an instance.", autocompletion=complete),
    ],
    archive: Annotated[bool, typer.Option("--archive", "-a", help="Keep owners, as numbers.")] = False,
    follow: Annotated[bool, typer.Option("--follow-link", "-L", help="Copy what a link at SOURCE leads to.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Do not say what was copied.")] = False,
) -> int:
    """Copy files and trees into an instance or out of one, whether it runs or not.

    As in Docker: a TARGET that is a directory gets the copy in it; SOURCE/. copies what is in a directory.
    With - a tar archive comes from standard input, or goes to standard output. Copies belong to root there and
    to you here. No device and no setuid program is made on this host.

    Examples:

      hybrid cp web.conf web:/etc/nginx/conf.d/

      hybrid cp web:/var/log/nginx/. logs

      hybrid cp web:/srv - | tar t
    """
    from hybrid import copy
    from hybrid.cli.table import size

    here, there = split(source), split(target)
    if (here[0] is None) == (there[0] is None):
        both = "between instances" if here[0] else "on this host alone"
        raise typer.BadParameter(f"nothing is copied {both}; write NAME:PATH once", param_hint="SOURCE TARGET")
    name = here[0] or there[0] or ""
    inside = named(name).inside
    with _said(name):
        if there[0] is None and target == "-":
            if os.isatty(1):
                raise typer.BadParameter("an archive does not go to a terminal", param_hint="-")
            copy.get_stream(inside, here[1], 1, follow=follow)
            return 0
        if source == "-":
            copy.put_stream(inside, 0, there[1])
            return 0
        move = copy.put if here[0] is None else copy.get
        copied = move(inside, here[1], there[1], owners=archive, follow=follow)
    if not quiet:
        print(f"copied {size(copied)} to {target}", file=sys.stderr)
    return 0


@contextmanager
def _said(name: str) -> Iterator[None]:
    """Errors of files, which may be the instance's, told with what they are about."""
    from hybrid.errors import HybridError

    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        about = f"{os.fsdecode(error.filename)}: " if error.filename is not None else ""
        raise HybridError(f"copying with {name}: {about}{error.strerror or error}", mend="check the paths") from None


def split(text: str) -> tuple[str | None, str]:
    """The instance and the path in it; None for a path of this host."""
    name, colon, path = text.partition(":")
    if not colon or not name or "/" in name or name.startswith("."):
        return None, text
    return name, path or "/"
