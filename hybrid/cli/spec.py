"""`hybrid spec`: what may be in a spec, and whether one is right."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Say what may be in a spec, and check one.", no_args_is_help=True, add_completion=False, rich_markup_mode=None
)


@app.command()
def schema() -> None:
    """Print the JSON Schema of a spec, for editors that complete and check while one types.

    Example:

      hybrid spec schema > spec.schema.json
    """
    import json

    from hybrid import spec

    print(json.dumps(spec.schema(), indent=2))


@app.command()
def check(path: Annotated[Path, typer.Argument(metavar="SPEC", help="A spec's file.")]) -> None:
    """Check a spec and say every mistake in it; silent when there is none.

    Example:

      hybrid spec check web.yaml
    """
    from hybrid import spec

    spec.load(path)
