"""The forms in which Compose lets one write ports, networks, name servers and names. See specforms."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Any

from hybrid.network.words import MOST_NETWORKS, NETWORK_NAME, Port
from hybrid.specforms import Bad, hostname, text

MODES = ("bridge", "none", "host")
PORT: Mapping[str, Any] = {
    "anyOf": [
        {"type": "integer"},
        {"type": "string", "pattern": r"^([0-9.\[\]:a-fA-F]*:)?[0-9]*(-[0-9]+)?(:?[0-9]+(-[0-9]+)?)?(/(tcp|udp))?$"},
        {
            "type": "object",
            "required": ["target"],
            "properties": {
                "target": {"type": ["integer", "string"]},
                "published": {"type": ["integer", "string"]},
                "host_ip": {"type": "string"},
                "protocol": {"enum": ["tcp", "udp"]},
                "mode": {"enum": ["host", "ingress"]},
                "name": {"type": "string"},
                "app_protocol": {"type": "string"},
            },
            "additionalProperties": False,
        },
    ]
}
NETWORKS: Mapping[str, Any] = {
    "anyOf": [
        {"type": "array", "items": {"type": "string"}, "uniqueItems": True},
        {
            "type": "object",
            "additionalProperties": {
                "type": ["object", "null"],
                "properties": {
                    "aliases": {"type": "array", "items": {"type": "string"}},
                    "ipv4_address": {"type": "string"},
                },
                "additionalProperties": False,
            },
        },
    ]
}
ADDRESSES: Mapping[str, Any] = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
HOSTS: Mapping[str, Any] = {
    "anyOf": [
        {"type": "array", "items": {"type": "string"}},
        {"type": "object", "additionalProperties": {"type": ["string", "array"], "items": {"type": "string"}}},
    ]
}
_SHORT = re.compile(
    r"(?:(?P<host>\[[0-9a-fA-F:.]*\]|[^:/]*):(?=[^:]*:))?(?:(?P<published>[0-9]*(?:-[0-9]+)?):)?"
    r"(?P<target>[0-9]+(?:-[0-9]+)?)(?:/(?P<protocol>[a-z]+))?"
)
_LONG = ("target", "published", "host_ip", "protocol", "mode", "name", "app_protocol")
_SPAN = 1024
"""Ports that one range may hold."""


def mode(value: Any) -> Any:
    if value in MODES:
        return value
    if isinstance(value, str) and value.partition(":")[0] in ("service", "container"):
        raise Bad(f"{value!r}: another's network cannot be shared", "put both on one network: `networks: [NAME]`")
    raise Bad(f"{value!r} is no network mode", "write bridge, none or host; a network's name goes below `networks:`")


def check(given: str | None, networks: bool, ports: bool) -> None:
    """Whether what is said of networks goes together."""
    if networks and given in ("none", "host"):
        raise Bad(f"network_mode: {given} and networks exclude each other", "leave one of them out")
    if ports and given == "none":
        raise Bad("ports: nothing can be published with network_mode: none", "leave one of them out")


def ports(value: Any) -> tuple[Port, ...]:
    """One entry of `ports:`, short or long: a range is several ports."""
    if isinstance(value, tuple) and all(isinstance(each, Port) for each in value):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if isinstance(value, str):
        found = _SHORT.fullmatch(value)
        if found is None:
            raise Bad(f"{value!r} is no port", "write TARGET, PUBLISHED:TARGET or ADDRESS:PUBLISHED:TARGET, with /udp")
        parts = found.groupdict()
        return _expand(parts["host"], parts["published"], parts["target"], parts["protocol"])
    if not isinstance(value, dict):
        raise Bad("a port is a number, a text or a mapping", 'write "8080:80", or {target: 80, published: 8080}')
    if unknown := [key for key in value if key not in _LONG]:
        raise Bad(f"{unknown[0]} is no known key of a port", f"known here: {', '.join(_LONG)}")
    if "target" not in value:
        raise Bad("a port needs its target", "for example {target: 80, published: 8080}")
    if value.get("mode", "host") not in ("host", "ingress"):
        raise Bad(f"mode {value['mode']!r} is not known", "leave it out")
    return _expand(value.get("host_ip"), _words(value.get("published")), _words(value["target"]), value.get("protocol"))


def _words(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise Bad(f"{value!r} is no port", "write a number, or a range: 8000-8010")
    return str(value)


def _expand(host: str | None, published: str | None, target: str, protocol: str | None) -> tuple[Port, ...]:
    host, protocol = _host_ip(host), protocol or "tcp"
    if protocol not in ("tcp", "udp"):
        raise Bad(f"{protocol!r} is no protocol that can be published", "write tcp or udp")
    inner = _span(target)
    if published in (None, "", "0"):
        return tuple(Port(each, None, host, protocol) for each in range(inner[0], inner[1] + 1))
    outer = _span(str(published))
    if inner[0] == inner[1]:
        return (Port(inner[0], outer, host, protocol),)
    if outer[1] - outer[0] != inner[1] - inner[0]:
        raise Bad(f"{published} and {target} are not equally many ports", "give both ranges the same length")
    shift = outer[0] - inner[0]
    return tuple(Port(each, (each + shift, each + shift), host, protocol) for each in range(inner[0], inner[1] + 1))


def _span(words: str) -> tuple[int, int]:
    first, _, last = words.partition("-")
    if not first.isdecimal() or not (last or first).isdecimal() or len(words) > 11:
        raise Bad(f"{words!r} is no port", "write a number, or a range: 8000-8010")
    low, high = int(first), int(last or first)
    if not 1 <= low <= high <= 65535:
        raise Bad(f"{words} is no port", "ports go from 1 to 65535, the smaller one first")
    if high - low >= _SPAN:
        raise Bad(f"{words} are {high - low + 1} ports", f"publish at most {_SPAN} at once")
    return low, high


def _host_ip(value: Any) -> str:
    if value in (None, ""):
        return ""
    try:
        found = ipaddress.ip_address(text(value).strip("[]"))
    except ValueError:
        raise Bad(f"{value!r} is no address of this host", "write an IPv4 address: 127.0.0.1") from None
    if found.version != 4:
        raise Bad(f"{value}: ports are published at IPv4 addresses only", "write an IPv4 address, or none for all")
    return "" if found.is_unspecified else str(found)


def network(value: Any) -> str:
    if not NETWORK_NAME.fullmatch(text(value)):
        raise Bad(f"{value!r} is no name of a network", "use letters, digits, '_', '.' and '-'")
    return str(value)


def networks(value: Any) -> Any:
    """A list of names as the mapping that it stands for."""
    if isinstance(value, list | tuple):
        value = dict.fromkeys(text(each) for each in value)
    if not isinstance(value, dict):
        raise Bad("networks are a list of names, or a mapping", "write `networks: [NAME]`")
    if len(value) > MOST_NETWORKS:
        raise Bad(f"{len(value)} networks are too many", f"join at most {MOST_NETWORKS}")
    return {name: {} if each in (None, "") else each for name, each in value.items()}


def address(value: Any) -> str:
    try:
        return str(ipaddress.IPv4Address(text(value)))
    except ValueError:
        raise Bad(f"{value!r} is no IPv4 address", "for example 10.1.2.3") from None


def servers(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def host_names(value: Any) -> tuple[tuple[str, str], ...]:
    """`extra_hosts` as pairs of a name and an address; `host-gateway` stands for the host."""
    if isinstance(value, dict):
        many = ((name, each) for name, given in value.items() for each in (given if _is_list(given) else [given]))
        return tuple((hostname(name), _host_address(each)) for name, each in many)
    if not _is_list(value):
        raise Bad("extra_hosts are a list or a mapping", "write `- NAME=ADDRESS` lines")
    return tuple(each if isinstance(each, tuple) else _host_line(text(each)) for each in value)


def _host_line(line: str) -> tuple[str, str]:
    name, separator, rest = line.partition("=") if "=" in line else line.partition(":")
    if not separator:
        raise Bad(f"{line!r} says no address", "write NAME=ADDRESS")
    return hostname(name.strip()), _host_address(rest.strip())


def _host_address(value: Any) -> str:
    if value == "host-gateway":
        return "host-gateway"
    try:
        return str(ipaddress.ip_address(text(value).strip("[]")))
    except ValueError:
        raise Bad(f"{value!r} is no address", "write an IP address, or host-gateway") from None


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)
