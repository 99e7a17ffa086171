"""A unified kernel image: kernel, initramfs and command line in one program that UEFI firmware starts.

It is systemd's stub with one section more for each of them (UAPI specification "Unified Kernel Image").
objcopy writes it; here is where the sections go.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

from hybrid.errors import HostError
from hybrid.images.tools import watch
from hybrid.process import need

STUB = Path("/usr/lib/systemd/boot/efi/linuxx64.efi.stub")


def make(parts: Mapping[str, bytes], folder: Path, target: Path, epoch: int, stub: Path = STUB) -> None:
    """Write the image to `target`, its parts by section name (`.linux`, `.initrd`, …). Files in `folder` are left.

    `epoch` is the time that it says it was made, in seconds.
    """
    try:
        start, alignment = free_address(stub.read_bytes())
    except FileNotFoundError:
        raise HostError(f"{stub} is not there", mend="apt-get install systemd-boot-efi") from None
    options: list[str | Path] = []
    for name, data in parts.items():
        file = folder / name.removeprefix(".")
        file.write_bytes(data)
        options += ["--add-section", f"{name}={file}", "--change-section-vma", f"{name}={start:#x}"]
        start = _aligned(start + len(data), alignment)
    watch([need("objcopy", "binutils"), *options, stub, target], lambda line: None)
    _fix_time(target, epoch)


def _fix_time(program: Path, epoch: int) -> None:
    """Put `epoch` where objcopy has put the time, and 0, which means none, for the sum over it that nobody checks."""
    with program.open("r+b") as file:
        file.seek(0x3C)
        (header,) = struct.unpack("<I", file.read(4))
        file.seek(header + 8)
        file.write(struct.pack("<I", epoch & 0xFFFFFFFF))
        file.seek(header + 24 + 64)
        file.write(bytes(4))


def free_address(stub: bytes) -> tuple[int, int]:
    """The first address behind the sections of a PE program, and what addresses are multiples of.

    HostError when it is none. Format: Microsoft's "PE Format"; the offsets are those of PE32+.
    """
    try:
        (header,) = struct.unpack_from("<I", stub, 0x3C)
        signature, _, count, optional_size = struct.unpack_from("<4sHH12xH", stub, header)
        magic, base, alignment = struct.unpack_from("<H22xQI", stub, header + 24)
        sections = [
            struct.unpack_from("<II", stub, header + 24 + optional_size + 40 * number + 8) for number in range(count)
        ]
    except struct.error:
        signature = magic = None
    if signature != b"PE\0\0" or magic != 0x20B or not sections:
        raise HostError("systemd's boot stub is damaged", mend="apt-get install --reinstall systemd-boot-efi")
    alignment = max(alignment, 0x1000)
    return _aligned(base + max(address + size for size, address in sections), alignment), alignment


def _aligned(number: int, alignment: int) -> int:
    return -(-number // alignment) * alignment
