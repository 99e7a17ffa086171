"""The doctor: every kind asked, each with its mend."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from hybrid import drivers
from hybrid.__main__ import run
from hybrid.doctor import examine
from hybrid.driver import Kind, Problem
from hybrid.errors import HostError
from hybrid.home import Home


class Patient:
    """As much of a driver as a doctor needs."""

    def __init__(self, kind: Kind, problems: Sequence[Problem] = (), error: Exception | None = None) -> None:
        self.kind = kind
        self._problems = problems
        self._error = error

    def problems(self) -> Sequence[Problem]:
        if self._error is not None:
            raise self._error
        return self._problems

    def warnings(self) -> Sequence[Problem]:
        return [Problem("it is slow", "buy [a] faster one")]

    def facts(self) -> Mapping[str, str]:
        return {"engine": f"{self.kind} \x1b[1m1.0"}


def patients(monkeypatch: pytest.MonkeyPatch, *ill: Kind) -> None:
    def driver(kind: Kind, home: Home) -> Any:
        return Patient(kind, [Problem("no engine", "install one")] if kind in ill else [])

    monkeypatch.setattr(drivers, "driver", driver)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("HYBRID_HOME", str(tmp_path / "not/yet/there"))
    monkeypatch.setenv("COLUMNS", "100")
    return Home(tmp_path / "not/yet/there", tmp_path)


def test_all_well(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], home: Home) -> None:
    patients(monkeypatch)
    assert run(["doctor"]) == 0
    out = capsys.readouterr().out
    assert out.count("ready") == 3
    assert "buy [a] faster one" in out
    assert "\x1b" not in out
    assert not home.root.exists()


def test_one_kind_ill(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    patients(monkeypatch, Kind.VM)
    assert run(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "no engine" in out
    assert "install one" in out
    assert run(["doctor", "--as", "container", "--as", "host"]) == 0
    assert "no engine" not in capsys.readouterr().out
    assert run(["doctor", "--json", "--as", "vm"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["works"] is False
    assert report["kinds"]["vm"]["problems"] == [{"what": "no engine", "mend": "install one"}]
    assert list(report["kinds"]) == ["vm"]


@pytest.mark.parametrize(
    ("error", "what"),
    [(HostError("engine broken", mend="x"), "engine broken"), (ModuleNotFoundError("no", name="libvirt"), "libvirt")],
)
def test_a_driver_that_cannot_answer_is_a_finding(home: Home, error: Exception, what: str) -> None:
    report = examine([Patient(Kind.VM, error=error), Patient(Kind.HOST)], home)  # type: ignore[list-item]
    assert not report.works
    assert what in report.findings[0].problems[0].what
    assert report.findings[0].problems[0].mend
    assert report.findings[1].works
