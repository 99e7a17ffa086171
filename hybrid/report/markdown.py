"""The result as Markdown: everything that the terminal shows, and the lists spelled out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hybrid.metrics import Group
from hybrid.report import grid, words
from hybrid.report.figures import printable
from hybrid.result import Answer, Result

_SPECIAL = str.maketrans({c: f"\\{c}" for c in "\\`*_[]<>|#"})


def render(result: Result) -> str:
    """The whole document, ending with a newline."""
    return "\n".join(_lines(result)) + "\n"


def escape(text: str) -> str:
    """`text` as literal Markdown in one line, also inside a table."""
    return printable(text).translate(_SPECIAL)


def _lines(result: Result) -> Iterator[str]:
    yield f"# {escape(words.title(result))}"
    yield ""
    yield f"{escape(words.design(result))}."
    yield f"Image `{result.subject.digest}`. Run {result.started} to {result.ended}."
    yield ""
    yield f"On {escape(words.machine(result))}."
    yield ""
    yield from _main(result)
    yield ""
    yield f"Medians with their 95 % bootstrap intervals; {escape(words.readiness(result))}. Of phases, medians only."
    yield "A ratio in brackets shows no difference: its interval holds 1. What was paid once is in no other figure."
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
        phase = line.metric.group is Group.PHASE
        title = f"&nbsp;&nbsp;{line.metric.title}" if phase else f"**{line.metric.title}**"
        yield _row([title, *(_value(value, brief=phase) for value in (*line.values, *line.ratios))])
    for title, figures in grid.prepared(result):
        yield _row([title, *figures, *("" for _ in ratios)])


def _value(value: grid.Value | None, *, brief: bool) -> str:
    if value is None:
        return ""
    text = f"({value.text})" if value.weak else value.text
    return f"{text} [{value.interval}]" if value.interval and not brief else text


def _answer(result: Result, answer: Answer) -> Iterator[str]:
    title, question = words.QUESTIONS[answer.question]
    yield f"\n## {title}\n\n*{question}*\n"
    for sentence in words.findings(result, answer):
        yield f"- {escape(sentence)}"
    if not answer.rows:
        return
    yield ""
    yield from _head(["", *(words.label(result, kind) for kind in grid.kinds(result))], align="---")
    for row in answer.rows:
        cells = (words.cell(row.cells.get(kind), row.unit) for kind in grid.kinds(result))
        yield _row([escape(row.name), *(escape(cell) for cell in cells)])


def _spread(result: Result) -> Iterator[str]:
    yield from _head(["", "kind", "n", "min", "median", "p95", "max", "outliers"])
    for title, kind, count, figures, outliers in grid.spread(result):
        yield _row([title, kind, str(count), *figures, str(outliers or "")])


def _head(names: Sequence[str], align: str = "---:") -> Iterator[str]:
    yield _row(names)
    yield "|---|" + f"{align}|" * (len(names) - 1)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
