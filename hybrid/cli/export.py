"""`hybrid image export`: an image in one file, for other tools and other machines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hybrid.images.export import Format

if TYPE_CHECKING:
    from hybrid.images.progress import Progress

DEFAULT_SIZE = 10 << 30
"""Bytes of a disk, as for a VM that runs here."""


def export(
    target: Annotated[str, typer.Argument(metavar="SPEC|IMAGE", help="A spec's file, or an image's name.")],
    form: Annotated[Format, typer.Option("--format", help="What to make.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Where to put it.")],
    size: Annotated[
        str | None, typer.Option("--size", help="Of a bootable disk: 10g unless given, as for hybrid run.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
) -> None:
    """Write an image to FILE, and its SHA-256 to FILE.sha256, which `sha256sum -c` reads.

    oci-archive and docker-archive hold the image with its name and its config, rootfs-tar the bare tree.
    What a spec says of command, environment, user, healthcheck and labels goes into the config.

    qcow2, raw, vmdk, vdi, vhdx and ova are disks that boot by themselves on a hypervisor with UEFI
    firmware and Secure Boot off (on Hyper-V: generation 2), from virtio, SATA, NVMe or SCSI. They hold a
    kernel and run the spec's command. Its output and the lines `hybrid: ready` and `hybrid: exit N`
    appear on the screen and on the first serial port; then the machine powers off. Its power button is
    the spec's stop signal. It has the loopback network only. An ova also says how many CPUs and how much
    memory the spec wants; for the other forms that is yours to set.

    Examples:

      hybrid image export web.yaml --format ova -o web.ova

      hybrid image export nginx:1 --format docker-archive -o nginx.tar
    """
    from hybrid.cli.progress import progress
    from hybrid.images.export import check, checksum_file, exported

    capacity = _capacity(size, form)
    output = output.absolute()
    check(output, force=force)
    with progress() as told, exported(output, force=force) as (made, scratch):
        _write(target, form, capacity, made, scratch, told)
        told.step("computing the checksum")
    print(checksum_file(output).read_text(errors="surrogateescape"), end="")


def _write(target: str, form: Format, capacity: int, made: Path, scratch: Path, told: Progress) -> None:
    """Get the image and write it to `made`."""
    from hybrid import drivers, launch
    from hybrid.home import default_home
    from hybrid.image import merge
    from hybrid.images import ImageStore
    from hybrid.images.export import archive, archive_name

    home = default_home()
    spec = launch.load(target)
    store = ImageStore(home)
    image = store.ensure(spec, told)
    if not form.bootable:
        archive(spec, image, store.blobs, form, archive_name(spec, image, target), made, scratch, told)
        return
    name = launch.stem(spec, image)
    export_disk = drivers.disk_exporter(home, spec, image, merge(spec, image, (), name), name, capacity)
    export_disk(form, made, scratch, told)


def _capacity(size: str | None, form: Format) -> int:
    from hybrid.units import parse_bytes

    if size is None:
        return DEFAULT_SIZE
    if not form.bootable:
        raise typer.BadParameter("only a bootable disk has one", param_hint="--size")
    try:
        return parse_bytes(size)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--size") from None
