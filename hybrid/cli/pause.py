"""`hybrid pause`: let nothing of an instance run for a while."""

from __future__ import annotations

from hybrid.cli.arguments import Names, named


def pause(names: Names) -> int:
    """Let nothing of running instances run until unpause.

    Examples:

      hybrid pause web

      hybrid pause web cache
    """
    from hybrid.cli import deeds
    from hybrid.cli.each import each

    def deed(name: str) -> None:
        instance = named(name)
        instance.pause()
        deeds.journal().note("pause", instance.record)

    return each(names, deed)
