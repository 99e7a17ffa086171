"""`--filter KEY=VALUE`, as Docker has it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import typer

_ALL = ("label",)
"""Keys of which every value must be there, not any."""
_PARTS = ("id", "name")
"""Keys whose value is part of a name: the start of an id, a regular expression for a name."""


def parse(texts: Sequence[str], keys: Sequence[str]) -> dict[str, list[str]]:
    """The values asked for, by key."""
    found: dict[str, list[str]] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if key not in keys or not equals:
            raise typer.BadParameter(
                f"{text!r} is no filter; write KEY=VALUE, of {', '.join(keys)}", param_hint="--filter"
            )
        if key == "name":
            try:
                re.compile(value)
            except re.error as error:
                raise typer.BadParameter(
                    f"{value!r} is no regular expression: {error}", param_hint="--filter"
                ) from None
        found.setdefault(key, []).append(value)
    return found


def passes(wanted: Mapping[str, Sequence[str]], facts: Callable[[str], Sequence[str]]) -> bool:
    """Whether something passes, which shows for each key the values that `facts` gives."""
    return all(
        (all if key in _ALL else any)(_shows(key, value, facts(key)) for value in values)
        for key, values in wanted.items()
    )


def _shows(key: str, value: str, facts: Sequence[str]) -> bool:
    if key == "name":
        return any(re.search(value, fact) for fact in facts)
    return any(fact.startswith(value) if key in _PARTS else fact == value for fact in facts)
