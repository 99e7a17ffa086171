"""What instances hold of networks. Everything here is frozen, and plain JSON when saved."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from hybrid.network.words import Mode


@dataclass(frozen=True, slots=True)
class Published:
    """A port of the host that leads to one of an instance."""

    port: int
    target: int
    host_ip: str = ""
    protocol: str = "tcp"

    def __str__(self) -> str:
        """As Docker shows it: `0.0.0.0:8080->80/tcp`."""
        return f"{self.host_ip or '0.0.0.0'}:{self.port}->{self.target}/{self.protocol}"


@dataclass(frozen=True, slots=True)
class Interface:
    """An instance's interface on one network."""

    network: str
    """The network's name."""
    address: str
    """IPv4, without the prefix."""
    prefix: int
    gateway: str
    """Empty on an internal network."""
    mac: str
    link: str
    """The host's end: a veth or a tap."""
    bridge: str
    names: tuple[str, ...] = ()
    """Under which the others on that network know it."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """How an instance is joined to networks."""

    mode: Mode
    interfaces: tuple[Interface, ...] = ()
    ports: tuple[Published, ...] = ()
    hosts: str = ""
    """What its /etc/hosts is to hold; told by `attach` only."""
    resolv_conf: str = ""
    """Likewise /etc/resolv.conf."""


@dataclass(frozen=True, slots=True)
class Network:
    """A network that instances can join."""

    name: str
    id: str
    """Sixteen hex digits; names its bridge."""
    subnet: str
    """In CIDR notation; empty: chosen when the first instance joins."""
    gateway: str
    """The bridge's own address."""
    internal: bool = False
    """Nothing leads out of it."""
    labels: dict[str, str] = field(default_factory=dict)
    created: float = 0.0
    """Seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Up:
    """A network that is up on this host."""

    network: str
    bridge: str
    subnet: str
    gateway: str
    internal: bool = False
    last: str = ""
    """The address given last: the next one is looked for from there."""


@dataclass(frozen=True, slots=True)
class Lease:
    """What one instance holds of the host's networks."""

    id: str
    name: str
    directory: str
    starter: tuple[int, int]
    """Pid and start time of the process that started it."""
    interfaces: tuple[Interface, ...] = ()
    ports: tuple[Published, ...] = ()
    hostname: str = ""
    extra_hosts: tuple[tuple[str, str], ...] = ()
    """Names and addresses that only its own hosts file has."""
    owner: int = 0
    """Of its hosts file."""
    control: str = ""
    """The socket by which its guest's init is told; empty for a container."""
    listens: bool = False
    """The guest's init is known to be up."""
    deaf: float = 0.0
    """When it last took no note in time, in seconds since the host's boot; 0 when it did."""
    behind: bool = False
    """Its ports come in through an ordinary user's own network, in which there is one address for all."""


@dataclass(frozen=True, slots=True)
class Namespace:
    """A container's end: its network namespace, empty so far, and the owner of its files."""

    descriptor: int
    owner: int


@dataclass(frozen=True, slots=True)
class Guest:
    """A VM's end: the user that QEMU runs as, and the socket by which the guest's init is told."""

    user: int
    control: Path
