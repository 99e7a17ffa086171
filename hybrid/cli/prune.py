"""`hybrid prune`: remove what has ended and what a killed hybrid left behind."""

from __future__ import annotations


def prune() -> int:
    """Remove what has ended, and what a killed hybrid left.

    What runs, or is being made at this moment, is not touched.
    """
    from hybrid.home import default_home
    from hybrid.salvage import prune as removed

    for name in removed(default_home()):
        print(name, flush=True)
    return 0
