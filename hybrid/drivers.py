"""The composition root: the only module that knows which drivers there are. Each is imported when it is needed."""

from __future__ import annotations

from hybrid.driver import Driver, Instance, Kind
from hybrid.home import Home
from hybrid.store import Record


def driver(kind: Kind, home: Home) -> Driver:
    """The driver of a kind. Making one costs its import and touches nothing."""
    match kind:
        case Kind.VM:
            from vm.driver import VmDriver

            return VmDriver(home)
        case Kind.CONTAINER:
            from container.driver import ContainerDriver

            return ContainerDriver(home)
        case Kind.HOST:
            from container.host import HostDriver

            return HostDriver(home)


def all_drivers(home: Home) -> dict[Kind, Driver]:
    """Every driver by its kind, the least isolated first."""
    return {kind: driver(kind, home) for kind in Kind}


def open_instance(record: Record, home: Home) -> Instance:
    """The instance that a record describes, made by whichever process."""
    return driver(record.kind, home).open(record)
