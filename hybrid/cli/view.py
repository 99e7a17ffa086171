"""What is shown of an instance: words for people, and Docker's names for templates."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hybrid.cli.table import duration
from hybrid.driver import State

if TYPE_CHECKING:
    from hybrid.driver import Status
    from hybrid.network.model import Attachment
    from hybrid.store import Record

SHORT = 12
"""Digits of an id that people see."""
_COMMAND = 30
"""Characters of a command in a table."""


def describe(status: Status) -> str:
    """The status in words, as Docker says it."""
    if status.state in (State.RUNNING, State.PAUSED):
        age = _age(status)
        words = "Up" if age is None else f"Up {duration(age)}"
        if status.state is State.PAUSED:
            return f"{words} (Paused)"
        return words if status.health is None else f"{words} ({_health(status.health)})"
    if status.state is State.EXITED:
        words = "Exited" if status.exit_code is None else f"Exited ({status.exit_code})"
        return words if status.finished is None else f"{words} {duration(time.time() - status.finished)} ago"
    return "Created"


def _health(health: str) -> str:
    return "health: starting" if health == "starting" else health


def _age(status: Status) -> float | None:
    """Seconds since the command, or its engine's process, started."""
    from hybrid.process import start_time

    if status.started is not None:
        return time.time() - status.started
    started = None if status.pid is None else start_time(status.pid)
    if started is None:
        return None
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK")


def image(record: Record) -> str:
    """The image's name, or the start of its digest when it has none."""
    name = record.image_name or record.image
    return name.removeprefix("sha256:")[:SHORT] if name.startswith("sha256:") else name


def command(words: Sequence[str], *, whole: bool) -> str:
    """A command in quotes, as Docker shows it."""
    text = " ".join(words)
    return f'"{text}"' if whole or len(text) <= _COMMAND else f'"{text[: _COMMAND - 1]}…"'


def labels(record: Record) -> dict[str, str]:
    """The labels of its spec."""
    found = record.spec.get("labels")
    return dict(found) if isinstance(found, dict) else {}


def when(seconds: float | None) -> str:
    """A moment as Docker's inspect writes it; never is the year 1."""
    from hybrid.cli.times import rfc3339

    return "0001-01-01T00:00:00Z" if seconds is None else rfc3339(seconds)


def local_time(seconds: float) -> str:
    """A moment as Docker's lists write it."""
    return time.strftime("%Y-%m-%d %H:%M:%S %z %Z", time.localtime(seconds))


def raw(record: Record, status: Status) -> dict[str, Any]:
    """What `ps --format json` says: plain values under our own names."""
    return {
        "name": record.name,
        "id": record.id,
        "kind": record.kind.value,
        "image": record.image_name,
        "digest": record.image,
        "command": list(record.command),
        "created": record.created,
        "state": status.state.value,
        "exit_code": status.exit_code,
        "pid": status.pid,
        "started": status.started,
        "finished": status.finished,
        "oom_killed": status.oom_killed,
        "health": None if status.health is None else status.health.value,
        "labels": labels(record),
    }


def attachment(record: Record) -> Attachment:
    """How it is joined to networks now."""
    from hybrid import network

    return network.of(record)


def ports(joined: Attachment) -> str:
    """The published ports of a running instance, as Docker lists them."""
    return ", ".join(map(str, joined.ports))


def networks(record: Record, joined: Attachment) -> Sequence[str]:
    """The names of the networks that it is on, or would be on."""
    if joined.interfaces:
        return [each.network for each in joined.interfaces]
    wished = record.spec.get("networks")
    return list(wished) if wished else [joined.mode.value]


def mounts(record: Record) -> Sequence[str]:
    """What its volumes are made of."""
    found = record.spec.get("volumes") or ()
    return [str(each.get("source") or each.get("target")) for each in found if isinstance(each, dict)]
