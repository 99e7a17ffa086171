"""A disk that boots by itself on any hypervisor with UEFI firmware, made of an image without mounting anything.

    1 MiB   partition table (GPT)
    ESP     FAT, with one file: EFI/BOOT/BOOTX64.EFI, a unified kernel image that holds the kernel,
            the init, the drivers of every common virtual disk, and the command to run
    root    ext4, the image's tree; the init finds it by the partition's name, on whatever bus it is

What it holds follows from the image and the spec, and so do its identifiers: the same image exported twice
gives the same bytes, but for what the formats of VirtualBox and Hyper-V draw at random.
"""

from __future__ import annotations

import gzip
import os
import re
import struct
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hybrid.errors import HostError
from hybrid.images.export import Format, epoch
from hybrid.images.tools import watch
from hybrid.process import need, run
from vm import initramfs, ova, uki
from vm.disk import write_ext4
from vm.domain import DEFAULT_MEMORY, vcpus
from vm.kernel import PORTABLE, Kernel, find_kernel

if TYPE_CHECKING:
    from hybrid.home import Home
    from hybrid.image import Image, Process
    from hybrid.images.progress import Progress
    from hybrid.spec import Spec

MIB = 1 << 20
LEAST_MEMORY = 192 * MIB
"""Bytes below which firmware, kernel and init do not fit."""
LEAST_ROOT = 16 * MIB
_LEAST_ESP = 64 * MIB
"""Bytes below which FAT32, the only form that all firmware must read, is none."""
_ESP_TYPE = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
_ROOT_TYPE = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"  # Discoverable Partitions Specification: root, x86-64

COMMAND_LINE = ("console=tty0", "console=ttyS0,115200", "quiet", "panic=10", "random.trust_cpu=on")
_CONVERSIONS: dict[Format, tuple[str, ...]] = {
    Format.QCOW2: ("qcow2", "-c"),
    Format.VMDK: ("vmdk", "-o", "subformat=monolithicSparse,adapter_type=lsilogic"),
    Format.VDI: ("vdi",),
    Format.VHDX: ("vhdx", "-o", "subformat=dynamic"),
    Format.OVA: ("vmdk", "-o", "subformat=streamOptimized,adapter_type=lsilogic,compat6=on"),
}


@dataclass(frozen=True, slots=True)
class Appliance:
    """What is to boot, and on which machine."""

    home: Home
    name: str
    spec: Spec
    image: Image
    process: Process
    size: int
    """Bytes of the disk."""

    @property
    def memory(self) -> int:
        return self.spec.mem_limit or DEFAULT_MEMORY

    @property
    def root_name(self) -> str:
        """Of the root's partition. No other export has it, unless it is the same."""
        return f"hybrid-{self.identity('root').hex[:24]}"

    def identity(self, part: str) -> uuid.UUID:
        """The name of a part of this disk: another for each image, command and size."""
        what = initramfs.config(self.process).decode(errors="surrogateescape").encode(errors="replace")
        return uuid.uuid5(uuid.NAMESPACE_OID, f"hybrid {self.image.digest} {self.size} {what!r} {part}")


def export(appliance: Appliance, form: Format, target: Path, scratch: Path, progress: Progress) -> None:
    """Write the disk to `target`. What is needed on the way is put in the directory `scratch`."""
    check(appliance)
    progress.step("finding a kernel")
    kernel = find_kernel(appliance.home, appliance.spec.vm.kernel, PORTABLE)
    progress.step("writing the boot partition")
    boot = scratch / "BOOTX64.EFI"
    uki.make(_boot_parts(appliance, kernel), scratch, boot, epoch())
    raw = scratch / "disk.raw"
    write_disk(appliance, boot, raw, progress)
    if form is Format.RAW:
        raw.rename(target)
        return
    progress.step(f"converting to {form}")
    if form is Format.OVA:
        _pack_ova(appliance, raw, target)
    else:
        _convert(appliance, form, raw, target)


def check(appliance: Appliance) -> None:
    """HostError when no machine could run it."""
    if appliance.memory < LEAST_MEMORY:
        raise HostError(
            f"an exported disk cannot boot in {appliance.memory // MIB} MiB",
            where="mem_limit",
            mend=f"give mem_limit at least {LEAST_MEMORY // MIB}m",
        )


def _boot_parts(appliance: Appliance, kernel: Kernel) -> dict[str, bytes]:
    """The sections of the unified kernel image."""
    linux = kernel.image.read_bytes()
    if linux[0x202:0x206] != b"HdrS":
        raise HostError(f"{kernel.image} cannot be started by firmware", mend="name the vmlinuz, not the vmlinux")
    initrd = initramfs.base(
        initramfs.init_binary(appliance.home),
        [path.read_bytes() for path in kernel.modules],
        [path.read_bytes() for path in kernel.drivers],
    ) + initramfs.instance(appliance.process, partition=appliance.root_name)
    return {
        ".osrel": f'ID=hybrid\nNAME="{appliance.name}"\nPRETTY_NAME="{appliance.name}"\n'.encode(),
        ".uname": kernel.release.encode(),
        ".cmdline": " ".join(COMMAND_LINE).encode(),
        ".initrd": gzip.compress(initrd, 6, mtime=0),
        ".linux": linux,
    }


