"""`hybrid wait`: until instances are as a script needs them."""

from __future__ import annotations

import time
from enum import StrEnum
from typing import Annotated

import typer

from hybrid.cli.arguments import Names, named


class Condition(StrEnum):
    """What is waited for."""

    EXITED = "exited"
    RUNNING = "running"
    HEALTHY = "healthy"


_LONG = 1e6
"""Seconds: for ever, as far as poll(2) can wait."""


def wait(
    names: Names,
    condition: Annotated[Condition, typer.Option("--for", help="What to wait for.")] = Condition.EXITED,
    timeout: Annotated[
        float | None, typer.Option("--timeout", min=0, metavar="SECONDS", help="Give up after this long, with 1.")
    ] = None,
) -> int:
    """Wait until instances have ended and print their exit codes, a line each.

    With `--for running` wait until their commands are executed, with `--for healthy` until their
    healthchecks pass; the names are printed then.

    Examples:

      hybrid wait web

      hybrid wait --for healthy --timeout 30 web cache
    """
    from hybrid.cli.each import each

    end = None if timeout is None else time.monotonic() + timeout
    return each(names, lambda name: _wait(name, condition, end))


def _wait(name: str, condition: Condition, end: float | None) -> str | None:
    instance = named(name)
    left = None if end is None else max(0.0, end - time.monotonic())
    patience = _LONG if left is None else left
    match condition:
        case Condition.EXITED:
            return str(instance.wait(left))
        case Condition.RUNNING:
            instance.wait_entrypoint(patience)
        case Condition.HEALTHY:
            instance.wait_ready(patience)
    return None
