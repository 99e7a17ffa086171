"""`hybrid ps`: what there is, asked of the host and not of a file that may have passed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hybrid.cli import view
from hybrid.cli.format import Field, FormatOption, formatted, show
from hybrid.cli.table import duration

if TYPE_CHECKING:
    from hybrid.driver import Status
    from hybrid.home import Home
    from hybrid.store import Record

_FIELDS = (
    Field("Names", "NAME", usual=True),
    Field("ID", "ID", usual=True),
    Field("Kind", "KIND", usual=True),
    Field("Image", "IMAGE", usual=True),
    Field("Command", "COMMAND", usual=True),
    Field("RunningFor", "CREATED", usual=True),
    Field("Status", "STATUS", usual=True),
    Field("Ports", "PORTS", usual=True),
    Field("CreatedAt", "CREATED AT"),
    Field("State", "STATE"),
    Field("Health", "HEALTH"),
    Field("Labels", "LABELS"),
    Field("Networks", "NETWORKS"),
    Field("Mounts", "MOUNTS"),
)
_DAMAGED = {"ID": "", "State": "damaged", "Status": "Damaged"}


def ps(
    everything: Annotated[bool, typer.Option("--all", "-a", help="Also those that do not run.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print ids only.")] = False,
    filters: Annotated[
        list[str] | None,
        typer.Option("--filter", "-f", metavar="KEY=VALUE", help="Only such: id, name, status, label, kind, health, …"),
    ] = None,
    form: FormatOption = "table",
    whole: Annotated[bool, typer.Option("--no-trunc", help="Shorten nothing.")] = False,
    last: Annotated[int, typer.Option("--last", "-n", metavar="NUMBER", help="The last created, in any state.")] = -1,
    latest: Annotated[bool, typer.Option("--latest", "-l", help="The last created, in any state.")] = False,
) -> int:
    """List the running instances, or with -a all of them, the last created first.

    Filters of one key widen the choice, those of several keys narrow it; each label narrows it. The keys: id,
    name, status (created, running, paused, exited), exited (a code), label, kind, health, ancestor, network.

    Examples:

      hybrid ps -a

      hybrid ps --filter label=team=web --format 'table {{.Names}}\\t{{.Status}}'

      hybrid rm $(hybrid ps -aq --filter status=exited)
    """
    from hybrid.cli.filters import parse, passes
    from hybrid.driver import State
    from hybrid.home import default_home
    from hybrid.store import InstanceStore

    wanted = parse(filters or [], KEYS)
    home = default_home()
    store = InstanceStore(home)
    records = list(reversed(list(store)))
    number = 1 if latest else last
    anyway = everything or number > 0 or any(key in wanted for key in ("status", "exited"))
    seen = [
        (record, status)
        for record, status in _with_status(records, home)
        if (anyway or status.state in (State.RUNNING, State.PAUSED)) and passes(wanted, partial(_facts, record, status))
    ]
    damaged = list(store.damaged()) if everything and not wanted else []
    _print(seen[:number] if number > 0 else seen, damaged, quiet=quiet, form=form, whole=whole)
    return 0


KEYS = ("id", "name", "status", "exited", "label", "kind", "health", "ancestor", "network")


def _print(seen: list[tuple[Record, Status]], damaged: list[str], *, quiet: bool, form: str, whole: bool) -> None:
    if quiet:
        show(record.id if whole else record.id[: view.SHORT] for record, _ in seen)
        return
    rows = [_row(record, status, whole) for record, status in seen]
    empty = {field.name: "" for field in _FIELDS}
    rows += [{**empty, **_DAMAGED, "Names": name} for name in damaged]
    plain = [view.raw(*pair) for pair in seen] if form == "json" else []
    plain += [{"name": name, "state": "damaged"} for name in damaged]
    show(formatted(form, _FIELDS, rows, plain))


def _with_status(records: Iterable[Record], home: Home) -> Iterator[tuple[Record, Status]]:
    """Each with what is true of it now; one that was removed while we looked is left out."""
    from hybrid.drivers import open_instance

    for record in records:
        try:
            yield record, open_instance(record, home).status()
        except Exception:
            if record.directory.exists():
                raise


def _row(record: Record, status: Status, whole: bool) -> dict[str, Any]:
    labels = view.labels(record)
    joined = view.attachment(record)
    return {
        "Names": record.name,
        "ID": record.id if whole else record.id[: view.SHORT],
        "Kind": record.kind.value,
        "Image": view.image(record),
        "Command": view.command(record.command, whole=whole),
        "RunningFor": f"{duration(time.time() - record.created)} ago",
        "Status": view.describe(status),
        "Ports": view.ports(joined),
        "CreatedAt": view.local_time(record.created),
        "State": status.state.value,
        "Health": status.health.value if status.health else "",
        "Labels": ",".join(f"{key}={value}" for key, value in labels.items()),
        "Networks": ",".join(view.networks(record, joined)),
        "Mounts": ",".join(view.mounts(record)),
    }


def _facts(record: Record, status: Status, key: str) -> list[str]:
    """What an instance has to show for a filter's key."""
    match key:
        case "status":
            return [status.state.value]
        case "exited":
            return [] if status.exit_code is None or status.state != "exited" else [str(status.exit_code)]
        case "label":
            return [text for name, value in view.labels(record).items() for text in (name, f"{name}={value}")]
        case "health":
            return ["none" if status.health is None else status.health.value]
        case "ancestor":
            return [record.image, record.image_name, view.image(record)]
        case "network":
            return list(view.networks(record, view.attachment(record)))
        case _:
            return [str(getattr(record, key))]
