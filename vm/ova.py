"""An OVA: an OVF descriptor, its manifest and a streamOptimized VMDK in one tar, for VMware and VirtualBox.

The descriptor says UEFI in both of their dialects; each leaves the other's out. Format: DMTF DSP0243.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

_CIM = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2"
_NAMESPACES = {
    "xmlns": "http://schemas.dmtf.org/ovf/envelope/1",
    "xmlns:ovf": "http://schemas.dmtf.org/ovf/envelope/1",
    "xmlns:rasd": f"{_CIM}/CIM_ResourceAllocationSettingData",
    "xmlns:vssd": f"{_CIM}/CIM_VirtualSystemSettingData",
    "xmlns:vmw": "http://www.vmware.com/schema/ovf",
    "xmlns:vbox": "http://www.virtualbox.org/ovf/machine",
}
_VMDK = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"
_OTHER_LINUX_64 = "101"
_USTAR_LIMIT = 8 << 30


@dataclass(frozen=True, slots=True)
class System:
    """The virtual machine that an OVA describes. Sizes in bytes."""

    name: str
    identity: str
    """A UUID."""
    vcpus: int
    memory: int
    capacity: int
    """What the disk shows."""
    file: str
    """The disk's name in the tar."""
    file_size: int

    @property
    def mebibytes(self) -> str:
        return str(-(-self.memory >> 20))


def pack(system: System, disk: Path, target: Path, epoch: int) -> None:
    """Write the OVA to `target`: descriptor, manifest, disk, in the order that the standard wants."""
    ovf = descriptor(system)
    with disk.open("rb") as file:
        manifest = "".join(
            f"SHA256({name})= {digest}\n"
            for name, digest in (
                (f"{system.name}.ovf", hashlib.sha256(ovf).hexdigest()),
                (system.file, hashlib.file_digest(file, "sha256").hexdigest()),
            )
        )
        file.seek(0)
        form = tarfile.USTAR_FORMAT if system.file_size < _USTAR_LIMIT else tarfile.GNU_FORMAT
        with tarfile.open(target, "w", format=form) as tar:
            for name, data in ((f"{system.name}.ovf", ovf), (f"{system.name}.mf", manifest.encode())):
                tar.addfile(_member(name, len(data), epoch), io.BytesIO(data))
            tar.addfile(_member(system.file, system.file_size, epoch), file)


def _member(name: str, size: int, epoch: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mtime = size, epoch
    return member


def descriptor(system: System) -> bytes:
    """The OVF document."""
    envelope = ET.Element("Envelope", {**_NAMESPACES, "ovf:version": "1.0", "xml:lang": "en-US"})
    file = {"ovf:id": "file1", "ovf:href": system.file, "ovf:size": str(system.file_size)}
    ET.SubElement(ET.SubElement(envelope, "References"), "File", file)
    disks = _section(envelope, "DiskSection", "The virtual disk")
    disk = {
        "ovf:diskId": "vmdisk1",
        "ovf:fileRef": "file1",
        "ovf:capacity": str(system.capacity),
        "ovf:capacityAllocationUnits": "byte",
        "ovf:format": _VMDK,
        "vbox:uuid": system.identity,
    }
    ET.SubElement(disks, "Disk", disk)
    machine = _section(envelope, "VirtualSystem", "A virtual machine", {"ovf:id": system.name})
    _text(machine, "Name", system.name)
    kind = {"ovf:id": _OTHER_LINUX_64, "vmw:osType": "otherLinux64Guest"}
    guest = _section(machine, "OperatingSystemSection", "The guest operating system", kind)
    ET.SubElement(guest, "vbox:OSType", {"ovf:required": "false"}).text = "Linux26_64"
    _hardware(_section(machine, "VirtualHardwareSection", "Virtual hardware"), system)
    _virtualbox(machine, system)
    ET.indent(envelope)
    return b'<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(envelope, encoding="unicode").encode() + b"\n"


def _hardware(section: ET.Element, system: System) -> None:
    """What the standard has words for, and VMware's one for the firmware."""
    family = ET.SubElement(section, "System")
    _text(family, "vssd:ElementName", "Virtual Hardware Family")
    _text(family, "vssd:InstanceID", "0")
    _text(family, "vssd:VirtualSystemIdentifier", system.name)
    _text(family, "vssd:VirtualSystemType", "vmx-13")
    _item(
        section,
        AllocationUnits="hertz * 10^6",
        ElementName=f"{system.vcpus} virtual CPU(s)",
        InstanceID="1",
        ResourceType="3",
        VirtualQuantity=str(system.vcpus),
    )
    _item(
        section,
        AllocationUnits="byte * 2^20",
        ElementName=f"{system.mebibytes} MB of memory",
        InstanceID="2",
        ResourceType="4",
        VirtualQuantity=system.mebibytes,
    )
    _item(
        section,
        Address="0",
        ElementName="SCSI controller 0",
        InstanceID="3",
        ResourceSubType="lsilogic",  # the one storage controller that both know by the same word
        ResourceType="6",
    )
    _item(
        section,
        AddressOnParent="0",
        ElementName="Hard disk 1",
        HostResource="ovf:/disk/vmdisk1",
        InstanceID="4",
        Parent="3",
        ResourceType="17",
    )
    ET.SubElement(section, "vmw:Config", {"ovf:required": "false", "vmw:key": "firmware", "vmw:value": "efi"})


def _virtualbox(machine: ET.Element, system: System) -> None:
    """The same machine in VirtualBox's words: it knows of UEFI by no other, and boots best from AHCI."""
    own = {
        "ovf:required": "false",
        "version": "1.16-linux",
        "uuid": f"{{{system.identity}}}",
        "name": system.name,
        "OSType": "Linux26_64",
    }
    box = ET.SubElement(machine, "vbox:Machine", own)
    _text(box, "ovf:Info", "The machine in VirtualBox format")
    hardware = ET.SubElement(box, "Hardware")
    cpu = ET.SubElement(hardware, "CPU", count=str(system.vcpus))
    for feature in ("PAE", "LongMode", "X2APIC"):
        ET.SubElement(cpu, feature, enabled="true")
    ET.SubElement(hardware, "Memory", RAMSize=system.mebibytes)
    ET.SubElement(hardware, "Firmware", type="EFI")
    ET.SubElement(hardware, "Display", controller="VMSVGA", VRAMSize="16")
    ET.SubElement(ET.SubElement(hardware, "BIOS"), "IOAPIC", enabled="true")
    ahci = ET.SubElement(
        ET.SubElement(box, "StorageControllers"),
        "StorageController",
        {"name": "AHCI", "type": "AHCI", "PortCount": "1", "useHostIOCache": "false", "Bootable": "true"},
    )
    disk = ET.SubElement(ahci, "AttachedDevice", type="HardDisk", hotpluggable="false", port="0", device="0")
    ET.SubElement(disk, "Image", uuid=f"{{{system.identity}}}")


def _section(parent: ET.Element, tag: str, info: str, attributes: dict[str, str] | None = None) -> ET.Element:
    section = ET.SubElement(parent, tag, attributes or {})
    _text(section, "Info", info)
    return section


def _item(section: ET.Element, **fields: str) -> None:
    """One device; the standard wants its fields in alphabetical order."""
    item = ET.SubElement(section, "Item")
    for name, value in sorted(fields.items()):
        _text(item, f"rasd:{name}", value)


def _text(parent: ET.Element, tag: str, text: str) -> None:
    ET.SubElement(parent, tag).text = text
