"""A plain table, aligned and nothing more: it has to cost no import, and scripts cut it into columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import StrEnum

from hybrid.cli.errors import printable


class Format(StrEnum):
    """How a list is printed."""

    TABLE = "table"
    JSON = "json"


def show(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under their headers."""
    for line in lines(headers, rows):
        print(line)


def lines(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Each column as wide as its widest cell; two blanks and more between columns."""
    table = [tuple(headers), *(tuple(printable(cell) for cell in row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        yield "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def duration(seconds: float) -> str:
    """A length of time in its largest unit."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit}"
    return f"{max(0, int(seconds))} s"


def size(amount: float) -> str:
    """Bytes in decimal units, as disks and registries count them."""
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 999.5:
            return f"{amount:.0f} {unit}" if unit == "B" or amount >= 99.95 else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"
