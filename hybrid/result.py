"""The result of a comparison: every figure with what is needed to judge it, kept as JSON.

`SCHEMA` names the shape; it changes whenever a reader of the old shape would misread the new one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeAlias

from hybrid.driver import Evidence, Kind, Problem
from hybrid.errors import HybridError
from hybrid.machine import Load, Machine
from hybrid.measure import Failure
from hybrid.stats import Ratio, Summary
from hybrid.store import write_atomically

SCHEMA = "hybrid.compare/1"

Scalar: TypeAlias = bool | int | float | str


@dataclass(frozen=True, slots=True)
class Subject:
    """What was run: the same for all kinds."""

    name: str
    source: str
    """The spec's file, or the image's reference."""
    spec: Mapping[str, Any]
    digest: str
    tree_bytes: int
    """Allocated bytes of the image's unpacked tree."""
    command: tuple[str, ...]
    healthcheck: tuple[str, ...]
    """Its command; empty when ready means no more than that the command was executed."""
    image_seconds: float
    """What it took to have the image: building or pulling it when it was missing. In no other figure."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How it was run."""

    runs: int
    warmup: int
    seed: int
    order: tuple[tuple[Kind, ...], ...]
    """Every block as it was run, warm-up first."""
    timeout: float


@dataclass(frozen=True, slots=True)
class KindResult:
    """One kind's part."""

    facts: Mapping[str, str]
    accelerator: str
    """`kvm` or `tcg`; empty where nothing is virtualised. Every figure below was measured with it."""
    prepare_seconds: float
    """What it took to make what all instances share, next to nothing when it was there. In no other figure."""
    prepare_bytes: int
    measured: int
    """Trials that yielded figures, warm-up left out."""
    failures: tuple[Failure, ...]
    ended: int
    """How many of the measured commands ended by themselves."""
    exit_codes: Mapping[str, int]
    """How often each exit code was seen."""
    killed: int
    """How many of them did not end on their stop signal."""
    metrics: Mapping[str, Summary]
    evidence: Evidence | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """One metric of one kind against a baseline kind: the ratio of the medians."""

    metric: str
    kind: Kind
    baseline: Kind
    ratio: Ratio
    decides: bool
    """False when the interval holds 1: these trials show no difference."""


@dataclass(frozen=True, slots=True)
class Caution:
    """What weakens a figure. `code` says which of the known reasons, `values` the figures behind it."""

    code: str
    kind: Kind | None = None
    metric: str = ""
    values: Mapping[str, Scalar] = field(default_factory=dict)


class Question(StrEnum):
    """The five that every comparison answers, from what was measured."""

    OS = "os"
    BOOT = "boot"
    RESOURCES = "resources"
    ISOLATION = "isolation"
    PORTABILITY = "portability"


Cell: TypeAlias = Scalar | tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Row:
    """One property, as seen of each kind; None where it was not seen."""

    name: str
    cells: Mapping[Kind, Cell]
    unit: str = ""
    """`s` or `B` of a number; empty for anything else."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What follows from the rows. `code` says which of the known sentences, `values` what it speaks of."""

    code: str
    kind: Kind
    baseline: Kind | None = None
    values: Mapping[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one of the questions."""

    question: Question
    rows: tuple[Row, ...]
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """A whole comparison."""

    schema: str
    started: str
    """ISO 8601, UTC."""
    ended: str
    interrupted: bool
    subject: Subject
    plan: Plan
    machine: Machine
    before: Load
    after: Load
    kinds: Mapping[Kind, KindResult]
    skipped: Mapping[Kind, tuple[Problem, ...]]
    """Kinds that this machine cannot run, and why; they were not asked for by name."""
    ratios: tuple[Comparison, ...]
    answers: tuple[Answer, ...]
    warnings: tuple[Caution, ...]

    def ratio(self, metric: str, kind: Kind, baseline: Kind) -> Comparison | None:
        """The comparison of two kinds by one metric; None when there is none."""
        wanted = (metric, kind, baseline)
        return next((each for each in self.ratios if (each.metric, each.kind, each.baseline) == wanted), None)

    def to_json(self) -> str:
        """The result as JSON, ending with a newline."""
        return json.dumps(_adapter().dump_python(self, mode="json"), indent=1, ensure_ascii=False) + "\n"

    def save(self, path: Path) -> None:
        """Write the result in one atomic step."""
        write_atomically(path, self.to_json().encode(), mode=0o644)


def load(path: Path) -> Result:
    """Read a saved result; HybridError when it is none, or one of another schema."""
    try:
        values = json.loads(path.read_bytes())
        if values["schema"] != SCHEMA:
            raise HybridError(f"the result is of schema {values['schema']}, not {SCHEMA}", where=str(path))
        result: Result = _adapter().validate_python(values)
        return result
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HybridError(f"no result can be read: {error}", where=str(path)) from None


def schema() -> dict[str, Any]:
    """The JSON Schema of result.json."""
    found: dict[str, Any] = _adapter().json_schema()
    return found


def _adapter() -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(Result)
