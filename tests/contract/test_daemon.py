"""What only VMs of a libvirt daemon have: a QEMU of another user, a log daemon, and a domain that others see."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest

from hybrid import process, salvage
from hybrid.store import remove_tree
from vm.connection import connect
from vm.domain import NAMESPACE

if TYPE_CHECKING:
    from tests.contract.conftest import Bench

SIZE = 5 << 20
"""Bytes, more than virtlogd keeps in one file."""
UP = {"test": ["CMD", "test", "-e", "/tmp/up"], "start_interval": "20ms"}


@pytest.fixture
def libvirt(daemon_bench: Bench) -> Any:
    """The connection to the daemon."""
    return connect(daemon_bench.home, daemon_bench.connect).libvirt


def test_files_are_qemus_while_it_runs_and_ours_after_it(daemon_bench: Bench, libvirt: Any) -> None:
    script = f"trap 'exit 3' TERM; head -c {SIZE} /dev/zero; touch /tmp/up; while :; do sleep 0.1; done"
    instance = daemon_bench.make("sh", "-c", script, cpus=0.5, healthcheck=UP)
    directory = instance.record.directory
    cache = daemon_bench.home.cache
    instance.start(None)
    instance.wait_ready(120)
    pid = instance.status().pid
    assert pid is not None
    user = Path(f"/proc/{pid}").stat().st_uid
    assert user == pwd.getpwnam("libvirt-qemu").pw_uid
    assert (directory / "disk.qcow2").stat().st_uid == user
    assert {path.stat().st_uid for name in ("disks", "kernels") for path in (cache / name).iterdir()} == {0}

    domain = libvirt.lookupByName(f"hybrid-{instance.record.id}")
    assert not domain.isPersistent()
    told = ET.fromstring(domain.XMLDesc()).find(f"metadata/{{{NAMESPACE}}}instance")
    assert told is not None
    assert told.attrib == {"home": str(daemon_bench.home.root), "id": instance.record.id}

    assert instance.stop(30) == 3
    assert libvirt.listAllDomains() == []
    assert {path.lstat().st_uid for path in directory.iterdir()} == {os.getuid()}
    assert sum(len(part.data) for part in instance.log()) == SIZE


def test_a_domain_whose_instance_has_gone_is_pruned(daemon_bench: Bench, libvirt: Any) -> None:
    instance = daemon_bench.make("sleep", "1000")
    instance.start(None)
    pid = instance.status().pid
    assert pid is not None
    handle = os.pidfd_open(pid)
    remove_tree(instance.record.directory)
    list(salvage.prune(daemon_bench.home))
    assert process.ended(handle, 60)
    os.close(handle)
    instance.destroy()
    assert libvirt.listAllDomains() == []
