"""Networks as root: one bridge each, a veth for a container, a tap for a VM, and nftables for what goes in and out.

All of it happens under the place's lock. What will be made is written down before it is made, and struck out
after it is removed: a process killed in between leaves a lease whose instance does not run, and the next
command that looks here clears it away.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from hybrid import process
from hybrid.errors import HostError, HybridError
from hybrid.home import Home, ordinary_user
from hybrid.network import forwarding, ipam, names, neighbours, nft, ports, rules, tap
from hybrid.network.definitions import Definitions
from hybrid.network.model import Attachment, Guest, Interface, Lease, Namespace, Network, Up
from hybrid.network.netlink import Netlink, exists, has_carrier, inside, marked, netlink
from hybrid.network.plan import ports_of
from hybrid.network.state import Place, State
from hybrid.network.words import Mode
from hybrid.store import Record

_SYSCTL = Path("/proc/sys/net")
_LINKS = Path("/sys/class/net")


def attach(plan: Mapping[str, Any], record: Record, end: Namespace | Guest) -> Attachment:
    """Join an instance that is about to start to its networks. All or nothing."""
    place = Place(Path(plan["run"]))
    with place.held():
        state = _without(place, _living(place), record.id)
        state, lease = _leased(state, place, plan, record, end)
        place.write(state)
        try:
            with netlink() as handle:
                _raise(handle, place, state, lease)
                _join(handle, place, lease, end)
        except BaseException:
            _without(place, state, record.id)
            raise
        hosts, resolv_conf = names.hosts(lease, state), names.resolv_conf(plan["dns"])
        if isinstance(end, Namespace):
            names.write_hosts(record.directory, hosts, lease.owner)
            names.write_resolv_conf(record.directory, resolv_conf, lease.owner)
        place.write(names.tell(state, {each.bridge for each in lease.interfaces}, but=lease.id))
    return Attachment(Mode.BRIDGE, lease.interfaces, lease.ports, hosts, resolv_conf)


def refresh(plan: Mapping[str, Any], identifier: str, known: str) -> None:
    """Take note that a guest is up, and tell it what has changed since it was made with the hosts `known`."""
    place = Place(Path(plan["run"]))
    with place.held():
        state = place.read()
        if (lease := state.leases.get(identifier)) is None:
            return
        lease = replace(lease, listens=True)
        state = state.with_lease(lease)
        place.write(names.tell_guests(state, [lease]) if names.hosts(lease, state) != known else state)


def detach(plan: Mapping[str, Any], identifier: str) -> None:
    """Give back all that an instance holds of networks. Nothing happens when it holds nothing."""
    place = Place(Path(plan["run"]))
    if identifier not in place.read().leases:
        return
    with place.held():
        _without(place, place.read(), identifier)


def rename(plan: Mapping[str, Any], identifier: str, name: str) -> None:
    """Let the others find an instance by another name."""
    place = Place(Path(plan["run"]))
    with place.held():
        state = place.read()
        if (lease := state.leases.get(identifier)) is None:
            return
        swapped = tuple(
            replace(each, names=names.names(name, lease.hostname, each.names[1:])) for each in lease.interfaces
        )
        state = state.with_lease(replace(lease, name=name, interfaces=swapped))
        place.write(names.tell(state, {each.bridge for each in lease.interfaces}))


def sweep(run: Path) -> None:
    """Clear away what instances that do not run any more have left, and links that nobody knows of."""
    place = Place(run)
    if not place.directory.exists():
        return
    with place.held():
        state = _living(place)
        known = {each.link for lease in state.leases.values() for each in lease.interfaces} | set(state.networks)
        if lost := [link for link in marked(place.mark) if link not in known]:
            with netlink() as handle:
                for link in lost:
                    handle.delete(link)


# ---- what is held ------------------------------------------------------------------------


def _living(place: Place) -> State:
    """The state, after leases of instances that do not run have been given back."""
    state = place.read()
    for lease in list(state.leases.values()):
        if not _lives(lease):
            state = _without(place, state, lease.id)
    return state


def _lives(lease: Lease) -> bool:
    """Whether an instance still uses its links, or is about to.

    A veth goes with the container's network namespace. A tap stays; it has a carrier while QEMU has it open,
    which is soon after whoever starts it has made it.
    """
    if not all(exists(each.link) for each in lease.interfaces):
        return False
    if not lease.control:
        return True
    pid, started = lease.starter
    return has_carrier(lease.interfaces[0].link) or process.start_time(pid) == started


def _leased(
    state: State, place: Place, plan: Mapping[str, Any], record: Record, end: Namespace | Guest
) -> tuple[State, Lease]:
    """The state with a lease for the instance: addresses, links, ports, and networks that must come up for it."""
    definitions = Definitions(Home(Path(plan["root"]), place.run))
    interfaces: list[Interface] = []
    for number, wish in enumerate(plan["networks"]):
        state, up = _up(state, place, definitions, definitions.get(wish["name"]))
        address = _address(state, up, wish["address"])
        state = state.with_network(replace(up, last=address))
        interfaces.append(
            Interface(
                network=up.network,
                address=address,
                prefix=IPv4Network(up.subnet).prefixlen,
                gateway="" if up.internal else up.gateway,
                mac=ipam.mac(record.id, number),
                link=f"hp{number}{record.id[:11]}",
                bridge=up.bridge,
                names=names.names(record.name, plan["hostname"], wish["aliases"]),
            )
        )
    lease = Lease(
        id=record.id,
        name=record.name,
        directory=str(record.directory),
        starter=(os.getpid(), process.start_time(os.getpid()) or 0),
        interfaces=tuple(interfaces),
        ports=ports.choose(ports_of(plan), state.leases.values()),
        hostname=plan["hostname"],
        extra_hosts=tuple((name, address) for name, address in plan["extra_hosts"]),
        owner=end.owner if isinstance(end, Namespace) else 0,
        control=str(end.control) if isinstance(end, Guest) else "",
        behind=ordinary_user() is not None,
    )
    return state.with_lease(lease), lease


def _up(state: State, place: Place, definitions: Definitions, network: Network) -> tuple[State, Up]:
    """The network as it is, or will be, up on this host."""
    bridge = place.bridge(network.id)
    if (up := state.networks.get(bridge)) is not None:
        return state, up
    with netlink() as handle:
        routes = set(handle.destinations())
    taken = routes | {IPv4Network(each.subnet) for each in state.networks.values()}
    if not network.subnet:
        subnet = ipam.free_subnet(taken | {IPv4Network(each.subnet) for each in definitions if each.subnet})
        gateway = str(ipam.first_address(subnet))
    else:
        subnet, gateway = IPv4Network(network.subnet), network.gateway
        if (other := ipam.overlapping(subnet, taken)) is not None:
            raise HostError(
                f"the network {network.name} ({subnet}) overlaps {other}, which this host uses by now",
                mend=f"hybrid network rm {network.name}, and make it again with another --subnet",
            )
    up = Up(network.name, bridge, str(subnet), gateway, network.internal)
    return state.with_network(up), up


def _address(state: State, up: Up, wish: str) -> str:
    taken = {up.gateway, *(interface.address for _, interface in state.members(up.bridge))}
    subnet = IPv4Network(up.subnet)
    if not wish:
        return str(ipam.free_address(subnet, taken, up.last or up.gateway))
    if wish in taken or not ipam.is_host(subnet, wish):
        why = "is taken" if wish in taken else f"is no address in {subnet}"
        raise HostError(f"ipv4_address: {wish} {why}", mend=f"choose another, of the network {up.network}")
    return wish


# ---- the kernel's objects ----------------------------------------------------------------


def _raise(handle: Netlink, place: Place, state: State, lease: Lease) -> None:
    """Bring up what is not: bridges, forwarding, and the rules for it all."""
    fresh = False
    for bridge in {each.bridge for each in lease.interfaces}:
        if not exists(bridge):
            _make_bridge(handle, place, state.networks[bridge])
            fresh = True
    forwarding.switch_on()
    if fresh or not nft.has("chain", family="inet", table=place.table, name="forward"):
        nft.run(rules.ruleset(place.table, state))
        neighbours.admit(place)
    elif lease.ports:
        nft.run(rules.published(place.table, lease))


def _make_bridge(handle: Netlink, place: Place, up: Up) -> None:
    handle.add_bridge(up.bridge, ipam.bridge_mac(up.bridge), place.mark)
    _without_ipv6(up.bridge)
    (_SYSCTL / f"ipv4/conf/{up.bridge}/route_localnet").write_text("1")
    handle.add_address(up.bridge, up.gateway, IPv4Network(up.subnet).prefixlen)


def _join(handle: Netlink, place: Place, lease: Lease, end: Namespace | Guest) -> None:
    for number, each in enumerate(lease.interfaces):
        if isinstance(end, Namespace):
            handle.add_veth(each.link, each.bridge, place.mark, f"eth{number}", each.mac, end.descriptor)
        else:
            tap.create(each.link, end.user)
            handle.change(each.link, alias=place.mark, bridge=each.bridge, up=True)
        _without_ipv6(each.link)
        # One that connects to a port that leads to itself is answered through the link it came by.
        (_LINKS / each.link / "brport/hairpin_mode").write_text("1")
    if isinstance(end, Namespace):
        inside(end.descriptor, lambda: _configure(lease))


def _configure(lease: Lease) -> None:
    """In a container's network namespace: its interfaces, as a guest's init makes them in a VM."""
    with netlink() as handle:
        handle.change("lo", up=True)
        for number, each in enumerate(lease.interfaces):
            _without_ipv6(f"eth{number}")
            handle.change(f"eth{number}", up=True)
            handle.add_address(f"eth{number}", each.address, each.prefix)
        if (first := outward(lease.interfaces)) is not None:
            number, each = first
            handle.add_default_route(f"eth{number}", each.gateway)


def _without_ipv6(link: str) -> None:
    """Networks are IPv4 for now: no link-local address leads around their rules."""
    with suppress(FileNotFoundError):  # a kernel without IPv6
        (_SYSCTL / f"ipv6/conf/{link}/disable_ipv6").write_text("1")


def outward(interfaces: tuple[Interface, ...]) -> tuple[int, Interface] | None:
    """The interface that leads to everywhere else, and its number."""
    return next(((number, each) for number, each in enumerate(interfaces) if each.gateway), None)


def _without(place: Place, state: State, identifier: str) -> State:
    """The state after an instance's links and rules are gone, and the networks that it was the last on."""
    if (lease := state.leases.get(identifier)) is None:
        return state
    left = state.without_lease(identifier)
    idle = [name for name in state.networks if not any(left.members(name))]
    with netlink() as handle:
        for each in lease.interfaces:
            handle.delete(each.link)
        for bridge in idle:
            handle.delete(bridge)
            left = left.without_network(bridge)
    _close(place, left, lease, bool(idle))
    if not left.networks:
        forwarding.switch_back()
    place.write(left)
    told = names.tell(left, {each.bridge for each in lease.interfaces})
    if told != left:
        place.write(told)
    return told


def _close(place: Place, left: State, lease: Lease, changed: bool) -> None:
    """The rules without the lease."""
    if not left.networks:
        nft.run(rules.removal(place.table))
        neighbours.dismiss(place)
        return
    try:
        nft.run(rules.ruleset(place.table, left) if changed else rules.published(place.table, lease, "delete"))
    except HybridError:  # somebody has changed our table
        nft.run(rules.ruleset(place.table, left))
