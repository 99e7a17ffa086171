"""One deed done to several instances: all are tried, each failure is told, and the exit code says if any failed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from hybrid.cli.errors import lines, printable
from hybrid.errors import HybridError


def each(names: Sequence[str], deed: Callable[[str], None]) -> int:
    """Do `deed` to every name, once each, and print those for which it was done; 1 if one failed."""
    failed = False
    for name in dict.fromkeys(names):
        try:
            deed(name)
            print(name, flush=True)
        except HybridError as error:
            failed = True
            for line in lines(error):
                print(printable(line), file=sys.stderr)
    return int(failed)
