"""Moments on the command line, and moments in words."""

from __future__ import annotations

import re
import time

import typer


def moment(text: str, now: float, hint: str) -> float:
    """Seconds since the epoch from `10m` (ago), `2026-01-31T12:00:00Z`, `2026-01-31`, or such seconds themselves.

    Without a time zone it is the local one.
    """
    from hybrid.units import parse_duration

    if re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,9})?", text):
        return float(text)
    try:
        return now - parse_duration(text)
    except ValueError:
        pass
    try:
        from datetime import datetime

        return datetime.fromisoformat(re.sub(r"(\.[0-9]{6})[0-9]+", r"\1", text)).timestamp()
    except (ValueError, OverflowError, OSError):
        raise typer.BadParameter(
            f"{text!r} is no time; write 10m, 2026-01-31T12:00:00 or seconds since 1970", param_hint=hint
        ) from None


def rfc3339(seconds: float) -> str:
    """A moment as Docker's logs write it, in UTC, with nanoseconds so that every line has one width."""
    whole, nanoseconds = divmod(round(seconds * 1e9), 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{nanoseconds:09d}Z"
