"""The composition root: the only module that knows which drivers there are. Each is imported when it is needed."""

from __future__ import annotations

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


def export_disk(
    spec: Spec,
    image: Image,
    process: Process,
    size: int,
    name: str,
    form: Format,
    target: Path,
    home: Home,
    progress: Progress,
) -> None:
    """Write a disk of `size` bytes that boots `process` by itself to `target`; scratch files stay beside it."""
    from vm.appliance import Appliance, export

    export(Appliance(name, spec, image, process, size), form, target, home, progress)
