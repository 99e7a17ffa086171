"""Libvirt elsewhere: which URIs, as whom QEMU runs, what the domain says besides; and VMs that nobody knows."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from hybrid import process
from hybrid.errors import HostError
from hybrid.home import Home
from tests.unit.test_vm_domain import MACHINE
from vm import domain, sweep
from vm.elsewhere import Owner, check_reach, problem, qemu_owner

CAPABILITIES = """
<capabilities><host>
  <secmodel><model>apparmor</model><doi>0</doi></secmodel>
  <secmodel><model>dac</model><doi>0</doi>
    <baselabel type='kvm'>+64055:+108</baselabel><baselabel type='qemu'>+64056:+109</baselabel></secmodel>
</host></capabilities>"""
DAEMON = domain.Daemon(Path("/home"), "0123456789abcdef", Path("/run"), relabel=False)


@pytest.mark.parametrize(
    "uri", ["qemu:///system", "qemu:///session", "qemu+unix:///system", "qemu:///system?socket=/tmp/x"]
)
def test_a_daemon_of_this_host_can_run_vms(uri: str) -> None:
    assert problem(uri) is None


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("xen:///system", "QEMU driver"),
        ("system", "QEMU driver"),
        ("", "QEMU driver"),
        ("qemu://[", "no URI"),
        ("qemu:///embed?root=/tmp/x", "no daemon"),
        ("qemu:///", "no daemon"),
        ("qemu+ssh://root@far/system", "another machine"),
        ("qemu+tls://far/system", "another machine"),
        ("qemu+ssh:///system", "another machine"),
    ],
)
def test_a_uri_that_cannot_be_used_is_refused_with_a_mend(uri: str, words: str) -> None:
    found = problem(uri)
    assert found is not None and words in found.what and found.mend


def test_whom_qemu_runs_as_is_told_by_its_kind() -> None:
    assert qemu_owner(CAPABILITIES, "kvm") == Owner(64055, 108)
    assert qemu_owner(CAPABILITIES, "qemu") == Owner(64056, 109)


@pytest.mark.parametrize("label", ["", "+1", "a:b", "+1:"])
def test_a_user_that_is_not_told_is_none(label: str) -> None:
    text = f"<c><host><secmodel><model>dac</model><baselabel type='kvm'>{label}</baselabel></secmodel></host></c>"
    assert qemu_owner(text, "kvm") is None
    assert qemu_owner("<c><host/></c>", "kvm") is None


def test_a_directory_that_qemus_user_cannot_pass_is_named(tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents):
        if not folder.stat().st_mode & 0o001:
            folder.chmod(0o755)  # pytest's own, made for this user alone
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    owner, stranger = closed.stat().st_uid, 54321
    check_reach(closed / "disk", Owner(owner, 0))
    with pytest.raises(HostError, match=str(closed)) as caught:
        check_reach(closed / "deeper" / "disk", Owner(stranger, stranger))
    assert "HYBRID_HOME" in caught.value.mend
    closed.chmod(0o710)
    check_reach(closed / "disk", Owner(stranger, closed.stat().st_gid))
    closed.chmod(0o701)
    check_reach(closed / "disk", Owner(stranger, stranger))
    with pytest.raises(HostError):  # the group's bits hold for its members, also when others may
        check_reach(closed / "disk", Owner(stranger, closed.stat().st_gid))


def test_under_a_daemon_qemu_writes_its_files_itself_and_nobody_changes_their_owner() -> None:
    tree = ET.fromstring(domain.xml(replace(MACHINE, daemon=DAEMON)))
    outputs = [each for each in tree.iterfind("devices/*[@type='pipe']/source")]
    assert [each.get("path") for each in outputs] == [
        "/run/console.log",
        "/run/events",
        "/run/stdout",
        "/run/stderr",
        "/run/index",
    ]
    assert tree.find("devices/*[@type='file']/source[@append]") is None
    label = tree.find("seclabel[@model='dac']")
    assert label is not None and label.get("type") == "none"


def test_libvirt_gives_the_files_to_its_qemu_where_we_may_not() -> None:
    assert ET.fromstring(domain.xml(replace(MACHINE, daemon=replace(DAEMON, relabel=True)))).find("seclabel") is None


def test_the_domain_says_whose_it_is() -> None:
    hostile = replace(DAEMON, home=Path("/a'\"><x/>"))
    tree = ET.fromstring(domain.xml(replace(MACHINE, daemon=hostile)))
    found = tree.find(f"metadata/{{{domain.NAMESPACE}}}instance")
    assert found is not None and found.attrib == {"home": "/a'\"><x/>", "id": DAEMON.id}


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    yield Home(tmp_path / "home", tmp_path / "run")


@pytest.mark.parametrize(("place", "ends"), [("gone", True), ("there", False), ("elsewhere", False)])
def test_a_vm_whose_instance_has_gone_is_ended(home: Home, place: str, ends: bool) -> None:
    (home.instances / "there").mkdir(parents=True)
    folder = Path("/somebody") if place == "elsewhere" else home.instances
    words = ["-name", "guest=hybrid-0123456789abcdef,debug-threads=on", "-initrd", folder / place / "initrd"]
    argv = [sys.executable, "-c", "print(flush=True); input()", *map(str, words)]
    with process.spawn(argv, stdin=process.PIPE, stdout=process.PIPE) as qemu:
        assert qemu.stdout is not None and qemu.stdin is not None
        qemu.stdout.readline()
        sweep.sweep(home)
        qemu.stdin.close()
        assert (qemu.wait() == -9) is ends
