"""The ways in which Compose writes sizes, durations and signals. Each function raises ValueError."""

from __future__ import annotations

import re
import signal

_BYTES = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([kmgtp]?)(?:i?b)?", re.IGNORECASE)
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(h|ms|m|s|us|µs|ns)")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


def parse_bytes(value: str | int) -> int:
    """Bytes from `256m`, `1.5g`, `64KiB` or a plain number. Units are powers of 1024, as in Docker."""
    if isinstance(value, int):
        return value
    if not (match := _BYTES.fullmatch(value.strip())) or len(match[1]) > 20:
        raise ValueError(f"{value!r} is no size")
    return int(float(match[1]) * 1024 ** " kmgtp".index(match[2].lower() or " "))


def parse_duration(value: str) -> float:
    """Seconds from `1m30s`, `200ms`, `1.5h`, or `0`."""
    text = value.strip()
    if text == "0":
        return 0.0
    seconds, end = 0.0, 0
    while match := _DURATION.match(text, end):
        seconds += float(match[1]) * _SECONDS[match[2]]
        end = match.end()
    if end == 0 or end != len(text) or len(text) > 64:
        raise ValueError(f"{value!r} is no duration")
    return seconds


def parse_signal(value: str | int) -> int:
    """The number of a signal given as `SIGTERM`, `term`, `SIGRTMIN+3`, `15` or 15."""
    text = str(value).strip().upper()
    if text.isascii() and text.isdigit() and len(text) <= 3:
        number = int(text)
    else:
        base, _, offset = text.removeprefix("SIG").partition("+")
        named = signal.Signals.__members__.get(f"SIG{base}")
        if named is None or (offset and not (base == "RTMIN" and offset.isdigit() and len(offset) <= 2)):
            raise ValueError(f"{value!r} is no signal")
        number = named + int(offset or 0)
    if not 1 <= number <= signal.SIGRTMAX:
        raise ValueError(f"{value!r} is no signal")
    return number


def format_bytes(count: int) -> str:
    """A size as people read it: `256 MiB`."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 10 else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
