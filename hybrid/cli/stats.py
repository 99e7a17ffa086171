"""`hybrid stats`: what running instances use, measured from one reading to the next."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hybrid.cli import view
from hybrid.cli.arguments import complete_instance
from hybrid.cli.format import Field, FormatOption, formatted, show

if TYPE_CHECKING:
    from hybrid.driver import Instance, Stats

_FIELDS = (
    Field("Name", "NAME", usual=True),
    Field("ID", "ID", usual=True),
    Field("Kind", "KIND", usual=True),
    Field("CPUPerc", "CPU %", usual=True),
    Field("MemUsage", "MEM USAGE / LIMIT", usual=True),
    Field("MemPerc", "MEM %", usual=True),
    Field("NetIO", "NET I/O", usual=True),
    Field("BlockIO", "BLOCK I/O", usual=True),
    Field("PIDs", "PIDS", usual=True),
    Field("Container", "CONTAINER"),
)
_NUMBERS = ("CPUPerc", "MemPerc", "PIDs")
_WIDE = 120
"""Columns of a terminal on which ids have room."""
INTERVAL = 1.0
"""Seconds between two readings: what a rate is measured over, and how often the table changes."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What one instance showed at one moment."""

    name: str
    id: str
    kind: str
    at: float
    """Seconds of the monotonic clock."""
    stats: Stats


def stats(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME...]",
            help="Names of instances, or the start of an id; else all that run.",
            autocompletion=complete_instance,
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", "-a", help="Also those that do not run.")] = False,
    once: Annotated[bool, typer.Option("--no-stream", help="Measure once, over a second, and end.")] = False,
    form: FormatOption = "table",
    whole: Annotated[bool, typer.Option("--no-trunc", help="Shorten nothing.")] = False,
) -> int:
    """Show what running instances use, as it changes: processor, memory, network, disk.

    CPU % is of one CPU, so four busy ones are 400 %. On a terminal the table is live until Ctrl-C; elsewhere a
    new one is printed each second.

    Examples:

      hybrid stats

      hybrid stats --no-stream --format json web
    """
    reader = _Reader(names or [], everything)
    before = reader.read()
    if once:
        time.sleep(INTERVAL)
        show(_lines(form, before, reader.read(), whole))
        return 0
    if form == "table" and os.isatty(1):
        return _live(reader, before, whole)
    while True:
        time.sleep(INTERVAL)
        now = reader.read()
        show(_lines(form, before, now, whole))
        before = now


class _Reader:
    """Reads the instances asked for; of all, those that are there at that moment."""

    def __init__(self, names: Sequence[str], everything: bool) -> None:
        from hybrid.home import default_home
        from hybrid.store import InstanceStore

        self._home = default_home()
        self._store = InstanceStore(self._home)
        self._ids = [self._store.get(name).id for name in names]
        self._everything = everything

    def read(self) -> dict[str, Reading]:
        """Readings by id, the last created first."""
        from hybrid.drivers import open_instance

        found: dict[str, Reading] = {}
        for record in reversed(list(self._store)):
            if not self._ids or record.id in self._ids:
                reading = _read(open_instance(record, self._home), self._everything or bool(self._ids))
                if reading is not None:
                    found[record.id] = reading
        return found


def _read(instance: Instance, anyway: bool) -> Reading | None:
    """A reading of what runs; with `anyway` one of nothing used, if it does not."""
    from hybrid.driver import Stats
    from hybrid.errors import HybridError

    record = instance.record
    try:
        used = instance.stats()
    except (HybridError, OSError):
        if not anyway:
            return None
        used = Stats(0.0, 0, None, 0)
    return Reading(record.name, record.id, record.kind.value, time.monotonic(), used)


def _live(reader: _Reader, before: dict[str, Reading], whole: bool) -> int:
    """A table that is drawn again each second, until a signal comes."""
    from rich.console import Console
    from rich.live import Live

    console = Console()
    with Live(_table({}, before, whole, console.width), console=console, auto_refresh=False) as live:
        while True:
            time.sleep(INTERVAL)
            now = reader.read()
            live.update(_table(before, now, whole, console.width), refresh=True)
            before = now


def _table(before: Mapping[str, Reading], now: Mapping[str, Reading], whole: bool, width: int) -> Any:
    from rich.table import Table
    from rich.text import Text

    from hybrid.cli.errors import printable

    shown = [field for field in _FIELDS if field.usual and (field.name != "ID" or width >= _WIDE)]
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for field in shown:
        table.add_column(field.heading, justify="right" if field.name in _NUMBERS else "left", no_wrap=True)
    for row in _rows(before, now, whole):
        table.add_row(*(Text(printable(row[field.name])) for field in shown))
    return table


def _lines(form: str, before: Mapping[str, Reading], now: Mapping[str, Reading], whole: bool) -> Any:
    plain = [_plain(before.get(id), reading) for id, reading in now.items()] if form == "json" else []
    return formatted(form, _FIELDS, _rows(before, now, whole), plain)


def _rows(before: Mapping[str, Reading], now: Mapping[str, Reading], whole: bool) -> list[dict[str, str]]:
    return [_row(before.get(id), reading, whole) for id, reading in now.items()]


def _row(before: Reading | None, now: Reading, whole: bool) -> dict[str, str]:
    from hybrid.cli.table import size
    from hybrid.units import format_bytes

    used, limit = now.stats, _limit(now.stats)
    cpu = _cpu(before, now)
    return {
        "Name": now.name,
        "Container": now.name,
        "ID": now.id if whole else now.id[: view.SHORT],
        "Kind": now.kind,
        "CPUPerc": "--" if cpu is None else f"{cpu:.2f}%",
        "MemUsage": f"{format_bytes(used.memory_bytes)} / {format_bytes(limit)}",
        "MemPerc": f"{100 * used.memory_bytes / limit:.2f}%",
        "NetIO": f"{size(used.received_bytes)} / {size(used.sent_bytes)}",
        "BlockIO": f"{size(used.read_bytes)} / {size(used.written_bytes)}",
        "PIDs": str(used.processes),
    }


def _plain(before: Reading | None, now: Reading) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "name": now.name,
        "id": now.id,
        "kind": now.kind,
        "cpu_percent": _cpu(before, now),
        "memory_percent": 100 * now.stats.memory_bytes / _limit(now.stats),
        **asdict(now.stats),
    }


def _cpu(before: Reading | None, now: Reading) -> float | None:
    """Per cent of one CPU since the reading before; None when there is none of the same run."""
    if before is None or now.at <= before.at or now.stats.cpu_seconds < before.stats.cpu_seconds:
        return None
    return 100 * (now.stats.cpu_seconds - before.stats.cpu_seconds) / (now.at - before.at)


def _limit(used: Stats) -> int:
    """The most memory that it can have: its own limit, else the machine's."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return machine if used.memory_limit is None else min(used.memory_limit, machine)
