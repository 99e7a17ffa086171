"""`hybrid run` over a driver that does what it is told: what is asked of it, in which order, and what stays."""

from __future__ import annotations

import os
import queue
import shutil
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import hybrid.images
from hybrid import drivers
from hybrid.__main__ import run
from hybrid.driver import Kind, Problem, Request, State, Status, Stdio
from hybrid.errors import CommandError, NotReadyError
from hybrid.home import Home
from hybrid.image import Image, ImageConfig
from hybrid.store import InstanceStore, Record, new_id, now

ECHO = b"\x7fELF"


class Script:
    """What the fake does, and what was asked of it."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.problems: list[Problem] = []
        self.start: Callable[[], None] = lambda: None
        self.entrypoint: Callable[[], None] = lambda: None
        self.wait: Callable[[], int] = lambda: 0
        self.request: Request | None = None
        self.stdio: Stdio | None = None
        self.signal: Callable[[int], Any] = lambda number: None
        self.kind: Kind | None = None


class Instance:
    def __init__(self, script: Script, record: Record) -> None:
        self.script, self.record = script, record

    def start(self, stdio: Stdio | None) -> None:
        self.script.calls.append("start")
        self.script.stdio = stdio
        self.script.start()

    def wait_entrypoint(self, timeout: float) -> None:
        self.script.calls.append("entrypoint")
        self.script.entrypoint()

    def wait(self, timeout: float | None = None) -> int:
        self.script.calls.append("wait")
        return self.script.wait()

    def signal(self, number: int) -> None:
        self.script.signal(number)

    def status(self) -> Status:
        return Status(State.EXITED, 3)

    def destroy(self) -> None:
        self.script.calls.append("destroy")
        shutil.rmtree(self.record.directory)


class Driver:
    def __init__(self, script: Script, kind: Kind, home: Home) -> None:
        self.script, self.kind, self.home = script, kind, home

    def problems(self) -> Sequence[Problem]:
        return self.script.problems

    def facts(self) -> Mapping[str, str]:
        return {}

    def prepare(self, image: Image) -> int:
        self.script.calls.append("prepare")
        return 0

    def create(self, request: Request) -> Instance:
        self.script.calls.append("create")
        self.script.request = request
        self.script.kind = self.kind
        with InstanceStore(self.home).making(request.name) as (directory, commit):
            argv = request.process.argv
            return Instance(
                self.script,
                commit(Record(request.name, new_id(), self.kind, "sha256:0", "fake", argv, now(), directory)),
            )

    def open(self, record: Record) -> Instance:
        return Instance(self.script, record)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("HYBRID_HOME", str(tmp_path / "home"))
    return Home(tmp_path / "home", tmp_path / "run")


@pytest.fixture
def script(tmp_path: Path, home: Home, monkeypatch: pytest.MonkeyPatch) -> Script:
    """A fake driver for every kind, and a store that holds one image with /bin/echo in it."""
    made = Script()
    tree = tmp_path / "image/rootfs"
    (tree / "bin").mkdir(parents=True)
    (tree / "bin/echo").write_bytes(ECHO)
    (tree / "bin/echo").chmod(0o755)
    image = Image("sha256:0", tmp_path / "image", ImageConfig(cmd=("echo", "default")), ("fake",))

    class Images:
        def __init__(self, home: Home) -> None: ...

        def ensure(self, spec: Any, progress: Any = None) -> Image:
            made.calls.append("ensure")
            return image

    monkeypatch.setattr(hybrid.images, "ImageStore", Images)
    monkeypatch.setattr(drivers, "driver", lambda kind, home: Driver(made, kind, home))
    return made


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "web app.yaml"
    path.write_text("image: fake\nisolation: vm\n")
    return path


def instances(home: Home) -> list[str]:
    return sorted(path.name for path in home.instances.iterdir() if path.is_dir()) if home.instances.exists() else []


FOREGROUND = ["ensure", "prepare", "create", "start", "entrypoint", "wait"]


def test_foreground(script: Script, spec: Path, home: Home) -> None:
    script.wait = lambda: 7
    assert run(["run", str(spec)]) == 7
    assert script.calls == FOREGROUND
    assert script.stdio == Stdio(0, 1, 2)
    assert script.kind is Kind.VM
    (name,) = instances(home)
    assert name.startswith("web-app-")


def test_rm_removes_whatever_the_exit_code(script: Script, spec: Path, home: Home) -> None:
    script.wait = lambda: 7
    assert run(["run", "--rm", "--name", "x", str(spec)]) == 7
    assert script.calls == [*FOREGROUND, "destroy"]
    assert instances(home) == []


def test_detached(script: Script, spec: Path, home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["run", "-d", "--name", "x", str(spec)]) == 0
    assert capsys.readouterr().out == "x\n"
    assert script.calls == FOREGROUND[:-1]
    assert script.stdio is None
    assert instances(home) == ["x"]


@pytest.mark.parametrize(
    ("words", "kind"), [([], Kind.VM), (["--as", "host"], Kind.HOST), (["--as=container"], Kind.CONTAINER)]
)
def test_kinds(script: Script, spec: Path, words: list[str], kind: Kind) -> None:
    assert run(["run", *words, str(spec)]) == 0
    assert script.kind is kind


def test_an_image_runs_as_a_container(script: Script) -> None:
    assert run(["run", "registry.example/fake:1"]) == 0
    assert script.kind is Kind.CONTAINER


@pytest.mark.parametrize(
    ("words", "argv"),
    [
        ([], ("echo", "default")),
        (["echo", "-n", "--rm", "x"], ("echo", "-n", "--rm", "x")),
        (["--", "echo", "--as", "vm"], ("echo", "--as", "vm")),
        (["--", "echo", "--", "x"], ("echo", "--", "x")),
    ],
)
def test_what_follows_the_spec_is_the_command(
    script: Script, spec: Path, words: list[str], argv: tuple[str, ...]
) -> None:
    assert run(["run", str(spec), *words]) == 0
    assert script.request is not None
    assert script.request.process.argv == argv


@pytest.mark.parametrize("detach", [[], ["-d"]])
@pytest.mark.parametrize("step", ["start", "entrypoint"])
@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CommandError("no such command", exit_code=127), 127),
        (CommandError("not executable", exit_code=126), 126),
        (NotReadyError("hung", phase="kernel", tail="panic"), 125),
        (ZeroDivisionError("bug"), 125),
    ],
)
def test_a_failed_start_leaves_nothing(
    script: Script,
    spec: Path,
    home: Home,
    capsys: pytest.CaptureFixture[str],
    detach: list[str],
    step: str,
    error: Exception,
    code: int,
) -> None:
    def fail() -> None:
        raise error

    setattr(script, step, fail)
    assert run(["run", *detach, str(spec)]) == code
    assert script.calls[-1] == "destroy"
    assert instances(home) == []
    out, err = capsys.readouterr()
    assert out == ""
    assert str(error) in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
@pytest.mark.parametrize("step", ["start", "entrypoint"])
def test_a_signal_before_the_command_runs_leaves_nothing(
    script: Script, spec: Path, home: Home, step: str, number: signal.Signals
) -> None:
    def signalled() -> None:
        os.kill(os.getpid(), number)
        if step == "entrypoint":
            signal.pause()

    setattr(script, step, signalled)
    script.entrypoint = script.entrypoint if step == "entrypoint" else signal.pause
    assert run(["run", str(spec)]) == 128 + number
    assert script.calls[-1] == "destroy"
    assert "wait" not in script.calls
    assert instances(home) == []


def test_a_signal_while_the_command_runs_is_the_commands(script: Script, spec: Path, home: Home) -> None:
    sent: queue.Queue[int] = queue.Queue()

    def wait() -> int:
        for number in (signal.SIGTERM, signal.SIGUSR1):
            os.kill(os.getpid(), number)
            assert sent.get(timeout=10) == number
        return 143

    script.wait, script.signal = wait, sent.put
    assert run(["run", str(spec)]) == 143
    assert len(instances(home)) == 1


def test_a_signal_just_before_we_see_that_the_command_runs_is_the_commands(script: Script, spec: Path) -> None:
    sent: list[int] = []
    came = threading.Event()
    script.start = lambda: os.kill(os.getpid(), signal.SIGUSR1)
    script.entrypoint = lambda: os.kill(os.getpid(), signal.SIGTERM)
    script.wait = lambda: 143 if came.wait(10) else 1

    def take(number: int) -> None:
        sent.append(number)
        if len(sent) == 2:
            came.set()

    script.signal = take
    assert run(["run", str(spec)]) == 143
    assert sent == [signal.SIGUSR1, signal.SIGTERM]


def test_a_detached_start_that_is_interrupted_leaves_nothing(script: Script, spec: Path, home: Home) -> None:
    script.entrypoint = lambda: os.kill(os.getpid(), signal.SIGTERM)
    assert run(["run", "-d", str(spec)]) == 128 + signal.SIGTERM
    assert instances(home) == []


def test_a_second_signal_does_not_stop_the_cleaning_up(
    script: Script, spec: Path, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def signalled() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()

    script.entrypoint = signalled
    destroy = Instance.destroy

    def interrupted(self: Instance) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        destroy(self)

    monkeypatch.setattr(Instance, "destroy", interrupted)
    assert run(["run", str(spec)]) == 128 + signal.SIGTERM
    assert instances(home) == []


def test_a_host_that_cannot_is_told_before_any_work(
    script: Script, spec: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script.problems = [Problem("no engine", "apt-get install engine"), Problem("no root", "be root")]
    assert run(["run", str(spec)]) == 125
    assert script.calls == []
    err = capsys.readouterr().err
    assert "no engine" in err
    assert "1 more" in err
    assert "mend apt-get install engine" in err


def test_a_command_that_the_image_lacks(script: Script, spec: Path, home: Home) -> None:
    assert run(["run", str(spec), "missing"]) == 127
    assert "create" not in script.calls
    assert instances(home) == []


def test_a_name_in_use(script: Script, spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["run", "-d", "--name", "x", str(spec)]) == 0
    assert run(["run", "-d", "--name", "x", str(spec)]) == 125
    assert "'x' is in use" in capsys.readouterr().err


def test_what_stays_is_listed_and_removed(
    script: Script, spec: Path, home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["run", "--name", "x", str(spec)]) == 0
    assert run(["ps"]) == 0
    assert " x " not in f" {capsys.readouterr().out}"
    assert run(["ps", "-a"]) == 0
    row = capsys.readouterr().out.splitlines()[1]
    assert row.startswith("x ")
    assert "Exited (3)" in row
    assert run(["rm", "x"]) == 0
    assert instances(home) == []
