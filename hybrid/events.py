"""What happened to instances: a journal that our commands write, and ends that somebody sees.

There is no daemon, so nobody writes down the end of a detached command at that moment. Whoever sees it next
does, with the time at which it came: a command that starts, stops or removes the instance, or somebody who
follows the events, who is woken by it. So the same end may be written twice; it is read once.

    ROOT/events.jsonl      one event a line, appended under the file's lock
    ROOT/events.jsonl.1    the lines before those
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from hybrid.driver import State
from hybrid.errors import HybridError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from hybrid.driver import Health, Instance
    from hybrid.home import Home
    from hybrid.store import Record

_MAX_BYTES = 4 << 20
"""Of the journal; then a new one begins, and the one before the last is gone."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to one instance."""

    time: float
    """Seconds since the epoch."""
    action: str
    """Docker's word: create, start, die, oom, stop, kill, pause, unpause, restart, rename, destroy, attach, …"""
    id: str
    name: str
    kind: str
    image: str
    attributes: Mapping[str, str] = field(default_factory=dict)
    """What goes with the action: exitCode, signal, oldName; and the instance's labels."""


class Journal:
    """The journal of one home."""

    def __init__(self, home: Home) -> None:
        self.path = home.root / "events.jsonl"
        self._before = home.root / "events.jsonl.1"

    # ---- writing -------------------------------------------------------------------------

    def note(self, action: str, record: Record, at: float | None = None, **attributes: object) -> None:
        """Write down that something has happened, now or at a time. What was done is not undone if that fails."""
        labels = record.spec.get("labels")
        event = Event(
            time.time() if at is None else at,
            action,
            record.id,
            record.name,
            record.kind.value,
            record.image_name or record.image,
            {**(labels if isinstance(labels, dict) else {}), **{name: str(each) for name, each in attributes.items()}},
        )
        with suppress(OSError):
            self._append(json.dumps(asdict(event), separators=(",", ":")).encode() + b"\n")

    def note_end(self, instance: Instance) -> None:
        """Write down the end of the last run, if it has ended and is not written down."""
        try:
            status = instance.status()
        except (HybridError, OSError):
            return  # it is being removed, or damaged: whoever asked for it tells
        if status.state is not State.EXITED or self._knows_end(instance.record.id, status.finished):
            return
        code = {} if status.exit_code is None else {"exitCode": status.exit_code}
        if status.oom_killed:
            self.note("oom", instance.record, status.finished)
        self.note("die", instance.record, status.finished, **code)

    def _append(self, line: bytes) -> None:
        while True:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if self._is_current(descriptor):
                    os.write(descriptor, line)
                    if os.fstat(descriptor).st_size > _MAX_BYTES:
                        self.path.rename(self._before)
                    return
            finally:
                os.close(descriptor)

    def _is_current(self, descriptor: int) -> bool:
        """Whether the open file is still the journal, and not what another has just put aside."""
        try:
            return os.path.samestat(os.fstat(descriptor), self.path.stat())
        except FileNotFoundError:
            return False

    def _knows_end(self, id: str, finished: float | None) -> bool:
        """Whether the latest that is written of a run's end is this end."""
        last: Event | None = None
        for event in self._of(id):
            if event.action in ("start", "die"):
                last = event
        if last is None or last.action == "start":
            return False
        return finished is None or abs(last.time - finished) < 1e-3

    # ---- reading -------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Event]:
        """All events that are written down, in the order of writing. A line that is damaged is left out."""
        return self._of("")

    def _of(self, id: str) -> Iterator[Event]:
        """Those of one instance; a line that does not name it is not parsed."""
        for path in (self._before, self.path):
            with suppress(FileNotFoundError), path.open("rb") as file:
                for line in file:
                    event = _parse(line) if id.encode() in line else None
                    if event is not None and id in ("", event.id):
                        yield event

    def history(self) -> list[Event]:
        """What is written down, in the order in which it happened, each once."""
        return sorted(_once(self), key=lambda event: event.time)

    def follow(self, instances: Callable[[], Iterable[Instance]], until: float | None) -> Iterator[Event]:
        """What is written down from now on, up to a time. Ends are seen as they come, whoever is there.

        `instances` gives all that there are.
        """
        with _Watch(self.path) as watch:
            seen = {_key(event) for event in self}
            while True:
                watch.watch(instances())
                yield from _once(self, seen)
                left = None if until is None else until - time.time()
                if left is not None and left <= 0:
                    return
                ended, changed = watch.wait(left)
                for instance in ended:
                    self.note_end(instance)
                for instance, health in changed:
                    self.note(f"health_status: {health}", instance.record)


