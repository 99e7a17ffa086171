"""`hybrid top`: the processes of an instance, as they look from inside."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from hybrid.cli.arguments import Name, named
from hybrid.cli.table import show

if TYPE_CHECKING:
    from hybrid.driver import InsideProcess

_HEADERS = ("USER", "PID", "PPID", "RSS", "TIME", "COMMAND")


def top(name: Name) -> int:
    """List the processes of a running instance: its command is PID 1, in every kind.

    Example:

      hybrid top web
    """
    processes = named(name).inside.processes()
    show(_HEADERS, [_row(each) for each in processes])
    return 0


def _row(each: InsideProcess) -> tuple[str, ...]:
    from hybrid.units import format_bytes

    spent = time.strftime("%H:%M:%S", time.gmtime(each.cpu_seconds))
    return (each.user, str(each.pid), str(each.parent), format_bytes(each.resident_bytes), spent, each.command)
