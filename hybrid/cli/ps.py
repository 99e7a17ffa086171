"""`hybrid ps`: what there is, asked of the host and not of a file that may have passed."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hybrid.cli.table import Format, duration, show

if TYPE_CHECKING:
    from hybrid.driver import Status
    from hybrid.store import Record

_HEADERS = ("NAME", "ID", "KIND", "IMAGE", "COMMAND", "CREATED", "STATUS")


def ps(
    everything: Annotated[bool, typer.Option("--all", "-a", help="Also those that do not run.")] = False,
    form: Annotated[Format, typer.Option("--format", help="How to print them.")] = Format.TABLE,
) -> int:
    """List the running instances, or with -a all of them.

    Examples:

      hybrid ps -a

      hybrid ps --format json
    """
    from hybrid.driver import State
    from hybrid.home import default_home
    from hybrid.store import InstanceStore

    home = default_home()
    store = InstanceStore(home)
    found = [(record, status) for record in store if (status := _status(record, home)) is not None]
    seen = [pair for pair in found if everything or pair[1].state is State.RUNNING]
    damaged = list(store.damaged()) if everything else []
    if form is Format.JSON:
        import json

        rows = [_values(record, status) for record, status in seen]
        print(json.dumps(rows + [{"name": name, "state": "damaged"} for name in damaged], indent=2))
    else:
        show(_HEADERS, [_row(*pair) for pair in seen] + [_damaged(name) for name in damaged])
    return 0


def _status(record: Record, home: Any) -> Status | None:
    """What is true of the instance; None when it was removed while we looked."""
    from hybrid.drivers import open_instance

    try:
        return open_instance(record, home).status()
    except Exception:
        if not record.directory.exists():
            return None
        raise


def _row(record: Record, status: Status) -> tuple[str, ...]:
    command = " ".join(record.command)
    return (
        record.name,
        record.id[:12],
        record.kind.value,
        _image(record),
        command if len(command) <= 40 else command[:39] + "…",
        f"{duration(time.time() - record.created)} ago",
        describe(status),
    )


def _image(record: Record) -> str:
    """The image's name, or the start of its digest when it has none."""
    name = record.image_name or record.image
    return name.removeprefix("sha256:")[:12] if name.startswith("sha256:") else name


def _damaged(name: str) -> tuple[str, ...]:
    return (name, "", "", "", "", "", "Damaged")


def _values(record: Record, status: Status) -> dict[str, Any]:
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
    }


def describe(status: Status) -> str:
    """The status in words, as Docker says it."""
    if status.state == "running":
        age = _age(status.pid)
        return "Up" if age is None else f"Up {duration(age)}"
    if status.state == "exited":
        return "Exited" if status.exit_code is None else f"Exited ({status.exit_code})"
    return "Created"


def _age(pid: int | None) -> float | None:
    """Seconds since the process started."""
    from hybrid.process import start_time

    started = None if pid is None else start_time(pid)
    if started is None:
        return None
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK")
