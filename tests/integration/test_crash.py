"""`kill -9` of hybrid at any moment: `ps` still tells the truth, `rm` and `prune` leave nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.usefixtures("prepared", "nothing_left")

MOMENTS = [0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.6]
"""Seconds after the start of the process. Somewhere among them each step is hit; what matters holds at all."""
LATE = [1.0, 2.0, 4.0]
"""Likewise for a VM, which boots meanwhile."""


@pytest.fixture(scope="module")
def prepared(home: Path, specs: Path, able: Callable[[str], None]) -> None:
    """What all instances share is made: from here on it is the instances' own steps that are interrupted."""
    for kind in ("host", "container", "vm"):
        with contextlib.suppress(pytest.skip.Exception):
            able(kind)
            subprocess.run(
                [Path(sys.executable).with_name("hybrid"), "run", "--rm", "--as", kind, specs / "tools.yaml"],
                env={**os.environ, "HYBRID_HOME": str(home)},
                check=True,
            )


def killed_after(running: Any, seconds: float) -> None:
    time.sleep(seconds)
    running.kill()
    running.wait()


def removed(cli: Any, left: Callable[[], list[str]]) -> None:
    """What is there is listed as what it is, and goes; then nothing is left."""
    for name, row in cli.ps().items():
        assert row["state"] in ("created", "running", "exited")
        if row["state"] == "running":
            os.kill(row["pid"], 0)
        done = cli("rm", "-f", name)
        assert (done.returncode, done.stderr) == (0, b"")
    assert cli("prune").returncode == 0
    assert cli.ps() == {}
    assert left() == []


@pytest.mark.parametrize("detach", [[], ["-d"]])
@pytest.mark.parametrize("moment", [*MOMENTS, *LATE])
def test_killed_while_it_starts(
    cli: Any, tools: Path, kind: str, detach: list[str], moment: float, nothing_left: Callable[[], list[str]]
) -> None:
    if moment in LATE and kind != "vm":
        moment /= 10
    with cli.start("run", *detach, "--as", kind, "--name", "victim", tools, "sleep", "1000") as running:
        killed_after(running, moment)
        if nothing_left():
            removed(cli, nothing_left)


@pytest.mark.parametrize("remove", [[], ["--rm"]])
def test_killed_while_the_command_runs(
    cli: Any, tools: Path, kind: str, remove: list[str], nothing_left: Callable[[], list[str]]
) -> None:
    words = ("sh", "-c", "echo ready; exec sleep 1000")
    with cli.start("run", *remove, "--as", kind, "--name", "orphan", tools, *words) as running:
        assert running.stdout.readline() == b"ready\n"
        running.kill()
        running.wait()
        row = cli.ps()["orphan"]
        assert row["state"] == "running"
        assert cli("rm", "orphan").returncode == 1
        assert cli("stop", "-t", "0.2", "orphan").returncode == 0
        assert cli.ps()["orphan"]["state"] == "exited"
        removed(cli, nothing_left)


def test_killed_after_it_was_detached(cli: Any, tools: Path, kind: str, nothing_left: Callable[[], list[str]]) -> None:
    """The engine's process is killed, not ours, which has ended long ago."""
    assert cli("run", "-d", "--as", kind, "--name", "lone", tools, "sleep", "1000").returncode == 0
    os.kill(cli.ps()["lone"]["pid"], signal.SIGKILL)
    cli("stop", "lone")
    assert cli.ps()["lone"]["state"] == "exited"
    assert cli("rm", "lone").returncode == 0
    assert nothing_left() == []


@pytest.mark.parametrize("moment", [0.06, 0.08, 0.1, 0.12, 0.15, 0.2])
def test_killed_while_it_removes(
    cli: Any, tools: Path, kind: str, moment: float, nothing_left: Callable[[], list[str]]
) -> None:
    assert cli("run", "-d", "--as", kind, "--name", "going", tools, "sleep", "1000").returncode == 0
    with cli.start("rm", "-f", "going") as running:
        killed_after(running, moment)
    removed(cli, nothing_left)


def test_two_remove_the_same(cli: Any, tools: Path, kind: str) -> None:
    assert cli("run", "-d", "--as", kind, "--name", "twice", tools, "sleep", "1000").returncode == 0
    with cli.start("rm", "-f", "twice") as one, cli.start("rm", "-f", "twice") as two:
        ended = [(each.wait(), each.stderr.read()) for each in (one, two)]
    assert any(code == 0 for code, _ in ended)
    assert all(code == 0 or b"no instance is named" in err for code, err in ended)


def test_two_take_the_same_name(cli: Any, tools: Path, kind: str) -> None:
    words = ("run", "-d", "--as", kind, "--name", "one", tools, "sleep", "1000")
    with cli.start(*words) as first, cli.start(*words) as second:
        ended = [(each.wait(), each.stderr.read()) for each in (first, second)]
    assert sorted(code for code, _ in ended) == [0, 125]
    assert any(b"'one' is in use" in err for _, err in ended)
    assert cli("rm", "-f", "one").returncode == 0