# The disk


def write_disk(appliance: Appliance, boot: Path, raw: Path, progress: Progress) -> None:
    """The partitions and what is in them. The file is sparse."""
    esp = max(_LEAST_ESP, (boot.stat().st_size // MIB + 16) * MIB)
    start = MIB + esp
    root = appliance.size // MIB * MIB - start - MIB  # the last one is the partition table's copy
    if root < max(LEAST_ROOT, appliance.image.tree_bytes):
        needed = (start + MIB + max(LEAST_ROOT, appliance.image.tree_bytes * 5 // 4)) // MIB + 1
        raise HostError(f"the image does not fit on {appliance.size // MIB} MiB", mend=f"give --size {needed}m or more")
    with raw.open("wb") as file:
        file.truncate(appliance.size // MIB * MIB)
    table = partition_table(appliance, esp, root)
    run([need("sfdisk", "fdisk"), "--quiet", "--no-reread", "--no-tell-kernel", raw], input=table.encode())
    _write_esp(appliance, boot, raw, esp)
    progress.step("writing the root file system")
    identity = str(appliance.identity("ext4"))
    write_ext4(appliance.image.tree, raw, offset=start, size=root, identity=identity, epoch=epoch())


def partition_table(appliance: Appliance, esp: int, root: int) -> str:
    """What sfdisk makes the table of. Sizes in bytes, whole MiB."""
    sectors = MIB // 512
    return f"""label: gpt
label-id: {appliance.identity("disk")}
unit: sectors
start={sectors}, size={esp // 512}, type={_ESP_TYPE}, uuid={appliance.identity("esp")}, name="EFI"
start={sectors + esp // 512}, size={root // 512}, type={_ROOT_TYPE}, uuid={appliance.identity("root")}, \
name="{appliance.root_name}"
"""


def _write_esp(appliance: Appliance, boot: Path, raw: Path, size: int) -> None:
    volume = appliance.identity("volume").hex[:8]
    form = ["-F", "32", "-s", "1", "-i", volume, "-n", "HYBRID", "--invariant", "--offset", str(MIB // 512)]
    watch([need("mkfs.fat", "dosfstools"), *form, raw, str(size // 1024)], lambda line: None)
    environment = {"SOURCE_DATE_EPOCH": str(epoch()), "MTOOLSRC": os.devnull, "MTOOLS_SKIP_CHECK": "1"}
    place = f"{raw.name}@@{MIB}"

    def mtool(*words: str) -> None:
        watch([need(words[0], "mtools"), "-i", place, *words[1:]], lambda line: None, env=environment, cwd=raw.parent)

    mtool("mmd", "::/EFI", "::/EFI/BOOT")
    mtool("mcopy", boot.name, "::/EFI/BOOT/BOOTX64.EFI")


# Other forms of the same disk


def _convert(appliance: Appliance, form: Format, raw: Path, target: Path) -> None:
    tool = need("qemu-img", "qemu-utils")
    watch([tool, "convert", "-f", "raw", "-O", *_CONVERSIONS[form], raw, target], lambda line: None)
    if form in (Format.VMDK, Format.OVA):
        _fix_content_id(target, appliance.identity("vmdk").hex[:8])


def _pack_ova(appliance: Appliance, raw: Path, target: Path) -> None:
    disk = raw.with_name(f"{appliance.name}-disk1.vmdk")
    _convert(appliance, Format.OVA, raw, disk)
    system = ova.System(
        name=appliance.name,
        identity=str(appliance.identity("ova")),
        vcpus=vcpus(appliance.spec.cpus),
        memory=appliance.memory,
        capacity=raw.stat().st_size,
        file=disk.name,
        file_size=disk.stat().st_size,
    )
    raw.unlink()
    ova.pack(system, disk, target, epoch())


def _fix_content_id(vmdk: Path, value: str) -> None:
    """Put `value` in the place of the random number by which a VMDK's children know it. It has no children yet.

    Format: VMware's "Virtual Disk Format 5.0", sparse extent header.
    """
    with vmdk.open("r+b") as file:
        offset, size = struct.unpack("<28xQQ", file.read(44))
        file.seek(offset * 512)
        text = file.read(size * 512).rstrip(b"\0")
        file.seek(offset * 512)
        file.write(re.sub(rb"\nCID=[0-9a-f]+", f"\nCID={value}".encode(), text).ljust(size * 512, b"\0"))
