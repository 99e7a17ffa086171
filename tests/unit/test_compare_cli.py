"""`hybrid compare` as it is typed: options, formats, exit codes, what stands where."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hybrid import drivers, images
from hybrid.__main__ import run
from hybrid.driver import Kind, Problem
from hybrid.errors import HybridError
from hybrid.image import Image

Compare = Callable[..., int]
Scripted = Callable[..., tuple[Any, Any]]


@pytest.fixture
def scripts(scripted: Scripted, image: Image, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[Kind, Any]:
    """The scripts of the drivers that the command finds."""
    made = {kind: scripted(kind) for kind in Kind}
    monkeypatch.setattr(drivers, "driver", lambda kind, home: made[kind][0])
    monkeypatch.setattr(images.ImageStore, "ensure", lambda self, spec, progress=None: image)
    monkeypatch.setenv("HYBRID_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "web.yaml").write_text("image: test\n")
    return {kind: script for kind, (_, script) in made.items()}


def compare(*words: str) -> int:
    return run(["compare", "web.yaml", "--runs", "2", "--warmup", "0", *words])


def test_everything_is_kept(scripts: dict[Kind, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare("--output", "kept") == 0
    assert {path.name for path in (tmp_path / "kept").iterdir()} == {
        "result.json", "samples.jsonl", "report.md", "report.html", "logs",
    }  # fmt: skip
    out, err = capsys.readouterr()
    assert out.startswith("web: host, container, vm (tcg)")
    assert err == "kept in kept\n"


def test_the_default_directory_is_named_after_the_spec(scripts: dict[Kind, Any], tmp_path: Path) -> None:
    assert compare() == 0
    (found,) = (tmp_path / "results").iterdir()
    assert found.name.endswith("-web")


def test_json_alone_is_on_standard_output(scripts: dict[Kind, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert compare("--format", "json", "--as", "container") == 0
    assert list(json.loads(capsys.readouterr().out)["kinds"]) == ["container"]


def test_markdown(scripts: dict[Kind, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert compare("--format", "markdown", "--as", "vm, container") == 0
    assert capsys.readouterr().out.startswith("# web: container, vm \\(tcg\\)".replace("\\(", "(").replace("\\)", ")"))


def test_a_kind_that_is_none(scripts: dict[Kind, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert compare("--as", "container,jail") == 2
    assert "host,container,vm" in capsys.readouterr().err


def test_a_kind_that_cannot_run_here(scripts: dict[Kind, Any], capsys: pytest.CaptureFixture[str]) -> None:
    scripts[Kind.VM].problems = (Problem("libvirt is not installed", "apt-get install libvirt-daemon"),)
    assert compare("--as", "container,vm") == 1
    err = capsys.readouterr().err
    assert "libvirt is not installed" in err and "apt-get install libvirt-daemon" in err
    assert compare("--output", "rest") == 0
    assert "vm is missing here: libvirt is not installed" in capsys.readouterr().out
    assert "vm" in json.loads(Path("rest/result.json").read_text())["skipped"]


def test_a_kind_that_was_never_measured_is_an_error_after_the_report(
    scripts: dict[Kind, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    scripts[Kind.VM].fail = {"ready": HybridError("it broke", mend="mend it")}
    assert compare() == 1
    out, err = capsys.readouterr()
    assert "container" in out
    assert "vm was never measured: it broke" in err and "mend it" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt(scripts: dict[Kind, Any], capsys: pytest.CaptureFixture[str], number: signal.Signals) -> None:
    def interrupt(step: str) -> None:
        if step == "ready" and len(scripts[Kind.VM].created) == 2:
            os.kill(os.getpid(), number)

    scripts[Kind.VM].at = interrupt
    assert compare("--output", "kept") == 128 + number
    assert "Interrupted" in capsys.readouterr().out
    assert json.loads(Path("kept/result.json").read_text())["interrupted"]
    assert all(script.alive == set() for script in scripts.values())


def test_a_directory_that_cannot_be_made(scripts: dict[Kind, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert compare("--output", "/proc/none/such") == 1
    assert "no result can be written here" in capsys.readouterr().err
