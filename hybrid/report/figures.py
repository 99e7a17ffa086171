"""How figures read: three significant digits in a unit that fits, intervals in the unit of their median."""

from __future__ import annotations

from hybrid.metrics import Unit
from hybrid.stats import Interval

_SCALES = {
    Unit.SECONDS: ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")),
    Unit.BYTES: ((2.0**40, "TiB"), (2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "B")),
}


def figure(value: float, unit: str) -> str:
    """A value with its unit: `43.1 ms`, `2.61 s`, `12.4 MiB`. An unknown unit is written behind the number."""
    scale, name = _scale(value, unit)
    return f"{digits(value / scale)} {name}".rstrip()


def round_figure(value: float, unit: str) -> str:
    """A value known to be round, without trailing zeros: `20 ms`."""
    scale, name = _scale(value, unit)
    return f"{value / scale:g} {name}"


def figure_range(interval: Interval, median: float, unit: str) -> str:
    """An interval in the unit of its median, which the reader sees beside it: `41.0-45.2`, with a dash."""
    scale, _ = _scale(median, unit)
    places = _places(max(abs(interval.low), abs(interval.high)) / scale)
    return f"{interval.low / scale:.{places}f}–{interval.high / scale:.{places}f}"  # noqa: RUF001


def times(value: float) -> str:
    """A ratio: `61×`, `5.32×`."""  # noqa: RUF002
    return f"{digits(value)}×"  # noqa: RUF001


def times_range(interval: Interval) -> str:
    """A ratio's interval, without the sign."""
    places = _places(max(abs(interval.low), abs(interval.high)))
    return f"{interval.low:.{places}f}–{interval.high:.{places}f}"  # noqa: RUF001


def percent(share: float) -> str:
    return f"{share * 100:+.0f} %"


def digits(value: float) -> str:
    """Three significant digits, as long as that needs no exponent."""
    return f"{value:.{_places(abs(value))}f}"


def printable(text: str) -> str:
    """`text` in one line without what would steer a terminal: much of it comes from images nobody vouched for."""
    return "".join(c if c.isprintable() else " " for c in text)


def _places(size: float) -> int:
    if size >= 99.95 or size == 0:
        return 0
    return 1 if size >= 9.995 else 2


def _scale(value: float, unit: str) -> tuple[float, str]:
    if unit not in _SCALES:
        return 1.0, unit
    scales = _SCALES[Unit(unit)]
    if value == 0:
        return scales[0] if unit == Unit.SECONDS else scales[-1]
    # 0.9995: what would round up to 1000 of the smaller unit is written in the larger one.
    return next((scale for scale in scales if abs(value) >= scale[0] * 0.9995), scales[-1])
