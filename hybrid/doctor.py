"""What this host can do, kind by kind, and what would mend what it cannot."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hybrid.driver import Driver, Kind, Problem
from hybrid.errors import HybridError
from hybrid.home import Home

LITTLE_SPACE = 2 * 10**9
"""Bytes. Below this a build of a Debian image may fail half way."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found out about one kind."""

    kind: Kind
    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...]
    facts: Mapping[str, str]

    @property
    def works(self) -> bool:
        return not self.problems


@dataclass(frozen=True, slots=True)
class Report:
    """The host and the kinds that were asked about."""

    host: Mapping[str, str]
    warnings: tuple[Problem, ...]
    findings: tuple[Finding, ...]

    @property
    def works(self) -> bool:
        """Whether every kind that was asked about can run."""
        return all(finding.works for finding in self.findings)

    def values(self) -> dict[str, Any]:
        """The report as JSON values."""
        kinds = {finding.kind.value: {"works": finding.works} | _values(finding) for finding in self.findings}
        return {
            "works": self.works,
            "host": dict(self.host),
            "warnings": [asdict(problem) for problem in self.warnings],
            "kinds": kinds,
        }


def examine(drivers: Iterable[Driver], home: Home) -> Report:
    """Ask every driver, and look at the machine. Changes nothing."""
    return Report(_host(home), tuple(_space(home)), tuple(_finding(driver) for driver in drivers))


def _finding(driver: Driver) -> Finding:
    """One driver's answers; a driver that cannot even answer is a finding too."""
    try:
        problems = tuple(driver.problems())
        if problems:
            return Finding(driver.kind, problems, (), {})
        return Finding(driver.kind, (), tuple(driver.warnings()), dict(driver.facts()))
    except HybridError as error:
        return Finding(driver.kind, (Problem(error.what, error.mend),), (), {})
    except ImportError as error:
        missing = error.name or str(error)
        return Finding(driver.kind, (Problem(f"Python lacks the module {missing}", f"pip install {missing}"),), (), {})


def _host(home: Home) -> dict[str, str]:
    from hybrid import machine

    seen = machine.describe()
    return {
        "system": seen.os_name,
        "kernel": seen.kernel,
        "processor": f"{seen.cpu}, {seen.cores} usable",
        "virtual": seen.virtual or "no sign of it",
        "cgroups": seen.cgroups,
        "user": "root" if os.geteuid() == 0 else f"uid {os.geteuid()}",
        "home": str(home.root),
        "space": f"{shutil.disk_usage(_existing(home.root)).free / 1e9:.1f} GB free",
    }


def _space(home: Home) -> Sequence[Problem]:
    """What is wrong with the place where we keep our files."""
    place = _existing(home.root)
    found = []
    if not os.access(place, os.W_OK):
        found.append(Problem(f"{place} cannot be written to", "run as its owner, or set HYBRID_HOME to another folder"))
    if shutil.disk_usage(place).free < LITTLE_SPACE:
        found.append(Problem(f"little space is left in {place}", "free some, or set HYBRID_HOME to another folder"))
    return found


def _existing(path: Path) -> Path:
    """`path`, or the nearest folder above it that is there."""
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _values(finding: Finding) -> dict[str, Any]:
    return {
        "problems": [asdict(problem) for problem in finding.problems],
        "warnings": [asdict(problem) for problem in finding.warnings],
        "facts": dict(finding.facts),
    }
