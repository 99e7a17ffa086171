"""Networks of an ordinary user: those of root, in a network namespace that the user's instances share.

Bridges, addresses, rules and names are made there as root has them on the host: `hybrid.network.bridge`, told
where. Only what leads out and in is another's: `hybrid.network.slirp`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hybrid.network import bridge
from hybrid.network.model import Attachment, Guest, Namespace
from hybrid.network.namespace import within
from hybrid.network.slirp import Slirp
from hybrid.network.state import Place
from hybrid.store import Record


def attach(plan: Mapping[str, Any], record: Record, end: Namespace | Guest) -> Attachment:
    """See `bridge.attach`."""
    joined = within(lambda: bridge.attach(plan, record, end))
    try:
        _publish(Path(plan["run"]))
    except BaseException:
        detach(plan, record.id)
        raise
    return joined


def detach(plan: Mapping[str, Any], identifier: str) -> None:
    """See `bridge.detach`."""
    within(lambda: bridge.detach(plan, identifier))
    _publish(Path(plan["run"]))


def sweep(run: Path) -> None:
    """See `bridge.sweep`."""
    within(lambda: bridge.sweep(run))
    _publish(run)


def _publish(run: Path) -> None:
    """Let just those ports in that somebody publishes; without instances nothing leads out."""
    place = Place(run)
    with place.held():
        leases = place.read().leases.values()
        slirp = Slirp(place.directory)
        if leases:
            slirp.publish([port for lease in leases for port in lease.ports])
        else:
            slirp.end()
