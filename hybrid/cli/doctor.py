"""`hybrid doctor`: can this host do it, and if not, what would mend it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from hybrid.driver import Kind

if TYPE_CHECKING:
    from rich.console import RenderableType

    from hybrid.doctor import Finding, Report
    from hybrid.driver import Problem


def doctor(
    kinds: Annotated[
        list[Kind] | None, typer.Option("--as", help="Ask about this kind only; may be given several times.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Say what this host can run, why not, and what mends it.

    Exits with 0 when every kind that was asked about can run, else with 1.

    Examples:

      hybrid doctor

      hybrid doctor --as vm --json
    """
    from hybrid.doctor import examine
    from hybrid.drivers import driver
    from hybrid.home import default_home

    home = default_home()
    report = examine([driver(kind, home) for kind in dict.fromkeys(kinds or Kind)], home)
    if as_json:
        import json

        print(json.dumps(report.values(), indent=2))
    else:
        _print(report)
    return 0 if report.works else 1


def _print(report: Report) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=False)
    host = Table.grid(padding=(0, 2))
    for name, value in report.host.items():
        host.add_row(f"[dim]{name}[/]", _plain(value))
    console.print(host)
    for problem in report.warnings:
        console.print(_problem(problem, "yellow"))
    for finding in report.findings:
        console.print()
        console.print(_kind(finding))


def _kind(finding: Finding) -> RenderableType:
    """One kind: can it run, on what, and what is amiss."""
    from rich.console import Group
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    colour, word = ("green", "ready") if finding.works else ("red", "cannot run here")
    facts = Table.grid(padding=(0, 2))
    for name, value in finding.facts.items():
        facts.add_row(f"[dim]{name}[/]", _plain(value))
    return Group(
        Text.assemble((finding.kind.value, "bold"), "  ", (word, colour)),
        Padding(facts, (0, 0, 0, 2)),
        *(Padding(_problem(problem, "red"), (0, 0, 0, 2)) for problem in finding.problems),
        *(Padding(_problem(problem, "yellow"), (0, 0, 0, 2)) for problem in finding.warnings),
    )


def _problem(problem: Problem, colour: str) -> RenderableType:
    from rich.table import Table

    table = Table.grid(padding=(0, 1))
    table.add_row(f"[{colour}]{'✗' if colour == 'red' else '!'}[/]", _plain(problem.what))
    if problem.mend:
        table.add_row("", f"[dim]mend:[/] {_plain(problem.mend)}")
    return table


def _plain(text: str) -> str:
    """`text` with nothing that rich or the terminal would take for an order."""
    from rich.markup import escape

    from hybrid.cli.errors import printable

    return escape(printable(text))
