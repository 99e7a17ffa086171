"""The domain's XML against a golden file, and hostile values in it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

from vm import domain

DATA = Path(__file__).parent / "data/vm"
MACHINE = domain.Machine(
    name="hybrid-0123456789abcdef",
    domain_type="kvm",
    emulator="/usr/bin/qemu-system-x86_64",
    memory=256 << 20,
    vcpus=2,
    kernel=Path("/cache/vmlinux"),
    initrd=Path("/i/initrd"),
    disk=Path("/i/disk.qcow2"),
    console=Path("/i/console.log"),
    events=Path("/i/events"),
    ports={name: Path("/i") / name for name in ("stdout", "stderr", "control", "stdin")},
)


def test_xml_is_the_golden_one() -> None:
    tree = ET.fromstring(domain.xml(MACHINE))
    ET.indent(tree)
    assert ET.tostring(tree, encoding="unicode") + "\n" == (DATA / "domain.xml").read_text()


def test_emulation_is_asked_for_by_its_own_type_and_cpu() -> None:
    tree = ET.fromstring(domain.xml(replace(MACHINE, domain_type="qemu")))
    assert tree.get("type") == "qemu"
    cpu = tree.find("cpu")
    assert cpu is not None and cpu.get("mode") == "maximum"


def test_no_value_breaks_out_of_its_place() -> None:
    hostile = "/i/'\"><qemu:commandline/>&amp;"
    tree = ET.fromstring(domain.xml(replace(MACHINE, disk=Path(hostile))))
    source = tree.find("devices/disk/source")
    assert source is not None and source.get("file") == hostile
    assert tree.find(".//commandline") is None


def test_a_share_of_cpus_needs_as_many_virtual_cpus_as_cover_it() -> None:
    assert [domain.vcpus(cpus) for cpus in (None, 0.5, 1, 1.5, 4)] == [1, 1, 1, 2, 4]
