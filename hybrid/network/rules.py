"""The nftables rules of all networks: pure functions from the state to libnftables' JSON commands.

One table of ours. Its rules never name an instance: sets and maps do, so that one more is a few elements.
Format: libnftables-json(5). An address and its port are in two maps, since nftables 1.0.6 reads no map to both.

What the rules promise:
  - a published port leads to its instance from outside, from the host itself (127.0.0.1 too) and from instances;
  - instances reach what the host reaches, seen as the host, unless their network is internal;
  - nobody outside reaches an instance but by a published port, and no network another network;
  - no instance reaches what listens on the host's loopback, though packets from there are routed to bridges.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from hybrid.network.model import Lease, Published
from hybrid.network.state import State

Command: TypeAlias = dict[str, Any]

_FILTER, _RAW, _DNAT, _SNAT = 0, -300, -100, 100
"""Priorities of base chains."""


def ruleset(table: str, state: State) -> list[Command]:
    """Commands that put our table as it should be, whatever there was of it, in one transaction."""
    name = {"family": "inet", "name": table}
    return [
        {"add": {"table": name}},  # so that there is one to delete
        {"delete": {"table": name}},
        {"add": {"table": name}},
        *_sets(table, state),
        *_chains(table),
        *(command for lease in state.leases.values() for command in published(table, lease)),
    ]


def removal(table: str) -> list[Command]:
    """Commands after which there is no table of ours, whether there was one or not."""
    name = {"family": "inet", "name": table}
    return [{"add": {"table": name}}, {"delete": {"table": name}}]


def published(table: str, lease: Lease, verb: str = "add") -> list[Command]:
    """Commands that add (or delete) what a lease publishes."""
    target = publishing_address(lease)
    elements: dict[str, list[Any]] = {}
    for port in lease.ports:
        port = replace(port, host_ip="" if lease.behind else port.host_ip)
        prefix = "own" if port.host_ip else "all"
        elements.setdefault(f"{prefix}_address", []).append([_key(port), target])
        elements.setdefault(f"{prefix}_port", []).append([_key(port), port.target])
    return [
        {verb: {"element": {"family": "inet", "table": table, "name": name, "elem": elem}}}
        for name, elem in elements.items()
    ]


def publishing_address(lease: Lease) -> str:
    """The address that published ports lead to: that on the first network with a way out."""
    return next((each.address for each in lease.interfaces if each.gateway), "")


def _key(port: Published) -> Command:
    parts: list[Any] = [port.protocol, port.port]
    return _concat(*([port.host_ip] if port.host_ip else []), *parts)


def _sets(table: str, state: State) -> Iterator[Command]:
    ups = list(state.networks.values())
    outer, inner = [up for up in ups if not up.internal], [up for up in ups if up.internal]
    yield _set(table, "bridges", "ifname", [up.bridge for up in ups])
    yield _set(table, "internal", "ifname", [up.bridge for up in inner])
    yield _set(table, "same", ["ifname", "ifname"], [_concat(up.bridge, up.bridge) for up in ups])
    yield _set(table, "subnets", "ipv4_addr", [_prefix(up.subnet) for up in ups], flags=["interval"])
    yield _set(table, "outgoing", "ipv4_addr", [_prefix(up.subnet) for up in outer], flags=["interval"])
    for name, key in (("all", ["inet_proto", "inet_service"]), ("own", ["ipv4_addr", "inet_proto", "inet_service"])):
        for what, value in (("address", "ipv4_addr"), ("port", "inet_service")):
            yield {
                "add": {"map": {"family": "inet", "table": table, "name": f"{name}_{what}", "type": key, "map": value}}
            }


def _set(table: str, name: str, kind: str | list[str], elements: list[Any], **more: Any) -> Command:
    filled = {"elem": elements} if elements else {}
    return {"add": {"set": {"family": "inet", "table": table, "name": name, "type": kind, **more, **filled}}}


def _chains(table: str) -> Iterator[Command]:
    loopback = _prefix("127.0.0.0/8")
    yield _chain(table, "martians", "filter", "prerouting", _RAW)
    for side in ("saddr", "daddr"):
        yield _rule(table, "martians", _in("iifname", "@bridges"), _match(_ip(side), loopback), {"drop": None})
    for name, hook in (("incoming", "prerouting"), ("local", "output")):
        yield _chain(table, name, "nat", hook, _DNAT)
        yield _rule(table, name, *_local(), _dnat("own", _ip("daddr"), _protocol(), _port()))
        yield _rule(table, name, *_local(), _dnat("all", _protocol(), _port()))
    yield _chain(table, "outgoing", "nat", "postrouting", _SNAT)
    ours = (_match(_ip("saddr"), "@subnets"), _match(_ip("daddr"), "@subnets"))
    yield _rule(table, "outgoing", *ours, _state("status", "dnat"), {"masquerade": None})
    yield _rule(table, "outgoing", _match(_ip("saddr"), loopback), _in("oifname", "@bridges"), {"masquerade": None})
    yield _rule(
        table, "outgoing", _match(_ip("saddr"), "@outgoing"), _in("oifname", "@bridges", "!="), {"masquerade": None}
    )
    yield _chain(table, "forward", "filter", "forward", _FILTER)
    for rule in _forwarding():
        yield _rule(table, "forward", *rule)


def _forwarding() -> Iterator[tuple[Command, ...]]:
    accept, drop = {"accept": None}, {"drop": None}
    yield (_state("state", ["established", "related"]), accept)
    yield (_match(_concat(_meta("iifname"), _meta("oifname")), "@same"), accept)
    yield (_in("iifname", "@internal"), drop)
    yield (_in("oifname", "@internal"), drop)
    yield (_in("oifname", "@bridges"), _state("status", "dnat"), accept)
    yield (_in("oifname", "@bridges"), drop)


# ---- words of the format -----------------------------------------------------------------


def _chain(table: str, name: str, kind: str, hook: str, priority: int) -> Command:
    what = {"type": kind, "hook": hook, "prio": priority, "policy": "accept"}
    return {"add": {"chain": {"family": "inet", "table": table, "name": name, **what}}}


def _rule(table: str, chain: str, *expressions: Command) -> Command:
    return {"add": {"rule": {"family": "inet", "table": table, "chain": chain, "expr": list(expressions)}}}


def _match(left: Any, right: Any, op: str = "==") -> Command:
    return {"match": {"op": op, "left": left, "right": right}}


def _in(key: str, name: str, op: str = "==") -> Command:
    return _match(_meta(key), name, op)


def _state(key: str, value: str | Sequence[str]) -> Command:
    return _match({"ct": {"key": key}}, value, "in")


def _local() -> tuple[Command, Command]:
    """To one of the host's own addresses."""
    is_local = _match({"fib": {"result": "type", "flags": ["daddr"]}}, "local")
    return _match(_meta("nfproto"), "ipv4"), is_local


def _dnat(maps: str, *key: Any) -> Command:
    address, port = ({"map": {"key": _concat(*key), "data": f"@{maps}_{what}"}} for what in ("address", "port"))
    return {"dnat": {"family": "ip", "addr": address, "port": port}}


def _concat(*parts: Any) -> Command:
    return {"concat": list(parts)}


def _meta(key: str) -> Command:
    return {"meta": {"key": key}}


def _protocol() -> Command:
    return _meta("l4proto")


def _port() -> Command:
    return {"payload": {"protocol": "th", "field": "dport"}}


def _ip(field: str) -> Command:
    return {"payload": {"protocol": "ip", "field": field}}


def _prefix(subnet: str) -> Command:
    address, _, length = subnet.partition("/")
    return {"prefix": {"addr": address, "len": int(length)}}
