"""Variables on the command line: `-e NAME=VALUE`, `-e NAME`, and Docker's files of them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import typer


def variables(
    given: Sequence[str], files: Sequence[Path], environment: Mapping[str, str] | None = None
) -> dict[str, str]:
    """All variables by name: those of the files in order, then those given.

    One without a value takes the caller's (of `environment`, or this process's), and is left out if that has none.
    """
    caller = os.environ if environment is None else environment
    found: dict[str, str] = {}
    for where, line in [*_lines(files), *(("--env", each) for each in given)]:
        name, equals, value = line.partition("=")
        if not name or "\0" in line or (where != "--env" and any(map(str.isspace, name))):
            raise typer.BadParameter(f"{line!r} is no variable; write NAME=VALUE or NAME", param_hint=where)
        if equals:
            found[name] = value
        elif name in caller:
            found[name] = caller[name]
    return found


def _lines(files: Sequence[Path]) -> list[tuple[str, str]]:
    """The lines of files that set something: nothing in them is quoted, as Docker reads them."""
    found = []
    for path in files:
        try:
            text = path.read_text("utf-8-sig")
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or "it is not UTF-8"
            raise typer.BadParameter(f"{path} cannot be read: {why}", param_hint="--env-file") from None
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip() and not line.lstrip().startswith("#"):
                found.append((f"{path}:{number}", line.lstrip()))
    return found
