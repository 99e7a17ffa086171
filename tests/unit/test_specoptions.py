"""Options of `run` and `create` over a spec: what they change, and how their mistakes are told."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from hybrid import drivers, launch
from hybrid.__main__ import run
from hybrid.cli import run as command
from hybrid.errors import HybridError
from hybrid.spec import Spec
from hybrid.specoptions import Option, merged


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Spec]:
    """The specs that `hybrid run` makes of its options; it goes no further."""
    found: list[Spec] = []

    def plan(target: str, kind: Any, options: list[Option], *rest: Any) -> Any:
        found.append(launch.load(target, options))
        raise HybridError("no further")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYBRID_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(command, "plan", plan)
    monkeypatch.setattr(drivers, "driver", None)
    monkeypatch.setattr(os, "isatty", lambda _: True)
    return found


def said(asked: list[Spec], *words: str) -> dict[str, Any]:
    """What the spec of an image says with these options."""
    assert run(["run", *words, "img:1"]) == 125
    return {key: value for key, value in asked.pop().saved().items() if key != "image"}


@pytest.mark.parametrize(
    ("words", "spec"),
    [
        (["-i", "-t"], {"stdin_open": True, "tty": True}),
        (["-it"], {"stdin_open": True, "tty": True}),
        (["-w", "/srv", "-u", "1:1", "-h", "box"], {"working_dir": "/srv", "user": "1:1", "hostname": "box"}),
        (["--entrypoint", "/bin/x y"], {"entrypoint": ["/bin/x y"], "command": []}),
        (["--entrypoint", ""], {"entrypoint": [], "command": []}),
        (["-e", "A=1", "--env", "B=x=y", "-e", "NOT_SET"], {"environment": {"A": "1", "B": "x=y"}}),
        (["-m", "256m", "--cpus", "1.5", "--pids-limit", "7"], {"mem_limit": 256 << 20, "cpus": 1.5, "pids_limit": 7}),
        (["--label", "a=b", "-l", "c"], {"labels": {"a": "b", "c": ""}}),
        (["--stop-signal", "HUP", "--stop-timeout", "2.5"], {"stop_signal": 1, "stop_grace_period": 2.5}),
        (["--restart", "on-failure:3"], {"restart": "on-failure:3"}),
        (["--network", "none"], {"network_mode": "none"}),
        (["--pull", "never", "--platform", "linux/amd64"], {"pull_policy": "never", "platform": "linux/amd64"}),
        (["--no-healthcheck"], {"healthcheck": {"disable": True}}),
        (
            ["--health-cmd", "test -e /x", "--health-interval=5s", "--health-retries=2", "--health-timeout=1s"],
            {"healthcheck": {"test": ["/bin/sh", "-c", "test -e /x"], "interval": 5.0, "retries": 2, "timeout": 1.0}},
        ),
    ],
)  # fmt: skip
def test_options_of_an_image(asked: list[Spec], words: list[str], spec: dict[str, Any]) -> None:
    assert said(asked, *words) == spec


def test_sources_of_volumes_start_from_here(asked: list[Spec], tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    found = said(asked, "-v", "./data:/data:ro", "-v", "named:/n", "--tmpfs", "/run", "--ulimit", "nofile=10:20")
    assert str(tmp_path / "data") in repr(found["volumes"])
    assert len(found["volumes"]) == 2
    assert len(found["tmpfs"]) == 1
    assert "nofile" in found["ulimits"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--cpus", "many"], "--cpus: 'many' is no number"),
        (["--cpus", "0"], "--cpus: '0' is too small"),
        (["-m", "1k"], "--memory: '1k' is too small"),
        (["--stop-signal", "SIGNONE"], "--stop-signal: 'SIGNONE' is no signal"),
        (
            ["--health-cmd", "x", "--health-interval", "5", "--health-retries", "2"],
            "--health-interval: '5' is no duration",
        ),
        (["--restart", "often"], "--restart: 'often' is no restart policy"),
        (["--ulimit", "nofile"], "nofile"),
        (["-w", "srv"], "--workdir: 'srv' is no absolute path"),
        (["-h", "under_score"], "--hostname: 'under_score' is no host name"),
        (["-v", "/nowhere-at-all:/x:zz"], "--volume"),
        (["-p", "x"], "--publish"),
    ],
)
def test_mistakes_name_the_option(
    asked: list[Spec], words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["run", *words, "img:1"]) == 125
    assert asked == []
    err = capsys.readouterr().err
    assert says in err
    assert "Traceback" not in err


def test_over_a_file(asked: list[Spec], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "web.yaml"
    file.write_text("image: a\ncommand: [x]\ncpus: 1\nenvironment: [A=1, B=2]\nlabels: {l: m}\nuser: app\n")
    assert run(["run", "-e", "B=3", "-l", "n=o", "--cpus", "2", str(file)]) == 125
    spec = asked.pop()
    assert spec.environment == {"A": "1", "B": "3"}
    assert spec.labels == {"l": "m", "n": "o"}
    assert (spec.cpus, spec.user, spec.command) == (2, "app", ("x",))
    assert run(["run", "--entrypoint", "/e", str(file)]) == 125
    assert (asked[-1].entrypoint, asked.pop().command) == (("/e",), ())
    file.write_text("image: a\ncpus: none\n")
    capsys.readouterr()
    assert run(["run", "--cpus", "2", str(file)]) == 125
    assert f"at   {file}:2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ({"A": 1}, {"B": "2"}, {"A": 1, "B": "2"}),
        (["A=1"], {"B": "2"}, ["A=1", "B=2"]),
        ({"a": "b"}, ["c=d", "e"], {"a": "b", "c": "d", "e": ""}),
        (["x"], ["y"], ["x", "y"]),
        (None, ["y"], ["y"]),
        (1, "2", "2"),
    ],
)
def test_adding_and_replacing(old: Any, new: Any, found: Any) -> None:
    assert merged({"key": old}, [Option("--key", "key", new)]) == {"key": found}


def test_one_that_is_a_string_is_a_list_of_one() -> None:
    assert merged({"tmpfs": "/a"}, [Option("--tmpfs", "tmpfs", ["/b"])]) == {"tmpfs": ["/a", "/b"]}
