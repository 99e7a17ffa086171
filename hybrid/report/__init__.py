"""Reports: a result rendered for people and for programs. Nothing in here measures."""

from __future__ import annotations

from pathlib import Path
from typing import IO

from hybrid.errors import HostError
from hybrid.result import Result


def show(result: Result, form: str, file: IO[str]) -> None:
    """Print the result to `file` as `table`, `json` or `markdown`."""
    match form:
        case "json":
            file.write(result.to_json())
        case "markdown":
            from hybrid.report import markdown

            file.write(markdown.render(result))
        case _:
            from hybrid.report import table

            table.show(result, file)


def write(result: Result, directory: Path) -> None:
    """Write `report.md` and `report.html` beside the result."""
    from hybrid.report import markdown, page

    for name, render in (("report.md", markdown.render), ("report.html", page.render)):
        try:
            (directory / name).write_text(render(result), encoding="utf-8")
        except OSError as error:
            raise HostError(
                f"the report cannot be written: {error.strerror}", where=str(directory / name), mend="free some space"
            ) from None
