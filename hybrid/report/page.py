"""The result as one self-contained HTML page: no script, nothing loaded from elsewhere."""

from __future__ import annotations

from typing import Any

from hybrid.metrics import BY_KEY
from hybrid.report import grid, plot, words
from hybrid.result import Result

PLOTTED = ("boot", "ready", "cpu", "memory.pss")


def render(result: Result) -> str:
    """The page. Everything in it that came from an image or a spec is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("hybrid.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(_values(result)) + "\n"


def _values(result: Result) -> dict[str, Any]:
    keys = [key for key in PLOTTED if key != "ready" or result.subject.healthcheck]
    return {
        "result": result,
        "title": words.title(result),
        "design": words.design(result),
        "machine": words.machine(result),
        "readiness": words.readiness(result),
        "notes": [*words.skipped(result), *(words.caution(result, each) for each in result.warnings)],
        "kinds": [words.label(result, kind) for kind in grid.kinds(result)],
        "pairs": grid.pair_names(result),
        "lines": list(grid.lines(result)),
        "prepared": list(grid.prepared(result)),
        "phases": [mark.value for mark in plot.STARTUP],
        "bars": plot.bars(result),
        "strips": [strips for key in keys if (strips := plot.strips(result, key)) is not None],
        "answers": [_answer(result, answer) for answer in result.answers],
        "meanings": {metric.title: metric.meaning for metric in BY_KEY.values()},
        "spread": list(grid.spread(result)),
        "width": plot.WIDTH,
    }


def _answer(result: Result, answer: Any) -> dict[str, Any]:
    title, question = words.QUESTIONS[answer.question]
    return {
        "title": title,
        "question": question,
        "findings": words.findings(result, answer),
        "rows": [
            (row.name, [words.cell(row.cells.get(kind), row.unit) for kind in grid.kinds(result)])
            for row in answer.rows
        ],
    }
