"""`--format` of commands that list: a table, JSON, or a template for each line."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from hybrid.cli.errors import printable
from hybrid.cli.table import lines


def checked(form: str) -> str:
    """A format that can be used; the check of an option."""
    if form in ("table", "json"):
        return form
    if "{{" not in form:
        raise typer.BadParameter(f"{form!r} is none; write table, json or a template such as {{{{.Name}}}}")
    from hybrid.cli.template import Template
    from hybrid.errors import HybridError

    try:
        Template(form)
    except HybridError as error:
        raise typer.BadParameter(error.what) from None
    return form


FormatOption = Annotated[
    str,
    typer.Option(
        "--format",
        metavar="table|json|TEMPLATE",
        callback=checked,
        help="How to print: also {{.Name}} or table {{.Name}}\\t{{.ID}}.",
    ),
]


@dataclass(frozen=True, slots=True)
class Field:
    """One that a template may name, and what stands above its column."""

    name: str
    heading: str
    usual: bool = False
    """Whether the table shows it when nobody says what to show."""


def formatted(
    form: str, fields: Sequence[Field], rows: Sequence[Mapping[str, Any]], plain: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    """The lines to print. `rows` have a value for every field; `plain` is what JSON shows of the same."""
    if form == "json":
        import json

        yield json.dumps(plain, indent=2)
    elif form == "table":
        usual = [field for field in fields if field.usual]
        yield from lines(
            [field.heading for field in usual], [[str(row[field.name]) for field in usual] for row in rows]
        )
    else:
        yield from _by_template(form, fields, rows)


def _by_template(form: str, fields: Sequence[Field], rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    from hybrid.cli.template import Template

    word, _, rest = form.partition(" ")
    aligned = word == "table" and bool(rest)
    template = Template((rest if aligned else form).replace("\\t", "\t").replace("\\n", "\n"))
    if not aligned:
        yield from (printable(template.render(row)) for row in rows)
        return
    headings = template.headings({field.name: field.heading for field in fields})
    first, *cells = [text.replace("\n", " ").split("\t") for text in (headings, *map(template.render, rows))]
    width = max(map(len, (first, *cells)))
    first, *cells = [row + [""] * (width - len(row)) for row in (first, *cells)]
    yield from lines(first, cells)


def show(text: Iterator[str]) -> None:
    """Print lines, at once."""
    for line in text:
        print(line)
    sys.stdout.flush()
