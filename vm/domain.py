"""The libvirt domain of a VM: a pure function from what it needs to libvirt's XML.

The XML is built as a tree and serialised by the library, so no value can break out of its place.
Format: libvirt's "Domain XML format".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

DEFAULT_MEMORY = 512 << 20
LEAST_MEMORY = 96 << 20
"""Bytes below which the distribution's kernel does not reach our init."""

COMMAND_LINE = (
    "console=ttyS0",
    "quiet",
    "panic=-1",  # a panic restarts at once, and a restart destroys the domain
    "8250.nr_uarts=2",  # the console and the events; probing for more costs boot time
    "cryptomgr.notests",
    "random.trust_cpu=on",
)
FILE_PORTS = ("stdout", "stderr")
SOCKET_PORTS = ("control", "stdin")


@dataclass(frozen=True, slots=True)
class Machine:
    """All that the XML says. Paths are on the host."""

    name: str
    domain_type: str
    """`kvm`, or `qemu` for TCG."""
    emulator: str
    memory: int
    """Bytes."""
    vcpus: int
    kernel: Path
    initrd: Path
    disk: Path
    console: Path
    events: Path
    ports: dict[str, Path]
    """Where each virtio port ends: files for FILE_PORTS, sockets for SOCKET_PORTS."""


def vcpus(cpus: float | None) -> int:
    """How many virtual CPUs a share of `cpus` needs; the fraction is enforced by a cgroup."""
    return max(1, math.ceil(cpus or 1))


def xml(machine: Machine) -> str:
    """The domain's XML."""
    domain = ET.Element("domain", type=machine.domain_type)
    _text(domain, "name", machine.name)
    _text(domain, "memory", str(machine.memory), unit="b")
    _text(domain, "vcpu", str(machine.vcpus))
    ET.SubElement(domain, "cpu", mode="host-passthrough" if machine.domain_type == "kvm" else "maximum")
    system = ET.SubElement(domain, "os")
    _text(system, "type", "hvm", arch="x86_64", machine="q35")
    _text(system, "kernel", str(machine.kernel))
    _text(system, "initrd", str(machine.initrd))
    _text(system, "cmdline", " ".join(COMMAND_LINE))
    ET.SubElement(ET.SubElement(domain, "features"), "acpi")
    for event in ("on_poweroff", "on_reboot", "on_crash"):
        _text(domain, event, "destroy")
    _devices(ET.SubElement(domain, "devices"), machine)
    return ET.tostring(domain, encoding="unicode")


def _devices(devices: ET.Element, machine: Machine) -> None:
    _text(devices, "emulator", machine.emulator)
    disk = ET.SubElement(devices, "disk", type="file", device="disk")
    ET.SubElement(disk, "driver", name="qemu", type="qcow2", discard="unmap")
    ET.SubElement(disk, "source", file=str(machine.disk))
    ET.SubElement(disk, "target", dev="vda", bus="virtio")
    for number, path in enumerate((machine.console, machine.events)):
        serial = ET.SubElement(devices, "serial", type="file")
        ET.SubElement(serial, "source", path=str(path), append="on")
        ET.SubElement(serial, "target", port=str(number))
    for name in FILE_PORTS:
        _port(devices, name, "file", path=str(machine.ports[name]), append="on")
    for name in SOCKET_PORTS:
        _port(devices, name, "unix", mode="bind", path=str(machine.ports[name]))
    ET.SubElement(devices, "controller", type="usb", model="none")
    ET.SubElement(devices, "memballoon", model="none")


def _port(devices: ET.Element, name: str, backend: str, **source: str) -> None:
    channel = ET.SubElement(devices, "channel", type=backend)
    ET.SubElement(channel, "source", source)
    ET.SubElement(channel, "target", type="virtio", name=f"hybrid.{name}")


def _text(parent: ET.Element, tag: str, text: str, **attributes: str) -> None:
    ET.SubElement(parent, tag, attributes).text = text
