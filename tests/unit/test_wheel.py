"""The wheel, built as a user gets it: the four packages, whole, and nothing else."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from hybrid.process import run

ROOT = Path(__file__).parents[2]
PACKAGES = {"hybrid", "vm", "container", "benchmarks"}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that holds the project's wheel, installed."""
    folder, target = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("site")
    pip = (sys.executable, "-m", "pip", "-q", "--disable-pip-version-check")
    run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, ROOT])
    run([*pip, "install", "--no-deps", "--no-index", "--target", target, *folder.glob("*.whl")])
    return target


def files(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for package in PACKAGES
        for path in (folder / package).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }


def test_brings_the_four_packages_and_the_command(installed: Path) -> None:
    assert {path.name for path in installed.iterdir() if path.suffix != ".dist-info"} == {*PACKAGES, "bin"}
    assert [path.name for path in (installed / "bin").iterdir()] == ["hybrid"]


def test_every_file_of_a_package_is_in(installed: Path) -> None:
    assert files(installed) == files(ROOT)
    assert {f"{package}/py.typed" for package in PACKAGES} <= files(installed)


def test_runs_without_the_checkout(installed: Path, tmp_path: Path) -> None:
    # -P and a foreign directory keep the checkout out of sys.path; the libraries stay.
    script = f"import sys; sys.path.insert(0, {str(installed)!r}); import hybrid; print(hybrid.__file__)"
    assert run([sys.executable, "-P", "-c", script], cwd=tmp_path).decode().startswith(str(installed))
    command = [sys.executable, "-P", "-m", "hybrid", "--help"]
    assert b"compare" in run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(installed)})
