"""`hybrid logs`: what a detached command wrote, and goes on writing."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from hybrid.cli.arguments import Name, named

if TYPE_CHECKING:
    from hybrid.driver import Instance, LogPart


def logs(
    name: Name,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the command ends.")] = False,
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="From then on: 2026-01-31T12:00:00Z, or 10m ago.")
    ] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="TIME", help="Up to then, likewise.")] = None,
    tail: Annotated[
        str, typer.Option("--tail", "-n", metavar="LINES", help="How many of the last lines; all of them if not given.")
    ] = "all",
    timestamps: Annotated[bool, typer.Option("--timestamps", "-t", help="Say when each line was written.")] = False,
) -> int:
    """Print what the command of a detached instance wrote, to standard output and error as it did.

    Examples:

      hybrid logs -f --tail 20 web

      hybrid logs -t --since 10m web
    """
    from hybrid.cli.times import moment

    now = time.time()
    first, last = (
        None if each is None else moment(each, now, hint) for each, hint in ((since, "--since"), (until, "--until"))
    )
    lines = _count(tail)
    instance = named(name)
    wanted = (
        part
        for part in _tail(instance, lines, follow)
        if (first is None or _time(part) >= first) and (last is None or _time(part) <= last)
    )
    _print(wanted, timestamps)
    return 0


def _count(text: str) -> int | None:
    """How many lines; None is all."""
    if text == "all" or text == "-1":
        return None
    if not text.isdecimal():
        raise typer.BadParameter(f"{text!r} is no number of lines; write one, or all", param_hint="--tail")
    return int(text)


def _tail(instance: Instance, lines: int | None, follow: bool) -> Iterator[LogPart]:
    """What is to be seen of a log: all, or from the last so many lines of what there is now."""
    if lines is None:
        return instance.log(follow=follow)
    begun: set[int] = set()
    total = sum(_begins(part, begun) for part in instance.log())
    return _after(instance.log(follow=follow), total - lines)


def _after(parts: Iterator[LogPart], skipped: int) -> Iterator[LogPart]:
    """The parts after so many lines have begun; the end of a line whose start is skipped is skipped with it."""
    begun: set[int] = set()
    hidden: set[int] = set()
    for part in parts:
        if _begins(part, begun):
            (hidden.add if skipped > 0 else hidden.discard)(part.stream)
            skipped -= 1
        if part.stream not in hidden:
            yield part


def _begins(part: LogPart, begun: set[int]) -> bool:
    """Whether a part is the start of a line; `begun` keeps the streams in the middle of one."""
    starts = part.stream not in begun
    (begun.discard if part.data.endswith(b"\n") else begun.add)(part.stream)
    return starts


def _time(part: LogPart) -> float:
    from hybrid.errors import InstanceError

    if part.time is None:
        raise InstanceError("nobody noted when this was written", mend="leave out --since, --until and --timestamps")
    return part.time


def _print(parts: Iterator[LogPart], timestamps: bool) -> None:
    from hybrid.cli.times import rfc3339

    begun: set[int] = set()
    for part in parts:
        data = part.data
        if _begins(part, begun) and timestamps:
            data = f"{rfc3339(_time(part))} ".encode() + data
        while data:
            data = data[os.write(part.stream, data) :]
