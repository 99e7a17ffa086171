"""The journal of events: written by many at once, read once, followed without a daemon."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hybrid import events
from hybrid.driver import Health, Kind, State, Status
from hybrid.events import Event, Journal
from hybrid.home import Home
from hybrid.store import Record


def record(name: str = "web", id: str = "00000000000000aa") -> Record:
    return Record(name, id, Kind.VM, "sha256:0", "img", ("x",), 0.0, Path("/nowhere"), spec={"labels": {"k": "v"}})


class Ends:
    """An instance that ends when it is told to."""

    def __init__(self, pid: int | None = None, directory: Path = Path("/nowhere")) -> None:
        self.record = replace(record(), directory=directory)
        self.now = Status(State.RUNNING, pid=pid)

    def status(self) -> Status:
        return self.now


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(Home(tmp_path, tmp_path / "run"))


def test_what_is_written_is_read(journal: Journal) -> None:
    journal.note("create", record(), 2.0)
    journal.note("kill", record(), 1.0, signal=9)
    assert journal.history() == [
        Event(1.0, "kill", "00000000000000aa", "web", "vm", "img", {"k": "v", "signal": "9"}),
        Event(2.0, "create", "00000000000000aa", "web", "vm", "img", {"k": "v"}),
    ]


def test_a_damaged_line_hides_no_other(journal: Journal) -> None:
    journal.note("create", record())
    with journal.path.open("ab") as file:
        file.write(b'{"time": 1}\nnonsense\n\xff\n')
    journal.note("start", record())
    assert [event.action for event in journal] == ["create", "start"]


def test_it_does_not_grow_for_ever_and_loses_nothing_at_the_turn(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "_MAX_BYTES", 3000)
    for number in range(25):
        journal.note("start", record(), float(number))
    assert [event.time for event in journal] == [float(number) for number in range(25)]
    for number in range(100):
        journal.note("start", record(), float(number))
    assert sum(path.stat().st_size for path in journal.path.parent.iterdir()) < 8000


def test_many_writers(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "_MAX_BYTES", 40_000)
    program = (
        "import sys; from pathlib import Path; from hybrid import events; from hybrid.home import Home;"
        "from hybrid.store import Record; from hybrid.driver import Kind; events._MAX_BYTES = 40_000;"
        "j = events.Journal(Home(Path(sys.argv[1]), Path('/')));"
        "r = Record('n', sys.argv[2], Kind.VM, '', '', (), 0.0, Path('/'));"
        "[j.note('start', r, float(n)) for n in range(100)]"
    )
    words = [sys.executable, "-c", program, str(journal.path.parent)]
    writers = [subprocess.Popen([*words, name]) for name in ("a", "b")]
    assert [writer.wait() for writer in writers] == [0, 0]
    assert sorted((event.id, event.time) for event in journal) == [(i, float(n)) for i in "ab" for n in range(100)]


def test_an_end_is_told_once(journal: Journal) -> None:
    instance: Any = Ends()
    journal.note_end(instance)
    assert journal.history() == []
    instance.now = Status(State.EXITED, 137, finished=5.5, oom_killed=True)
    journal.note("start", instance.record, 1.0)
    journal.note_end(instance)
    journal.note_end(instance)
    told = journal.history()
    assert [(event.action, event.time) for event in told] == [("start", 1.0), ("oom", 5.5), ("die", 5.5)]
    assert told[2].attributes["exitCode"] == "137"
    journal.note("start", instance.record, 6.0)
    instance.now = Status(State.EXITED, 0, finished=7.0)
    journal.note_end(instance)
    assert [event.time for event in journal.history() if event.action == "die"] == [5.5, 7.0]


def test_following_sees_what_is_written_and_who_ends(journal: Journal, tmp_path: Path) -> None:
    child = subprocess.Popen(["sleep", "1000"])
    directory = tmp_path / "instance"
    directory.mkdir()
    instance: Any = Ends(child.pid, directory)
    seen: list[str] = []
    came = threading.Event()

    def follow() -> Iterator[None]:
        for event in journal.follow(lambda: [instance], None):
            seen.append(event.action)
            yield

    following = follow()

    def watch() -> None:
        for action in _two(following, seen):
            if action == "die":
                came.set()

    thread = threading.Thread(target=watch, daemon=True)
    journal.note("before", record())
    thread.start()
    deadline = time.monotonic() + 30
    while not seen and time.monotonic() < deadline:  # it follows from some moment on
        journal.note("pause", record())
        came.wait(0.05)
    instance.now = Status(State.RUNNING, pid=child.pid, health=Health.HEALTHY)
    for name in ("health.json", "health.json"):  # told once
        (directory / "new").touch()
        (directory / "new").rename(directory / name)
    while "health_status: healthy" not in seen and time.monotonic() < deadline:
        came.wait(0.05)
    instance.now = Status(State.EXITED, 0, finished=time.time())
    child.kill()
    child.wait()
    assert came.wait(30)
    thread.join()
    assert "before" not in seen
    assert set(seen) == {"pause", "health_status: healthy", "die"}
    assert seen.count("health_status: healthy") == 1


def _two(following: Iterator[None], seen: list[str]) -> Iterator[str]:
    """Follow until the end has come."""
    for _ in following:
        yield seen[-1]
        if seen[-1] == "die":
            return


def test_following_ends_at_its_time(journal: Journal) -> None:
    assert list(journal.follow(list, time.time() - 1)) == []
    assert list(journal.follow(list, time.time() + 0.01)) == []
    assert not [name for name in Path("/proc/self/fd").iterdir() if "inotify" in _link(name)]


def _link(path: Path) -> str:
    try:
        return str(path.readlink())
    except FileNotFoundError:
        return ""


def test_a_full_disk_fails_no_command(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Journal, "_append", full)
    journal.note("start", SimpleNamespace(**{name: getattr(record(), name) for name in Record.__slots__}))  # type: ignore[arg-type]
