"""What of this host's network is in use by us: networks that are up, and what each instance holds.

One file in the place that a reboot empties, shared by all homes that use that place, changed under a
lock. It is written before anything is made in the kernel and after everything is removed from it: what
is there is always a part of what is written here.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from hybrid.network.model import Attachment, Interface, Lease, Published, Up
from hybrid.network.words import Mode
from hybrid.store import locked, write_atomically


@dataclass(frozen=True, slots=True)
class State:
    """Networks by their bridge's name, leases by their instance's id."""

    networks: Mapping[str, Up] = field(default_factory=dict)
    leases: Mapping[str, Lease] = field(default_factory=dict)

    def with_lease(self, lease: Lease) -> State:
        return replace(self, leases={**self.leases, lease.id: lease})

    def without_lease(self, identifier: str) -> State:
        return replace(self, leases={id: each for id, each in self.leases.items() if id != identifier})

    def with_network(self, network: Up) -> State:
        return replace(self, networks={**self.networks, network.bridge: network})

    def without_network(self, bridge: str) -> State:
        return replace(self, networks={name: each for name, each in self.networks.items() if name != bridge})

    def members(self, bridge: str) -> Iterator[tuple[Lease, Interface]]:
        """Who is on a network, in the order of joining."""
        for lease in self.leases.values():
            for interface in lease.interfaces:
                if interface.bridge == bridge:
                    yield lease, interface


class Place:
    """Where the state is kept, and what kernel objects of its networks are called."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.directory = run / "network"
        self.file = self.directory / "state.json"
        usual = run == Path("/run/hybrid")
        self.tag = "" if usual else f"{zlib.crc32(str(run).encode()):08x}"[:4]
        """Tells kernel objects of one such place from those of another."""

    @property
    def table(self) -> str:
        """The nftables table."""
        return f"hybrid_{self.tag}" if self.tag else "hybrid"

    def bridge(self, identifier: str) -> str:
        """The name of a network's bridge: at most 15 characters."""
        return f"hyb{self.tag}-{identifier[:6]}"

    @property
    def mark(self) -> str:
        """What the kernel's alias of each link of ours says: whose it is."""
        return f"hybrid {self.run}"

    def read(self) -> State:
        """What is in use now; empty when it was written before the last reboot."""
        try:
            values = json.loads(self.file.read_bytes())
            return _state(values) if values["boot"] == boot_id() else State()
        except (FileNotFoundError, NotADirectoryError):
            return State()
        except (ValueError, KeyError, TypeError):
            return State()  # damaged from outside: `sweep` knows our links by their alias

    def write(self, state: State) -> None:
        """Save the state in one atomic step; an empty one is no file."""
        if not state.networks and not state.leases:
            self.file.unlink(missing_ok=True)
            return
        values = {"boot": boot_id(), **_plain(state)}
        write_atomically(self.file, json.dumps(values).encode(), 0o644)

    @contextmanager
    def held(self) -> Iterator[None]:
        """The lock on it all. Who holds it may change the state and the kernel's objects."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o755)
        with locked(self.directory / "lock"):
            yield


def attachment(plan: Mapping[str, Any], identifier: str) -> Attachment:
    """How the instance with that id is joined now."""
    lease = Place(Path(plan["run"])).read().leases.get(identifier)
    if lease is None:
        return Attachment(Mode.BRIDGE)
    return Attachment(Mode.BRIDGE, lease.interfaces, lease.ports)


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _plain(value: Any) -> Any:
    """A tree of our dataclasses as JSON values."""
    if is_dataclass(value):
        return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, tuple) else value


def _state(values: Mapping[str, Any]) -> State:
    return State(
        {bridge: Up(**each) for bridge, each in values["networks"].items()},
        {id: _lease(each) for id, each in values["leases"].items()},
    )


def _lease(values: dict[str, Any]) -> Lease:
    return Lease(
        **{
            **values,
            "starter": tuple(values["starter"]),
            "interfaces": tuple(Interface(**{**each, "names": tuple(each["names"])}) for each in values["interfaces"]),
            "ports": tuple(Published(**each) for each in values["ports"]),
            "extra_hosts": tuple((name, address) for name, address in values["extra_hosts"]),
        }
    )
