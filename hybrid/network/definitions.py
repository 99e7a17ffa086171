"""Networks that users have made: one file each in the home. The default network needs none."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from ipaddress import IPv4Network
from pathlib import Path

from hybrid.errors import HybridError
from hybrid.home import Home
from hybrid.network.model import Network
from hybrid.network.state import Place
from hybrid.network.words import DEFAULT, NETWORK_NAME
from hybrid.store import InstanceStore, locked, new_id, now, write_atomically

RESERVED = (DEFAULT, "default", "bridge", "host", "none")
"""Names that mean something already."""


class Definitions:
    """The networks of one home."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._directory = home.root / "networks"

    def create(
        self, name: str, *, subnet: str = "", gateway: str = "", internal: bool = False, labels: Mapping[str, str]
    ) -> Network:
        """Make a network; its subnet is one that nothing on this host uses if none is given."""
        if name in RESERVED:
            raise HybridError(f"{name!r} means a network that is always there", mend="take another name")
        if not NETWORK_NAME.fullmatch(name):
            raise HybridError(f"{name!r} cannot be a network's name", mend="use letters, digits, '_', '.' and '-'")
        if gateway and not subnet:
            raise HybridError("a gateway needs the subnet that it is in", mend="give --subnet, too")
        with self._changing():
            if self._path(name).exists():
                raise HybridError(f"a network named {name!r} exists", mend=f"hybrid network rm {name}")
            network, address = self._subnet(subnet, gateway)
            made = Network(name, new_id(), str(network), str(address), internal, dict(labels), now())
            write_atomically(self._path(name), json.dumps(asdict(made), indent=1).encode())
        return made

    def _subnet(self, subnet: str, gateway: str) -> tuple[IPv4Network, object]:
        from hybrid.network import ipam

        taken = self.taken()
        if not subnet:
            network = ipam.free_subnet(taken)
            return network, ipam.first_address(network)
        network, address = ipam.check(subnet, gateway)
        if (other := ipam.overlapping(network, taken)) is not None:
            raise HybridError(f"{network} overlaps {other}, which this host uses", mend="give another --subnet")
        return network, address

    def taken(self) -> set[IPv4Network]:
        """Subnets that a new network must keep away from."""
        from hybrid.network.netlink import netlink

        with netlink() as handle:
            routes = set(handle.destinations())
        up = Place(self._home.run).read().networks.values()
        return routes | {IPv4Network(each.subnet) for each in (*up, *self) if each.subnet}

    def get(self, name: str) -> Network:
        """The network of that name, or of the only one whose id starts so."""
        if name in (DEFAULT, "default"):
            return default()
        with suppress(FileNotFoundError, NotADirectoryError):
            if NETWORK_NAME.fullmatch(name):
                return _load(self._path(name))
        by_id = [each for each in self if each.id.startswith(name)] if len(name) >= 4 else []
        if len(by_id) == 1:
            return by_id[0]
        raise HybridError(
            f"no network is named {name!r}", mend=f"hybrid network create {name}, or see hybrid network ls"
        )

    def __iter__(self) -> Iterator[Network]:
        """Those that users have made, by name."""
        for path in sorted(self._directory.glob("*.json")):
            with suppress(FileNotFoundError, HybridError):
                yield _load(path)

    def remove(self, name: str, *, force: bool = False) -> None:
        """Remove a network that no instance names: else HybridError. With `force` it need not be there."""
        try:
            network = self.get(name)
        except HybridError:
            if force:
                return
            raise
        if network.name == DEFAULT:
            raise HybridError(f"the network {DEFAULT} is always there")
        with self._changing():
            if users := self.users(network):
                shown = ", ".join(users)
                raise HybridError(
                    f"the network {network.name} is used by {shown}", mend=f"hybrid rm --force {' '.join(users)}"
                )
            self._path(network.name).unlink(missing_ok=True)

    def prune(self) -> Iterator[str]:
        """Remove networks that no instance names, yielding each name as it is gone."""
        for network in self:
            with self._changing():
                if self.users(network):
                    continue
                self._path(network.name).unlink(missing_ok=True)
            yield network.name

    def users(self, network: Network) -> list[str]:
        """The instances that name a network, whether they run or not."""
        found = []
        for record in InstanceStore(self._home):
            plan = record.engine.get("network") or {}
            if any(each["name"] == network.name for each in plan.get("networks", ())):
                found.append(record.name)
        return found

    @contextmanager
    def _changing(self) -> Iterator[None]:
        self._directory.mkdir(parents=True, exist_ok=True)
        with locked(self._directory / ".lock"):
            yield

    def _path(self, name: str) -> Path:
        return self._directory / f"{name}.json"


def default() -> Network:
    """The network of those that name none. Its subnet is chosen whenever it comes up."""
    return Network(DEFAULT, "0", "", "")


def _load(path: Path) -> Network:
    try:
        return Network(**json.loads(path.read_bytes()))
    except (ValueError, TypeError):
        raise HybridError(
            f"the network {path.stem} cannot be read", where=str(path), mend="remove that file, and make it again"
        ) from None
