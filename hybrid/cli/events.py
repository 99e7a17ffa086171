"""`hybrid events`: what happens to instances, as it happens."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from hybrid.driver import Instance
    from hybrid.events import Event
    from hybrid.home import Home

KEYS = ("event", "name", "id", "kind", "image", "label")


def events(
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="Also what was: 10m, 2026-01-31T12:00:00Z, seconds.")
    ] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="TIME", help="End then.")] = None,
    filters: Annotated[
        list[str] | None,
        typer.Option("--filter", "-f", metavar="KEY=VALUE", help="Only such: event, name, id, kind, image, label."),
    ] = None,
    form: Annotated[
        str, typer.Option("--format", metavar="json|TEMPLATE", help="How to print: json, or {{.Action}} {{.Actor.ID}}.")
    ] = "",
) -> int:
    """Print what happens to instances: create, start, die, oom, stop, kill, pause, rename, destroy and the like.

    It follows until Ctrl-C, or --until. There is no daemon: the end of a detached command is seen at once by who
    follows, else by the next command that looks at the instance, with the time at which it came.

    Examples:

      hybrid events

      hybrid events --since 1h --until 0s --filter event=die --format '{{.Actor.Attributes.name}}'
    """
    from hybrid.cli.filters import parse, passes
    from hybrid.cli.times import moment
    from hybrid.events import Journal
    from hybrid.home import default_home

    now = time.time()
    first = None if since is None else moment(since, now, "--since")
    last = None if until is None else moment(until, now, "--until")
    wanted, say = parse(filters or [], KEYS), _printer(form)
    home = default_home()
    journal = Journal(home)
    for event in _all(journal, home, first, last):
        if passes(wanted, lambda key, event=event: _facts(event, key)):  # type: ignore[misc]
            print(say(event))
            sys.stdout.flush()
    return 0


def _all(journal: Any, home: Home, first: float | None, last: float | None) -> Iterator[Event]:
    """What was, from `first`, and what comes, up to `last`."""
    follows = last is None or last > time.time()
    if first is not None:
        for instance in _instances(home):
            journal.note_end(instance)
        yield from (each for each in journal.history() if each.time >= first and (last is None or each.time <= last))
    if follows:
        yield from journal.follow(lambda: _instances(home), last)


def _instances(home: Home) -> Iterator[Instance]:
    from hybrid.drivers import open_instance
    from hybrid.store import InstanceStore

    for record in InstanceStore(home):
        yield open_instance(record, home)


def _facts(event: Event, key: str) -> list[str]:
    match key:
        case "event":
            return [event.action, event.action.partition(":")[0]]
        case "label":
            return [text for name, value in event.attributes.items() for text in (name, f"{name}={value}")]
        case _:
            return [str(getattr(event, key))]


def _printer(form: str) -> Any:
    """What makes a line of an event."""
    from hybrid.cli.errors import printable

    if form == "json":
        import json

        return lambda event: json.dumps(_values(event), separators=(",", ":"))
    if not form:
        return lambda event: printable(_line(event))
    from hybrid.cli.format import checked
    from hybrid.cli.template import Template

    template = Template(checked(form))
    return lambda event: printable(template.render(_values(event)))


def _line(event: Event) -> str:
    """As Docker prints one."""
    from hybrid.cli.times import rfc3339

    attributes = {"image": event.image, "name": event.name, **event.attributes}
    told = ", ".join(f"{name}={value}" for name, value in attributes.items())
    return f"{rfc3339(event.time)} {event.kind} {event.action} {event.id} ({told})"


def _values(event: Event) -> dict[str, Any]:
    """Under Docker's names."""
    from hybrid.cli.template import Open

    attributes = Open({"image": event.image, "name": event.name, **event.attributes})
    return {
        "Type": event.kind,
        "Action": event.action,
        "Actor": {"ID": event.id, "Attributes": attributes},
        "ID": event.id,
        "From": event.image,
        "Status": event.action,
        "Time": int(event.time),
        "TimeNano": round(event.time * 1e9),
    }
