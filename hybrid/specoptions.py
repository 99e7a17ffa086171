"""Options of a command line over a spec: the same values, checked in the same way, told by the option's name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

    from hybrid.errors import HybridError

_ONE_OR_MORE = ("tmpfs", "dns")
"""Keys whose list of one may be written as a string."""


@dataclass(frozen=True, slots=True)
class Option:
    """What one option says, as a key of a spec."""

    name: str
    """`--cpus`, for messages."""
    key: str
    value: Any
    """In a form that the spec reads. A mapping or a list is added to what the spec has; anything else replaces it."""


def merged(values: Mapping[str, Any], options: Sequence[Option]) -> dict[str, Any]:
    """The values of a spec with options over them, as `docker compose run` lays them over a service."""
    found = dict(values)
    for option in options:
        found[option.key] = _over(option.key, found.get(option.key), option.value)
    return found


def _over(key: str, old: Any, new: Any) -> Any:
    if old is None or key in ("entrypoint", "command"):
        return new
    if key in _ONE_OR_MORE and isinstance(old, str):
        old = [old]
    match old, new:
        case dict(), dict():
            return {**old, **new}
        case dict(), list():
            return {**old, **{name: rest for name, _, rest in (each.partition("=") for each in new)}}
        case list(), dict():
            return [*old, *(f"{name}={each}" for name, each in new.items())]
        case list(), list():
            return [*old, *new]
        case _:
            return new


def explained(error: ValidationError, model: type[BaseModel], options: Sequence[Option]) -> list[HybridError]:
    """What is wrong with options, whose spec alone is right: each mistake with its option in place of the key."""
    from hybrid.errors import HybridError
    from hybrid.specerrors import explain

    found = []
    for each in explain(error, model, None):
        key, colon, rest = each.what.partition(":")
        name = _name(key if colon else key.partition(" ")[0], options)
        what = f"{name}:{rest}" if colon and name else f"{name}: {each.what}" if name else each.what
        found.append(HybridError(what, mend=each.mend if "`" not in each.mend else "hybrid run --help says how"))
    return found


def _name(path: str, options: Sequence[Option]) -> str:
    """The option that said what is at a path of the spec, such as `healthcheck.interval` or `ports[1]`."""
    top, _, inner = path.partition("[")[0].partition(".")
    said = [option for option in options if option.key == top]
    exact = [option for option in said if isinstance(option.value, dict) and inner in option.value]
    return next((option.name for option in (*exact, *said)), "")
