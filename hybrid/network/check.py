"""What this host lacks for networks, and what of its other firewalls stands in their way. Changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from hybrid.driver import Problem
from hybrid.errors import HybridError
from hybrid.network import neighbours, nft, rules
from hybrid.network.netlink import netlink
from hybrid.network.state import State

_TRIAL = "hybrid_trial"


def problems() -> Iterator[Problem]:
    """Each with its mend, for root; `network_mode: none` works whatever there is of them."""
    try:
        with netlink() as handle:
            list(handle.destinations())
        # In one transaction: the kernel checks every rule, and there is nothing of them after it.
        nft.run([*rules.ruleset(_TRIAL, State()), *rules.removal(_TRIAL)])
        yield from neighbours.problems()
    except HybridError as error:
        yield Problem(f"networks: {error.what}", error.mend)
    if not Path("/dev/net/tun").exists():
        yield Problem("networks of VMs need /dev/net/tun", "modprobe tun")
