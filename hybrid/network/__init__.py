"""One network for containers and VMs: bridges, addresses given by us, published ports, names.

    hybrid.network.plan      what a spec asks for, checked, as it is kept in an instance's record
    hybrid.network           joining an instance to its networks and taking it off again (this module)
    hybrid.network.state     what is in use on this host now: one file under a lock, empty after a reboot
    hybrid.network.ipam, rules, names   pure functions: addresses, nftables rules, hosts files
    hybrid.network.user, slirp, namespace   the same for an ordinary user
    hybrid.network.netlink, nft         thin layers over libnl and libnftables
    hybrid.network.definitions          networks that users have made

A kind calls `attach` before the command is executed and `detach` when it has ended; both are idempotent
and work from any process. A kind that uses no network loads none of this but `words`.
"""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

from hybrid.home import ordinary_user
from hybrid.network.words import Mode

if TYPE_CHECKING:
    from hybrid.home import Home
    from hybrid.network.model import Attachment, Guest, Namespace
    from hybrid.store import Record


def mode(record: Record) -> Mode:
    """What network an instance has. None for those made before there were any."""
    plan = record.engine.get("network")
    return Mode(plan["mode"]) if isinstance(plan, dict) else Mode.NONE


def attach(record: Record, end: Namespace | Guest) -> Attachment:
    """Join an instance that is about to start to its networks: links, addresses, ports, names. All or nothing.

    HostError when a port or an address is taken, before anything is made. What it held before is given back.
    """
    if mode(record) is not Mode.BRIDGE:
        return _unjoined(record)
    joined: Attachment = _backend().attach(record.engine["network"], record, end)
    return joined


def detach(record: Record) -> None:
    """Give back all that an instance holds of networks. Idempotent; works from any process."""
    if mode(record) is Mode.BRIDGE and "run" in record.engine["network"] and _holds(record):
        _backend().detach(record.engine["network"], record.id)


def _backend() -> ModuleType:
    """Who makes networks: root on the host, an ordinary user in a namespace of the user's own."""
    if ordinary_user() is None:
        from hybrid.network import bridge

        return bridge
    from hybrid.network import user

    return user


def _unjoined(record: Record) -> Attachment:
    from hybrid.network.model import Attachment

    return Attachment(mode(record))


def _holds(record: Record) -> bool:
    """Whether something is written down for the instance, by a look that loads nothing."""
    try:
        with open(f"{record.engine['network']['run']}/network/state.json", "rb") as file:  # noqa: PTH123
            return record.id.encode() in file.read()
    except FileNotFoundError:
        return False


def names_of_host(record: Record, owner: int) -> None:
    """Give an instance on the host's own network the names and name servers that the host has."""
    from hybrid.network import names

    names.write_hosts(record.directory, names.hosts_of_host(record.engine["network"]["hostname"]), owner)
    names.write_resolv_conf(record.directory, names.resolv_conf_of_host(), owner)


def refresh(record: Record, known: str) -> None:
    """Tell a guest, which listens by now, what has changed in its names since `attach` said `known`.

    With an empty `known` it is told in any case: after a pause, when it may have missed something.
    """
    if mode(record) is not Mode.BRIDGE or not _holds(record):
        return
    from hybrid.network import bridge

    bridge.refresh(record.engine["network"], record.id, known)


def renamed(record: Record) -> None:
    """Let others find an instance, whose record has its new name already, by that name."""
    if mode(record) is Mode.BRIDGE and _holds(record):
        from hybrid.network import bridge

        bridge.rename(record.engine["network"], record.id, record.name)


def sweep(home: Home) -> None:
    """Clear away what instances that do not run any more have left on this host's networks."""
    if (home.run / "network").exists():
        _backend().sweep(home.run)


def of(record: Record) -> Attachment:
    """How an instance is joined to networks now: its addresses, MACs, names and published ports.

    Without interfaces when it does not run, or has no network of its own (`mode` tells). Cheap: reads one file.
    """
    if mode(record) is not Mode.BRIDGE:
        return _unjoined(record)
    from hybrid.network import state

    return state.attachment(record.engine["network"], record.id)
