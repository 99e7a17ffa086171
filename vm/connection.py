"""Which libvirt runs a VM: the one inside this process, or another that a URI names.

The instance's record says which (`uri`, and `root` for the one inside), so that any later process
finds its way back. What a VM needs of its libvirt is little; `Connection` says it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hybrid.errors import HostError
from hybrid.home import Home

if TYPE_CHECKING:
    import libvirt

    from vm.domain import Machine


class Connection(Protocol):
    """An open connection to a libvirt whose QEMU runs on this host. Safe from one thread at a time."""

    @property
    def uri(self) -> str | None:
        """As it was asked for; None for the libvirt inside this process."""

    @property
    def root(self) -> Path | None:
        """Where the libvirt inside this process has its files."""

    @property
    def libvirt(self) -> libvirt.virConnect:
        """The connection itself."""

    def alive(self) -> bool:
        """Whether it can still be used; the other side may have ended."""

    def collecting(self) -> AbstractContextManager[None]:
        """To be held while libvirt may start a QEMU as a child of this process."""

    def qemu_uid(self) -> int:
        """Whom QEMU runs as."""

    def adapt(self, machine: Machine) -> Machine:
        """The machine as this libvirt can run it, its files made ready for that. HostError says what is in the way."""

    def start(self, name: str, xml: str) -> int:
        """Start the transient domain `name`, after what is left of its last run has gone; QEMU's pid."""

    def forget(self, name: str, timeout: float = 5) -> None:
        """Return once libvirt has cleaned up after a domain whose QEMU has ended, at the latest after `timeout`."""


_connections: dict[str | None, Connection] = {}


def connect(home: Home, uri: str | None = None) -> Connection:
    """This process's connection to a libvirt, opened at the first call, and again when it was lost."""
    found = _connections.get(uri)
    if found is None or not found.alive():
        found = _connections[uri] = _open(home, uri)
    return found


def _open(home: Home, uri: str | None) -> Connection:
    if uri is None:
        from vm.embedded import Embedded

        return Embedded(home)
    from vm.elsewhere import Elsewhere

    return Elsewhere(home, uri)


def forget(home: Home, engine: Mapping[str, Any], domain: str) -> None:
    """See to it that the libvirt of an instance's record has nothing left of its domain, whose QEMU has ended.

    A libvirt that cannot be reached forgets by itself when it comes back and finds no QEMU.
    """
    uri, root = engine.get("uri"), engine.get("root")
    if isinstance(uri, str):
        with contextlib.suppress(HostError):
            connect(home, uri).forget(domain)
    elif isinstance(root, str) and Path(root).parent == home.run:
        from vm.embedded import forget_root

        own = _connections.get(None)
        if own is not None and own.root == Path(root):
            own.forget(domain)
        else:
            forget_root(Path(root), domain)
