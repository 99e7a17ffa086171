"""The composition root: the only module that knows which drivers there are. Each is imported when it is needed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from hybrid.driver import Driver, Instance, Kind
from hybrid.home import Home
from hybrid.store import Record

if TYPE_CHECKING:
    from hybrid.image import Image, Process
    from hybrid.images.export import Format
    from hybrid.images.progress import Progress
    from hybrid.spec import Spec

    DiskExporter = Callable[[Format, Path, Path, Progress], None]
    """Writes a disk in a form to a file; for what is needed on the way it has a directory."""


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


def disk_exporter(home: Home, spec: Spec, image: Image, process: Process, name: str, size: int) -> DiskExporter:
    """What writes disks of `size` bytes that boot `process` by themselves."""
    from functools import partial

    from vm.appliance import Appliance, export

    return partial(export, Appliance(home, name, spec, image, process, size))


def sweep(home: Home) -> None:
    """Remove what the engines of killed processes left beside their instances."""
    from vm import sweep

    sweep.sweep(home)
