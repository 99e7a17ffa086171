"""The result on a terminal: one table, what weakens it, and the five answers under it. Plain text in a pipe."""

from __future__ import annotations

from collections.abc import Iterator
from io import StringIO
from typing import IO, TYPE_CHECKING

from hybrid.metrics import Group
from hybrid.report import grid, words
from hybrid.result import Answer, Question, Result

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

PIPED_WIDTH = 120

IN_MAIN_TABLE = (Question.BOOT, Question.RESOURCES)
"""Questions whose rows the main table already holds: only their sentences follow."""


def show(result: Result, file: IO[str]) -> None:
    """Print the result to `file`."""
    if file.isatty():
        _print(result, file, None)
        return
    plain = StringIO()
    _print(result, plain, PIPED_WIDTH)
    file.writelines(f"{line.rstrip()}\n" for line in plain.getvalue().splitlines())


def _print(result: Result, file: IO[str], width: int | None) -> None:
    from rich.console import Console

    console = Console(file=file, highlight=False, width=width)
    for part in _parts(result):
        console.print(part)


def _parts(result: Result) -> Iterator[RenderableType]:
    from rich.text import Text

    yield Text.assemble((words.title(result), "bold"), "; ", words.design(result))
    yield Text(words.machine(result), style="dim")
    yield Text()
    yield main_table(result)
    yield Text()
    yield Text(
        f"Medians with their 95 % intervals; {words.readiness(result)}. Of phases, medians only. "
        "A ratio in brackets shows no difference.",
        style="dim",
    )
    if result.interrupted:
        yield Text("\nInterrupted: only the runs before that are in here.", style="bold yellow")
    notes = [*words.skipped(result), *(words.caution(result, each) for each in result.warnings)]
    if notes:
        yield Text()
    for note in notes:
        yield _hanging("! ", note, "yellow")
    for answer in result.answers:
        yield from _answer(result, answer)


def main_table(result: Result) -> Table:
    """Metrics by kinds, with the ratios between neighbouring kinds."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", show_edge=False)
    table.add_column("")
    for kind in grid.kinds(result):
        table.add_column(words.label(result, kind), justify="right", no_wrap=True)
    for kind_name, baseline in grid.pair_names(result):
        table.add_column(f"{kind_name}\n÷ {baseline}", justify="right", no_wrap=True)
    previous = None
    for line in grid.lines(result):
        if line.metric.group in (Group.END, Group.COST) and line.metric.group is not previous:
            table.add_section()
        previous = line.metric.group
        brief = line.metric.group is Group.PHASE
        ratios = [Text() if brief else _cell(value) for value in line.ratios]
        cells = [*(_cell(value, brief) for value in line.values), *ratios]
        table.add_row(grid.indent(line.metric) + line.metric.title, *cells, style="dim" if brief else None)
    table.add_section()
    for title, figures in grid.prepared(result):
        table.add_row(title, *figures, *("" for _ in grid.pairs(result)))
    return table


def _cell(value: grid.Value | None, brief: bool = False) -> Text:
    from rich.text import Text

    if value is None:
        return Text("–", style="dim")  # noqa: RUF001
    text = Text(f"({value.text})" if value.weak else value.text, style="" if brief or value.weak else "bold")
    if not brief and value.interval:
        text.append(f"\n{value.interval}", style="not bold dim")
    return text


def _answer(result: Result, answer: Answer) -> Iterator[RenderableType]:
    from rich.padding import Padding
    from rich.text import Text

    title, question = words.QUESTIONS[answer.question]
    yield Text.assemble("\n", (title, "bold"), "  ", (question, "dim"))
    for sentence in words.findings(result, answer):
        yield _hanging("  ", sentence, "")
    if answer.question not in IN_MAIN_TABLE and answer.rows:
        yield Text()
        yield Padding(answer_table(result, answer), (0, 0, 0, 2))


def answer_table(result: Result, answer: Answer) -> Table:
    """An answer's properties by kinds. Long lists are counted here; Markdown and JSON spell them out."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", show_edge=False)
    table.add_column("")
    for kind in grid.kinds(result):
        table.add_column(words.label(result, kind), overflow="fold")
    for row in answer.rows:
        cells = (words.cell(row.cells.get(kind), row.unit, brief=True) for kind in grid.kinds(result))
        table.add_row(Text(row.name), *(Text(cell) for cell in cells))
    return table


def _hanging(lead: str, text: str, style: str) -> RenderableType:
    """A paragraph whose further lines stand under its first."""
    from rich.table import Table
    from rich.text import Text

    layout = Table.grid()
    layout.add_column(width=len(lead))
    layout.add_column()
    layout.add_row(Text(lead, style=style), Text(text, style=style))
    return layout