def _parse(line: bytes) -> Event | None:
    try:
        return Event(**json.loads(line))
    except (ValueError, TypeError):
        return None


def _key(event: Event) -> tuple[object, ...]:
    """What makes an event the same one."""
    return (event.id, event.action, event.time)


def _once(events: Iterable[Event], seen: set[tuple[object, ...]] | None = None) -> Iterator[Event]:
    seen = set() if seen is None else seen
    for event in events:
        if (key := _key(event)) not in seen:
            seen.add(key)
            yield event


@dataclass
class _Watched:
    """A running instance that somebody follows."""

    instance: Instance
    process: int
    """Readable when the command, or its engine's process, has ended."""
    directory: int
    """inotify's number of the watch on its directory, where its health is written."""
    health: str


class _Watch:
    """Wakes when the journal changes, a process ends, or an instance's health changes."""

    def __init__(self, path: Path) -> None:
        import inotify_simple

        path.parent.mkdir(parents=True, exist_ok=True)
        self._inotify = inotify_simple.INotify()
        self._flags = inotify_simple.flags
        self._inotify.add_watch(path.parent, self._flags.MODIFY | self._flags.CREATE | self._flags.MOVED_TO)
        self._watched: dict[str, _Watched] = {}
        """By the instance's id."""

    def __enter__(self) -> _Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self._inotify.close()
        for watched in self._watched.values():
            os.close(watched.process)

    def watch(self, instances: Iterable[Instance]) -> None:
        """Watch those that run and are not watched yet."""
        for instance in instances:
            if instance.record.id not in self._watched:
                with suppress(ProcessLookupError, FileNotFoundError):  # it has just ended, or was removed
                    self._begin(instance)

    def _begin(self, instance: Instance) -> None:
        status = instance.status()
        if status.state not in (State.RUNNING, State.PAUSED) or status.pid is None:
            return
        directory = self._inotify.add_watch(instance.record.directory, self._flags.MOVED_TO)
        process = os.pidfd_open(status.pid)
        self._watched[instance.record.id] = _Watched(instance, process, directory, _health(status.health))

    def wait(self, timeout: float | None) -> tuple[list[Instance], list[tuple[Instance, str]]]:
        """Return when something happened: those that have ended, and those whose health is another now."""
        poll = select.poll()
        for descriptor in (self._inotify.fileno(), *(watched.process for watched in self._watched.values())):
            poll.register(descriptor, select.POLLIN)
        ready = {descriptor for descriptor, _ in poll.poll(None if timeout is None else max(0.0, timeout) * 1000)}
        happened = self._inotify.read(timeout=0) if self._inotify.fileno() in ready else []
        looked_at = {event.wd for event in happened if event.name == "health.json"}
        changed = [
            (watched.instance, watched.health)
            for watched in self._watched.values()
            if watched.directory in looked_at and _changes(watched)
        ]
        ended = [watched for watched in self._watched.values() if watched.process in ready]
        for watched in ended:
            self._forget(watched)
        return [watched.instance for watched in ended], changed

    def _forget(self, watched: _Watched) -> None:
        del self._watched[watched.instance.record.id]
        os.close(watched.process)
        with suppress(OSError):  # its directory has gone, and the watch with it
            self._inotify.rm_watch(watched.directory)


def _changes(watched: _Watched) -> bool:
    """Whether the health is another than it was; from now on it is that one."""
    before, watched.health = watched.health, _health(watched.instance.status().health)
    return watched.health not in ("", before)


def _health(health: Health | None) -> str:
    return "" if health is None else health.value
