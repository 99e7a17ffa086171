"""`hybrid pause`: let nothing of an instance run for a while."""

from __future__ import annotations

from hybrid.cli.arguments import Names, named


def pause(names: Names) -> int:
    """Let nothing of running instances run until unpause.

    Examples:

      hybrid pause web

      hybrid pause web cache
    """
    from hybrid.cli.each import each

    return each(names, lambda name: named(name).pause())
