"""The result as Markdown: everything that the terminal shows, and the lists spelled out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hybrid.metrics import Group
from hybrid.report import grid, words
from hybrid.report.figures import figure, printable
from hybrid.result import Answer, Result

_SPECIAL = str.maketrans({c: f"\\{c}" for c in "\\`*_[]<>|#"})


def render(result: Result) -> str:
    """The whole document, ending with a newline."""
    return "\n".join(_lines(result)) + "\n"


def escape(text: str) -> str:
    """`text` as literal Markdown in one line, also inside a table."""
    return printable(text).translate(_SPECIAL)


def _lines(result: Result) -> Iterator[str]:
    yield f"# {escape(result.subject.name)}: {escape(', '.join(words.label(result, k) for k in grid.kinds(result)))}"
    yield ""
    yield f"{escape(words.headline(result))}."
    yield f"Image `{result.subject.digest}`. Run {result.started} to {result.ended}."
    yield ""
    yield f"On {escape(words.machine(result))}."
    yield ""
    yield from _main(result)
    yield ""
    yield f"Medians with their 95 % bootstrap intervals; {escape(words.readiness(result))}. A ratio in brackets"
    yield "shows no difference: its interval holds 1. What was paid once is in no other figure."
    yield ""
    if result.interrupted:
        yield "**Interrupted:** only the runs before that are in here.\n"
    for note in (*words.skipped(result), *(words.caution(result, each) for each in result.warnings)):
        yield f"- **Note:** {escape(note)}"
    for answer in result.answers:
        yield from _answer(result, answer)
    yield ""
    yield "## Spread"
    yield ""
    yield from _spread(result)


def _main(result: Result) -> Iterator[str]:
    ratios = [f"{kind} ÷ {baseline}" for kind, baseline in grid.pair_names(result)]
    names = [words.label(result, kind) for kind in grid.kinds(result)]
    yield from _head(["", *names, *ratios])
    for line in grid.lines(result):
        title = f"&nbsp;&nbsp;{line.metric.title}" if line.metric.group is Group.PHASE else f"**{line.metric.title}**"
        yield _row([title, *(_value(value) for value in (*line.values, *line.ratios))])
    for title, figures in grid.prepared(result):
        yield _row([title, *figures, *("" for _ in ratios)])


def _value(value: grid.Value | None) -> str:
    if value is None:
        return ""
    text = f"({value.text})" if value.weak else value.text
    return f"{text} [{value.interval}]" if value.interval else text


def _answer(result: Result, answer: Answer) -> Iterator[str]:
    title, question = words.QUESTIONS[answer.question]
    yield f"\n## {title}\n\n*{question}*\n"
    for found in answer.findings:
        yield f"- {escape(words.finding(result, found))}"
    yield ""
    yield from _head(["", *(words.label(result, kind) for kind in grid.kinds(result))])
    for row in answer.rows:
        cells = (words.cell(row.cells.get(kind), row.unit) for kind in grid.kinds(result))
        yield _row([escape(row.name), *(escape(cell) for cell in cells)])


def _spread(result: Result) -> Iterator[str]:
    yield from _head(["", "kind", "n", "min", "median", "p95", "max", "outliers"])
    for line in grid.lines(result):
        for kind in grid.kinds(result):
            summary = result.kinds[kind].metrics.get(line.metric.key)
            if summary is not None:
                steps = (summary.minimum, summary.median, summary.p95, summary.maximum)
                figures = (figure(value, line.metric.unit) for value in steps)
                count = len(summary.outliers)
                name = words.label(result, kind)
                yield _row([line.metric.title, name, str(len(summary.values)), *figures, str(count or "")])


def _head(names: Sequence[str]) -> Iterator[str]:
    yield _row(names)
    yield "|---|" + "---:|" * (len(names) - 1)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
