"""Every verb over the fake driver: what it prints, its exit code, and what it writes down."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hybrid import drivers
from hybrid.__main__ import run
from hybrid.cli import background, stats, terminal
from hybrid.driver import Execution, Health, Request, State, Status, Stdio
from hybrid.events import Journal
from hybrid.home import Home
from hybrid.image import Image, Process
from hybrid.marks import Mark, Marks
from hybrid.spec import Spec
from hybrid.store import InstanceStore
from tests.fakes import Behaviour, FakeDriver, FakeInstance

RUNS = Behaviour(b"out\n", b"err\n", exit_code=None, traps={15: 0, 1: 5})
ENDS = Behaviour(b"out\n", exit_code=3)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("HYBRID_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return Home(tmp_path / "home", tmp_path / "run")


@pytest.fixture
def fake(home: Home, monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    made = FakeDriver(home)
    monkeypatch.setattr(drivers, "driver", lambda kind, home, *_: made)
    return made


Make = Callable[..., FakeInstance]


@pytest.fixture
def make(fake: FakeDriver, image: Image) -> Make:
    """Makes an instance, and starts it if asked to."""

    def made(name: str, behaviour: Behaviour = RUNS, *, start: bool = True, **keys: Any) -> FakeInstance:
        argv = ("command", name)
        fake.behaviours[argv] = behaviour
        spec = Spec.model_validate({"image": "test", **keys})
        process = Process(argv, "/command", {}, "/", 0, 0, (), name, 15, 10.0, None)
        marks = Marks()
        marks.stamp(Mark.REQUEST, 0)
        instance = fake.create(Request(name, spec, image, process, marks))
        if start:
            instance.start(None)
        return instance

    return made


def actions(home: Home) -> list[str]:
    return [event.action for event in Journal(home).history()]


def state(fake: FakeDriver, home: Home, name: str) -> State:
    return fake.open(InstanceStore(home).get(name)).status().state


# ---- a life ------------------------------------------------------------------------------


def test_start_stop_restart(make: Make, fake: FakeDriver, home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    make("a", start=False)
    make("b", ENDS, start=False)
    assert run(["start", "a", "nothing", "b"]) == 1
    out, err = capsys.readouterr()
    assert out.split() == ["a", "b"]
    assert "nothing" in err
    assert run(["start", "a"]) == 1
    assert "running" in capsys.readouterr().err
    assert run(["stop", "a", "b"]) == 0
    assert state(fake, home, "a") is State.EXITED
    assert run(["restart", "-t", "1", "a"]) == 0
    assert state(fake, home, "a") is State.RUNNING
    assert run(["rm", "a"]) == 1
    assert run(["rm", "-f", "a", "b"]) == 0
    assert list(InstanceStore(home)) == []
    first = actions(home)
    assert first.count("start") == 3
    assert first.count("die") == 3
    assert first[-2:] == ["destroy", "destroy"]


def test_start_attached_has_the_commands_code(make: Make, capfd: pytest.CaptureFixture[str], home: Home) -> None:
    make("a", ENDS, start=False)
    make("b", ENDS, start=False)
    assert run(["start", "-a", "a"]) == 3
    assert capfd.readouterr().out == "out\n"
    assert run(["start", "-a", "a", "b"]) == 2
    assert actions(home) == ["start", "die"]


def test_pause(make: Make, fake: FakeDriver, home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    make("a")
    assert run(["unpause", "a"]) == 1
    assert run(["pause", "a"]) == 0
    assert state(fake, home, "a") is State.PAUSED
    assert run(["pause", "a"]) == 1
    capsys.readouterr()
    assert run(["ps", "--format", "{{.Names}} {{.Status}} {{.State}}"]) == 0
    assert "(Paused) paused" in capsys.readouterr().out
    assert run(["rm", "a"]) == 1
    assert run(["unpause", "a"]) == 0
    assert state(fake, home, "a") is State.RUNNING
    assert actions(home) == ["pause", "unpause"]


@pytest.mark.parametrize(("words", "code"), [([], 137), (["-s", "HUP"], 5), (["--signal", "15"], 0)])
def test_kill(make: Make, home: Home, words: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    make("a")
    assert run(["kill", *words, "a"]) == 0
    assert run(["kill", "a"]) == 1
    assert "not running" in capsys.readouterr().err
    assert run(["wait", "a"]) == 0
    assert capsys.readouterr().out == f"{code}\n"


def test_wait(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    make("a", ENDS)
    make("b")
    assert run(["wait", "a", "b"]) == 1
    out, err = capsys.readouterr()
    assert out == "3\n"
    assert "did not end" in err
    assert run(["wait", "--for", "running", "b"]) == 0
    assert run(["wait", "--for", "healthy", "--timeout", "1", "b"]) == 0
    make("c", start=False)
    assert run(["wait", "--for", "running", "c"]) == 1


def test_rename(make: Make, home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    make("a")
    make("b")
    assert run(["rename", "a", "b"]) == 1
    assert "in use" in capsys.readouterr().err
    assert run(["rename", "a", "c"]) == 0
    assert run(["rename", "c", "-"]) == 1
    assert InstanceStore(home).get("c").name == "c"
    assert run(["inspect", "not-an-id"]) == 1
    assert actions(home) == ["rename"]


# ---- inside ------------------------------------------------------------------------------


def test_exec(make: Make, fake: FakeDriver, capfd: pytest.CaptureFixture[str], home: Home) -> None:
    make("a")
    fake.behaviours[("prog", "-x", "--rm")] = Behaviour(b"o", b"e", exit_code=7)
    assert run(["exec", "a", "prog", "-x", "--rm"]) == 7
    assert capfd.readouterr() == ("o", "e")
    assert actions(home) == ["exec_start"]
    fake.behaviours[("no",)] = Behaviour(refused=127)
    assert run(["exec", "a", "--", "no"]) == 127
    assert run(["exec", "nothing", "no"]) == 125
    assert run(["exec", "a"]) == 125
    make("b", ENDS)
    assert run(["exec", "b", "no"]) == 125


def test_exec_passes_what_it_is_told(
    make: Make, fake: FakeDriver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[Execution] = []
    make("a")
    inside = type(fake.open(InstanceStore(Home(fake.store.directory.parent, tmp_path)).get("a")).inside)
    real = inside.exec

    def noted(self: Any, execution: Execution, stdio: Stdio) -> Any:
        seen.append(execution)
        return real(self, execution, stdio)

    monkeypatch.setattr(inside, "exec", noted)
    fake.behaviours[("p",)] = Behaviour()
    file = tmp_path / "env"
    file.write_text('# no\n\nA=1\n  B="x y" \nHERE\nNOT_HERE\n')
    monkeypatch.setenv("HERE", "here")
    words = ["-e", "A=2", "-e", "HERE", "--env-file", str(file), "-w", "/srv", "-u", "app:app", "-t"]
    assert run(["exec", *words, "a", "p"]) == 0
    env = {"TERM": "xterm", "A": "2", "B": '"x y" ', "HERE": "here"}
    assert seen == [Execution(("p",), env, "/srv", "app:app", terminal.window())]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["exec", "-it", "a", "p"], "not a TTY"),
        (["exec", "-w", "srv", "a", "p"], "absolute"),
        (["exec", "-e", "=x", "a", "p"], "'=x'"),
        (["exec", "--env-file", "/nowhere", "a", "p"], "/nowhere"),
        (["run", "-it", "image"], "not a TTY"),
    ],
)
def test_mistakes_of_who_runs_a_command(
    fake: FakeDriver, words: list[str], says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "isatty", lambda _: False)
    assert run(words) == 125
    assert says in capsys.readouterr().err


def test_exec_in_the_background(make: Make, fake: FakeDriver, capfd: pytest.CaptureFixture[str]) -> None:
    make("a")
    fake.behaviours[("p",)] = Behaviour(b"unseen", exit_code=1)
    assert run(["exec", "-d", "a", "p"]) == 0
    make("b", ENDS)
    assert run(["exec", "-d", "b", "p"]) == 125
    assert "not running" in capfd.readouterr().err


def test_what_goes_on_aside(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    background.aside(lambda: lambda: os.write(writer, b"done"))
    os.close(writer)
    assert os.read(reader, 10) == b"done"
    os.close(reader)


def test_shell_takes_the_first_that_is_there(make: Make, fake: FakeDriver, capfd: pytest.CaptureFixture[str]) -> None:
    instance = make("a")
    assert run(["shell", "a"]) == 127
    assert "no shell" in capfd.readouterr().err
    root = instance.inside.root
    (root / "bin").mkdir()
    (root / "bin/sh").touch()
    fake.behaviours[("/bin/sh",)] = Behaviour(b"from sh", exit_code=4)
    assert run(["shell", "a"]) == 4
    assert capfd.readouterr().out == "from sh"


def test_attach(make: Make, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], home: Home) -> None:
    make("a")
    monkeypatch.setattr(FakeInstance, "wait", lambda self, timeout=None: 9)
    assert run(["attach", "--no-stdin", "a"]) == 9
    assert capfd.readouterr() == ("out\n", "err\n")
    assert actions(home) == ["attach"]

    def interrupted(self: FakeInstance, timeout: float | None = None) -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
        return 0

    monkeypatch.setattr(FakeInstance, "wait", interrupted)
    assert run(["attach", "--no-stdin", "--no-sig-proxy", "a"]) == 128 + signal.SIGTERM


def test_top_and_cp(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    instance = make("a")
    assert run(["top", "a"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:3] == ["root", "1", "0"]
    (tmp_path / "file").write_text("data")
    instance.inside.root.mkdir(exist_ok=True)
    assert run(["cp", str(tmp_path / "file"), "a:/new"]) == 0
    assert (instance.inside.root / "new").read_text() == "data"
    assert "copied 4 B to a:/new" in capsys.readouterr().err
    assert run(["cp", "-q", "a:new", str(tmp_path / "back")]) == 0
    assert (tmp_path / "back").read_text() == "data"
    assert capsys.readouterr().err == ""
    assert run(["cp", "a:x", "a:y"]) == 2
    assert run(["cp", "./x", "./y"]) == 2
    assert run(["cp", "a:missing", "."]) == 1
    assert "missing does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "out"),
    [
        ([], "1\n2\n3\n"),
        (["-n", "2"], "2\n3\n"),
        (["--tail", "0"], ""),
        (["--tail", "9"], "1\n2\n3\n"),
        (["-t", "-n", "1"], "1970-01-01T00:00:00.000000000Z 3\n"),
        (["--since", "10"], ""),
        (["--until", "10"], "1\n2\n3\n"),
    ],
)
def test_logs(make: Make, words: list[str], out: str, capfd: pytest.CaptureFixture[str]) -> None:
    make("a", Behaviour(b"1\n2\n3\n"))
    assert run(["logs", *words, "a"]) == 0
    assert capfd.readouterr().out == out


@pytest.mark.parametrize("words", [["-n", "x"], ["--since", "yesterday"]])
def test_logs_mistakes(make: Make, words: list[str]) -> None:
    make("a", ENDS)
    assert run(["logs", *words, "a"]) == 2


# ---- what there is -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ([], "c a"),
        (["-a"], "d c b a"),
        (["-n", "3"], "d c b"),
        (["-l"], "d"),
        (["--filter", "status=exited"], "b"),
        (["--filter", "status=exited", "--filter", "status=created"], "d b"),
        (["--filter", "exited=3"], "b"),
        (["-a", "--filter", "name=^[ab]$"], "b a"),
        (["--filter", "label=team"], "c a"),
        (["--filter", "label=team=x"], "a"),
        (["--filter", "label=team", "--filter", "label=more"], "c"),
        (["--filter", "kind=host"], "c a"),
        (["--filter", "kind=vm"], ""),
        (["--filter", "health=none"], "c a"),
        (["--filter", "ancestor=sha256:" + "ab" * 32], "c a"),
    ],
)
def test_ps_chooses(make: Make, words: list[str], names: str, capsys: pytest.CaptureFixture[str]) -> None:
    created = iter(range(1, 9))
    for name, keys in _FOUR.items():
        instance = make(name, **keys)
        replace(instance.record, created=float(next(created))).save()
    assert run(["ps", "--format", "{{.Names}}", *words]) == 0
    assert capsys.readouterr().out.split() == names.split()


_FOUR: Mapping[str, Mapping[str, Any]] = {
    "a": {"labels": {"team": "x"}},
    "b": {"behaviour": ENDS},
    "c": {"labels": {"team": "y", "more": ""}},
    "d": {"start": False},
}


def test_ps_forms(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    record = make("a", labels={"k": "v"}).record
    assert run(["ps", "-q"]) == 0
    assert run(["ps", "-q", "--no-trunc"]) == 0
    assert capsys.readouterr().out.split() == [record.id[:12], record.id]
    assert run(["ps", "--format", "json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["name"], row["state"], row["labels"]) == ("a", "running", {"k": "v"})
    assert run(["ps", "--format", "{{json .}}"]) == 0
    assert json.loads(capsys.readouterr().out)["Labels"] == "k=v"
    for words in (["--filter", "nonsense=1"], ["--filter", "name"], ["--filter", "name=["], ["--format", "{{.Names"]):
        assert run(["ps", *words]) == 2
    assert run(["ps", "--format", "{{.Nmaes}}"]) == 1


def test_inspect(make: Make, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    make("a", labels={"k.k": "v"})
    known = Status(State.EXITED, 137, started=1.5, finished=2.0, oom_killed=True, health=Health.HEALTHY)
    monkeypatch.setattr(FakeInstance, "status", lambda self: known)
    assert run(["inspect", "a", "nothing"]) == 1
    (found,) = json.loads(capsys.readouterr().out)
    assert found["Name"] == "a"
    assert found["State"] == {
        "Status": "exited", "Running": False, "Paused": False, "OOMKilled": True, "Pid": 0, "ExitCode": 137,
        "StartedAt": "1970-01-01T00:00:01.500000000Z", "FinishedAt": "1970-01-01T00:00:02.000000000Z",
        "Health": {"Status": "healthy", "FailingStreak": 0, "Log": []},
    }  # fmt: skip
    assert run(["inspect", "-f", '{{.State.ExitCode}} {{index .Config.Labels "k.k"}} {{.Spec.labels}}', "a"]) == 0
    assert capsys.readouterr().out == "137 v map[k.k:v]\n"


def test_stats(make: Make, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "INTERVAL", 0.001)
    make("a")
    make("b", ENDS)
    assert run(["stats", "--no-stream"]) == 0
    heading, *rows = capsys.readouterr().out.splitlines()
    assert heading.startswith("NAME")
    assert [row.split()[0] for row in rows] == ["a"]
    assert "0.00%" in rows[0]
    assert run(["stats", "--no-stream", "--format", "json", "a", "b"]) == 0
    found = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert found["a"]["memory_bytes"] == 2 << 20
    assert found["b"]["processes"] == 0
    assert run(["stats", "nothing"]) == 1


def test_events(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    make("a", start=False, labels={"k": "v"})
    for words in (["start", "a"], ["stop", "a"], ["rename", "a", "b"], ["rm", "b"]):
        assert run(words) == 0
    capsys.readouterr()
    past = ["events", "--since", "1h", "--until", "0s"]
    assert run([*past, "--format", "{{.Action}} {{.Actor.Attributes.name}}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sorted(lines) == sorted(["start a", "die a", "stop a", "rename b", "destroy b"])
    assert run([*past, "--filter", "event=rename", "--format", "json"]) == 0
    event = json.loads(capsys.readouterr().out)
    assert event["Actor"]["Attributes"] == {"image": "sha256:" + "ab" * 32, "name": "b", "k": "v", "oldName": "a"}
    assert run([*past, "--filter", "label=k=v", "--filter", "event=die"]) == 0
    assert "host die " in capsys.readouterr().out
    assert run(["events", "--since", "x"]) == 2


def test_generate(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    make("a", restart="on-failure:2")
    assert run(["generate", "systemd", "a"]) == 0
    text = capsys.readouterr().out
    assert "StartLimitBurst=3\n" in text
    assert f"HYBRID_HOME={os.environ['HYBRID_HOME']}" in text
    assert run(["generate", "systemd", "--restart-policy", "perhaps", "a"]) == 1


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["completion", shell]) == 0
    assert f"complete_{shell}" in capsys.readouterr().out
