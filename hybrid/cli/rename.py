"""`hybrid rename`: another name for an instance. What runs in it does not notice."""

from __future__ import annotations

from typing import Annotated

import typer

from hybrid.cli.arguments import Name


def rename(name: Name, new: Annotated[str, typer.Argument(metavar="NEW", help="Its name from now on.")]) -> int:
    """Give an instance another name, whether it runs or not. Its host name stays.

    Example:

      hybrid rename web web-old
    """
    from hybrid import network
    from hybrid.cli import deeds
    from hybrid.home import default_home
    from hybrid.store import InstanceStore

    store = InstanceStore(default_home())
    before = store.get(name)
    record = store.rename(before, new)
    network.renamed(record)
    deeds.journal().note("rename", record, oldName=before.name)
    return 0
