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
    ports={name: Path("/i") / name for name in (*domain.FILE_PORTS, *domain.SOCKET_PORTS)},
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


def test_a_share_brings_shared_memory_and_rates_the_disk_s_tuning() -> None:
    """Only they do: the golden file has none of it."""
    shared = replace(MACHINE, share=Path("/run/i/share"), rates={"read_bps": 1000, "write_iops": 5})
    plain, tree = ET.fromstring(domain.xml(MACHINE)), ET.fromstring(domain.xml(shared))
    wanted = {
        "memoryBacking/source": {"type": "memfd"},
        "memoryBacking/access": {"mode": "shared"},
        "devices/filesystem/driver": {"type": "virtiofs", "queue": "1024"},
        "devices/filesystem/source": {"socket": "/run/i/share"},
        "devices/filesystem/target": {"dir": domain.SHARE},
    }
    for path, attributes in wanted.items():
        found = tree.find(path)
        assert found is not None and found.attrib == attributes
        assert plain.find(path) is None
    tune = tree.find("devices/disk/iotune")
    assert tune is not None and {each.tag: each.text for each in tune} == {
        "read_bytes_sec": "1000",
        "write_iops_sec": "5",
    }
