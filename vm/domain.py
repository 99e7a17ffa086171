"""The libvirt domain of a VM: a pure function from what it needs to libvirt's XML.

The XML is built as a tree and serialised by the library, so no value can break out of its place.
Format: libvirt's "Domain XML format".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
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
FILE_PORTS = ("stdout", "stderr", "index")
SSH_PORTS = 6
"""Ways in for others, each for one connection. A port costs 6 ms of boot, emulated, and 0.6 MB of memory."""
SOCKET_PORTS = ("control", "stdin", *(f"ssh.{number}" for number in range(SSH_PORTS)))
SHARE = "hybrid"
"""What the guest calls the directory that the host shares."""
_TUNES = {
    "read_bps": "read_bytes_sec",
    "write_bps": "write_bytes_sec",
    "read_iops": "read_iops_sec",
    "write_iops": "write_iops_sec",
}


NAMESPACE = "urn:hybrid:instance:1"
"""Of what we say in a domain's metadata."""
ET.register_namespace("hybrid", NAMESPACE)


@dataclass(frozen=True, slots=True)
class Daemon:
    """What the domain needs besides when a daemon that we did not configure runs it; see `vm.elsewhere`."""

    home: Path
    id: str
    """The instance's; with the home it tells whose the domain is."""
    pipes: Path
    """Where each output file F has its pipe, F.in and F.out."""
    relabel: bool
    """Whether libvirt is to give the files to QEMU's user; else we did."""


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
    share: Path | None = None
    """The socket of a virtiofsd, which needs the guest's memory to be shared with it."""
    rates: Mapping[str, int] = field(default_factory=dict)
    """The most that the disk may do in a second: `read_bps`, `write_bps`, `read_iops`, `write_iops`."""
    daemon: Daemon | None = None
    """None when libvirt runs inside our process."""
    interfaces: Mapping[str, str] = field(default_factory=dict)
    """MAC addresses by the taps, which are there already and belong to QEMU's user."""


def vcpus(cpus: float | None) -> int:
    """How many virtual CPUs a share of `cpus` needs; the fraction is enforced by a cgroup."""
    return max(1, math.ceil(cpus or 1))


def xml(machine: Machine) -> str:
    """The domain's XML."""
    domain = ET.Element("domain", type=machine.domain_type)
    _text(domain, "name", machine.name)
    _text(domain, "memory", str(machine.memory), unit="b")
    if machine.share is not None:
        backing = ET.SubElement(domain, "memoryBacking")
        ET.SubElement(backing, "source", type="memfd")
        ET.SubElement(backing, "access", mode="shared")
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
    if machine.daemon is not None:
        _under_daemon(domain, machine.daemon)
    return ET.tostring(domain, encoding="unicode")


def _devices(devices: ET.Element, machine: Machine) -> None:
    _text(devices, "emulator", machine.emulator)
    disk = ET.SubElement(devices, "disk", type="file", device="disk")
    ET.SubElement(disk, "driver", name="qemu", type="qcow2", discard="unmap")
    ET.SubElement(disk, "source", file=str(machine.disk))
    ET.SubElement(disk, "target", dev="vda", bus="virtio")
    if machine.rates:
        tune = ET.SubElement(disk, "iotune")
        for name, rate in machine.rates.items():
            _text(tune, _TUNES[name], str(rate))
    if machine.share is not None:
        share = ET.SubElement(devices, "filesystem", type="mount")
        ET.SubElement(share, "driver", type="virtiofs", queue="1024")
        ET.SubElement(share, "source", socket=str(machine.share))
        ET.SubElement(share, "target", dir=SHARE)
    for tap, mac in machine.interfaces.items():
        interface = ET.SubElement(devices, "interface", type="ethernet")
        ET.SubElement(interface, "mac", address=mac)
        ET.SubElement(interface, "target", dev=tap, managed="no")
        ET.SubElement(interface, "model", type="virtio")
        ET.SubElement(interface, "rom", enabled="no")  # nobody boots from the network; the firmware would look
    for number, path in enumerate((machine.console, machine.events)):
        backend, source = _output(machine, path)
        serial = ET.SubElement(devices, "serial", type=backend)
        ET.SubElement(serial, "source", source)
        ET.SubElement(serial, "target", port=str(number))
    for name in FILE_PORTS:
        backend, source = _output(machine, machine.ports[name])
        _port(devices, name, backend, **source)
    for name in SOCKET_PORTS:
        _port(devices, name, "unix", mode="bind", path=str(machine.ports[name]))
    ET.SubElement(devices, "controller", type="usb", model="none")
    ET.SubElement(devices, "memballoon", model="none")


def _output(machine: Machine, path: Path) -> tuple[str, dict[str, str]]:
    """The device that writes to a file, and its source."""
    if machine.daemon is None:
        return "file", {"path": str(path), "append": "on"}
    return "pipe", {"path": str(machine.daemon.pipes / path.name)}


def _under_daemon(domain: ET.Element, daemon: Daemon) -> None:
    metadata = ET.SubElement(domain, "metadata")
    ET.SubElement(metadata, f"{{{NAMESPACE}}}instance", home=str(daemon.home), id=daemon.id)
    if not daemon.relabel:
        ET.SubElement(domain, "seclabel", type="none", model="dac")


def _port(devices: ET.Element, name: str, backend: str, **source: str) -> None:
    channel = ET.SubElement(devices, "channel", type=backend)
    ET.SubElement(channel, "source", source)
    ET.SubElement(channel, "target", type="virtio", name=f"hybrid.{name}")


def _text(parent: ET.Element, tag: str, text: str, **attributes: str) -> None:
    ET.SubElement(parent, tag, attributes).text = text
