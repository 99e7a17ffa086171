"""`hybrid unpause`: let a paused instance run on."""

from __future__ import annotations

from hybrid.cli.arguments import Names, named


def unpause(names: Names) -> int:
    """Let paused instances run on.

    Examples:

      hybrid unpause web

      hybrid unpause web cache
    """
    from hybrid.cli import deeds
    from hybrid.cli.each import each

    def deed(name: str) -> None:
        instance = named(name)
        instance.unpause()
        deeds.journal().note("unpause", instance.record)

    return each(names, deed)
