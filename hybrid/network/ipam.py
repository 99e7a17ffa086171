"""Addresses: which subnet a network gets, which address an instance gets, and its MAC. Pure functions."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterator
from ipaddress import IPv4Address, IPv4Network

from hybrid.errors import HostError, HybridError

_POOLS = (("10.213.0.0/16", 20), ("172.30.0.0/16", 20), ("10.144.0.0/12", 20), ("192.168.128.0/17", 24))
"""Where subnets are cut from, and how long their prefixes are: away from what other engines and homes take."""


def free_subnet(taken: Collection[IPv4Network]) -> IPv4Network:
    """The first of our subnets that overlaps nothing in `taken`; HostError when there is none."""
    for pool, prefix in _POOLS:
        for subnet in IPv4Network(pool).subnets(new_prefix=prefix):
            if not overlapping(subnet, taken):
                return subnet
    raise HostError(
        "every subnet for a network overlaps one that this host uses",
        mend="hybrid network create --subnet A.B.C.D/N NAME, and `networks: [NAME]` in the spec",
    )


def overlapping(subnet: IPv4Network, taken: Collection[IPv4Network]) -> IPv4Network | None:
    """What of `taken` overlaps `subnet`. The default route, which overlaps everything, does not count."""
    return next((each for each in taken if each.prefixlen and each.overlaps(subnet)), None)


def first_address(subnet: IPv4Network) -> IPv4Address:
    """The bridge's address if none is wished for."""
    return subnet.network_address + 1


def check(subnet: str, gateway: str) -> tuple[IPv4Network, IPv4Address]:
    """A subnet that instances can live in, and the bridge's address in it (the first one if empty)."""
    try:
        network = IPv4Network(subnet)
    except ValueError as error:
        raise HybridError(f"{subnet!r} is no IPv4 subnet: {error}", mend="for example 10.20.0.0/24") from None
    if not 8 <= network.prefixlen <= 29:
        raise HybridError(f"{subnet} cannot be a network's", mend="give a prefix from /8 to /29")
    if network.is_loopback or network.is_multicast or network.is_link_local or network.is_reserved:
        raise HybridError(f"{subnet} is not for networks", mend="take one of 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16")
    try:
        address = IPv4Address(gateway) if gateway else first_address(network)
    except ValueError:
        raise HybridError(f"{gateway!r} is no IPv4 address", mend=f"for example {first_address(network)}") from None
    if address not in network or address in (network.network_address, network.broadcast_address):
        raise HybridError(f"the gateway {address} is no address in {network}", mend=f"take {first_address(network)}")
    return network, address


def free_address(subnet: IPv4Network, taken: Collection[str], last: str = "") -> IPv4Address:
    """The next address after `last` that nobody has; HostError when all are taken.

    One that was given back is not given out at once: neighbours may still know it as somebody else's.
    """
    size = subnet.num_addresses
    start = int(IPv4Address(last)) - int(subnet.network_address) if last else 0
    for offset in _around(start % size, size):
        address = subnet.network_address + offset
        if str(address) not in taken:
            return address
    raise HostError(f"all addresses of {subnet} are taken", mend="hybrid prune, or a network with a larger subnet")


def _around(start: int, size: int) -> Iterator[int]:
    """Offsets of hosts, beginning after `start`: neither the network's own address nor the broadcast's."""
    yield from range(start + 1, size - 1)
    yield from range(1, min(start + 1, size - 1))


def mac(identifier: str, number: int) -> str:
    """The MAC of an instance's interface of that number: locally administered, the same at every start."""
    octets = bytearray(bytes.fromhex(identifier[:10]))
    octets[-1] = (octets[-1] + number) % 256
    return ":".join(f"{octet:02x}" for octet in (0x02, *octets))


def bridge_mac(bridge: str) -> str:
    """The MAC of a bridge, so that it does not change with its members."""
    octets = zlib.crc32(bridge.encode()).to_bytes(4, "big")
    return ":".join(f"{octet:02x}" for octet in (0x02, 0x42, *octets))


def is_host(subnet: IPv4Network, address: str) -> bool:
    """Whether it is an address that an instance on the subnet can have."""
    found = IPv4Address(address)
    return found in subnet and found not in (subnet.network_address, subnet.broadcast_address)
