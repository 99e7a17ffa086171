"""What a spec asks for in networks, checked for a kind and this host, as JSON values for the instance's record."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from hybrid.driver import Kind
from hybrid.errors import HybridError, SpecError
from hybrid.network.words import DEFAULT, Mode, Port

if TYPE_CHECKING:
    from hybrid.home import Home
    from hybrid.spec import Spec


def make(spec: Spec, kind: Kind, home: Home, hostname: str) -> dict[str, Any]:
    """The plan that `attach` follows at each start. SpecError when the kind or this host cannot have it so."""
    mode = mode_of(spec, kind)
    ports = [port for entry in spec.ports for port in entry]
    if errors := list(_mistakes(spec, kind, mode, ports, home)):
        raise SpecError(errors)
    plan: dict[str, Any] = {"mode": mode.value, "hostname": hostname}
    if mode is not Mode.BRIDGE or kind is Kind.HOST:
        return plan
    return plan | {
        "run": str(home.run),
        "root": str(home.root),
        "networks": [
            {"name": _named(name), "aliases": list(each.aliases), "address": each.ipv4_address or ""}
            for name, each in spec.networks.items()
        ]
        or [{"name": DEFAULT, "aliases": [], "address": ""}],
        "ports": [asdict(port) for port in ports],
        "dns": list(spec.dns),
        "extra_hosts": [list(pair) for pair in spec.extra_hosts],
    }


def mode_of(spec: Spec, kind: Kind) -> Mode:
    """The network that a spec means: what it says, else a bridge."""
    if kind is Kind.HOST:
        return Mode.HOST
    if spec.network_mode is not None:
        return Mode(spec.network_mode)
    return Mode.BRIDGE


def ports_of(plan: Mapping[str, Any]) -> list[Port]:
    return [
        Port(**{**each, "published": tuple(each["published"]) if each["published"] else None}) for each in plan["ports"]
    ]


def _named(name: str) -> str:
    return DEFAULT if name == "default" else name


def _mistakes(spec: Spec, kind: Kind, mode: Mode, ports: list[Port], home: Home) -> Iterator[HybridError]:
    if mode is Mode.HOST and kind is Kind.VM:
        yield _mistake(
            spec, "network_mode", "a VM has a kernel of its own and cannot use the host's network",
            "write bridge or none, or run it with --as container",
        )  # fmt: skip
    if mode is Mode.HOST and (moved := [port for port in ports if not _stays(port)]):
        yield _mistake(
            spec, "ports", f"{moved[0].target} cannot be published as another port, on the host's own network",
            f'write "{moved[0].target}:{moved[0].target}", or run it in a container or VM on a bridge',
        )  # fmt: skip
    if mode is Mode.BRIDGE and os.geteuid() != 0:
        yield _mistake(spec, "network_mode", "a bridge needs root", "sudo hybrid …, or `network_mode: none`")
    if mode is not Mode.BRIDGE:
        return
    if not spec.networks:
        return
    from hybrid.network.definitions import Definitions

    known = Definitions(home)
    inner = []
    for name in spec.networks:
        try:
            inner.append(known.get(_named(name)).internal)
        except HybridError as error:
            yield _mistake(spec, "networks", error.what, error.mend)
    if ports and inner and all(inner):
        yield _mistake(spec, "ports", "an internal network publishes nothing", "join another network, too")


def _stays(port: Port) -> bool:
    return port.published == (port.target, port.target) and not port.host_ip


def _mistake(spec: Spec, key: str, what: str, mend: str) -> HybridError:
    return HybridError(f"{key}: {what}", where=spec.where(key), mend=mend)
