"""What a guest is made of: accelerator, kernel, initramfs, and the words its init says."""

from __future__ import annotations

import gzip
import os
import shutil
import struct
from pathlib import Path

import pytest

from hybrid.errors import HostError
from hybrid.home import Home
from hybrid.image import Healthcheck, Process
from hybrid.marks import Mark, Marks
from hybrid.process import run
from vm import accel, evidence, guest, initramfs, kernel
from vm.connection import qemu_conf
from vm.events import Events
from vm.streams import Feed, Follow

PT_LOAD, PT_INTERP = 1, 3
PROCESS = Process(
    argv=("server", "--flag"),
    executable="/usr/bin/server",
    env={"PATH": "/usr/bin", "KEY": "a=b c"},
    cwd="/srv",
    uid=33,
    gid=34,
    groups=(4, 5),
    hostname="one",
    stop_signal=15,
    stop_timeout=10.0,
    healthcheck=Healthcheck(test=("probe", "-q"), timeout=2.0, start_interval=0.05),
)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home", tmp_path / "run")


def _cpuinfo(path: Path, flags: str) -> Path:
    path.write_text(f"processor\t: 0\nflags\t\t: fpu {flags} sse\n")
    return path


def test_hardware_virtualisation_is_a_whole_flag(tmp_path: Path) -> None:
    assert accel.has_hardware_virtualisation(_cpuinfo(tmp_path / "a", "svm"))
    assert accel.has_hardware_virtualisation(_cpuinfo(tmp_path / "b", "vmx"))
    assert not accel.has_hardware_virtualisation(_cpuinfo(tmp_path / "c", "svm_lock npt"))


def test_without_the_device_it_is_tcg_and_says_why(tmp_path: Path) -> None:
    found = accel.detect(tmp_path / "kvm", _cpuinfo(tmp_path / "cpuinfo", "svm"))
    assert (found.name, found.domain_type) == ("tcg", "qemu")
    assert "No such file" in found.why


def test_a_device_that_is_no_kvm_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "kvm").touch()
    assert accel.detect(tmp_path / "kvm", _cpuinfo(tmp_path / "cpuinfo", "svm")).name == "tcg"


def test_the_config_holds_every_value_between_nul_bytes() -> None:
    pairs = initramfs.config(PROCESS, has_stdin=True).split(b"\0")
    assert pairs.pop() == b""
    assert b"arg=server" in pairs and b"arg=--flag" in pairs
    assert b"env=KEY=a=b c" in pairs
    assert b"group=4" in pairs and b"group=5" in pairs
    assert b"stdin=1" in pairs
    assert b"probe_interval=50" in pairs and b"probe_timeout=2000" in pairs


def test_a_nul_byte_is_refused() -> None:
    import dataclasses

    with pytest.raises(HostError, match="NUL byte in arg"):
        initramfs.config(dataclasses.replace(PROCESS, argv=("a\0uid=0",)), has_stdin=False)


def test_cpio_reads_the_archive_back(tmp_path: Path) -> None:
    if shutil.which("cpio") is None:
        pytest.skip("cpio is not installed")
    data = initramfs.base(b"binary", [b"one", b"three"])
    run(["cpio", "-i", "--quiet"], input=data, cwd=tmp_path)
    assert (tmp_path / "init").read_bytes() == b"binary"
    assert os.access(tmp_path / "init", os.X_OK)
    assert (tmp_path / "modules/01.ko").read_bytes() == b"three"


def test_the_init_compiles_once_and_is_static(home: Home) -> None:
    binary = initramfs.init_binary(home)
    start, size, count = (struct.unpack_from(code, binary, at)[0] for code, at in (("<Q", 32), ("<H", 54), ("<H", 56)))
    headers = [struct.unpack_from("<I", binary, start + number * size)[0] for number in range(count)]
    assert PT_LOAD in headers and PT_INTERP not in headers
    made = [path for path in (home.cache / "init").iterdir() if path.name != "lock"]
    initramfs.init_binary(home)
    assert [path for path in (home.cache / "init").iterdir() if path.name != "lock"] == made


def test_the_kernel_is_taken_out_of_a_bzimage() -> None:
    elf = b"\x7fELF" + bytes(range(256)) * 8
    payload = gzip.compress(elf) + len(elf).to_bytes(4, "little")
    image = bytearray(1024 + len(payload))
    image[0x1F1] = 1
    image[0x202:0x206] = b"HdrS"
    image[0x20E:0x210] = (0x100).to_bytes(2, "little")
    image[0x300:0x310] = b"6.1.0-1-x (build"
    image[0x248:0x24C] = (0).to_bytes(4, "little")
    image[0x24C:0x250] = len(payload).to_bytes(4, "little")
    image[1024:] = payload
    assert kernel.extract_vmlinux(bytes(image), Path("bzImage")) == elf
    assert kernel.kernel_release(bytes(image), Path("unused")) == "6.1.0-1-x"


def test_what_is_no_kernel_is_refused() -> None:
    with pytest.raises(HostError, match="is no Linux kernel"):
        kernel.extract_vmlinux(b"#!/bin/sh\n" * 200, Path("script"))


def test_modules_come_after_what_they_need(tmp_path: Path) -> None:
    folder = tmp_path / "6.1"
    (folder / "kernel").mkdir(parents=True)
    for name, needs in {"virtio-blk": "virtio,virtio_ring", "virtio_ring": "virtio", "virtio": ""}.items():
        (folder / f"kernel/{name}.ko").write_bytes(b"\x7fELF\0depends=" + needs.encode() + b"\0")
    (folder / "modules.builtin").write_text("kernel/fs/ext4/ext4.ko\n")
    order = [path.stem for path in kernel.module_order(tmp_path, folder, ("virtio_blk", "ext4"))]
    assert order == ["virtio", "virtio_ring", "virtio-blk"]
    with pytest.raises(HostError, match="no module virtio_console"):
        kernel.module_order(tmp_path, folder, ("virtio_console",))


def test_a_saved_command_comes_back_whole(tmp_path: Path) -> None:
    guest.save_process(tmp_path, PROCESS)
    assert guest.load_process(tmp_path) == PROCESS


def test_events_are_stamped_as_they_are_read_and_the_first_word_counts(tmp_path: Path) -> None:
    marks = Marks()
    events = Events(tmp_path / "events", marks)
    events.read()
    events.path.write_bytes(b"kernel\nini")
    events.read()
    assert set(marks) == {Mark.KERNEL}
    with events.path.open("ab") as file:
        file.write(b"t\r\nentrypoint\nready\nexit 7\n")
    before = marks[Mark.KERNEL]
    events.read()
    assert list(marks) == [Mark.KERNEL, Mark.INIT, Mark.ENTRYPOINT, Mark.READY]
    assert marks[Mark.KERNEL] == before
    assert events.exit_code == 7


def test_a_hostile_guest_says_nothing_that_counts(tmp_path: Path) -> None:
    events = Events(tmp_path / "events")
    events.path.write_bytes(
        b"exit 999\nexit -1\nexit ten\nexec-failed x\nprobe z 00\nevidence a zz\n\xff\xfe\n"
        + b"A" * 100_000
        + b"\nexit 3\n"
    )
    events.read()
    assert events.exit_code == 3
    assert events.exec_errno is None
    assert events.probe is None
    assert events.evidence == [("a", "")]


def test_evidence_keeps_what_was_told_and_nothing_else() -> None:
    found = evidence.from_guest(
        [
            ("release", "6.1.0"),
            ("boot_id", "abc\n"),
            ("os_release", 'NAME=x\nPRETTY_NAME="Debian 12"\n'),
            ("status", "CapEff:\t000001ffffffffff"),
            ("status", "Seccomp:\tnonsense"),
            ("namespace", "pid:[4026531836]"),
        ],
        None,
    )
    assert (found.kernel_release, found.boot_id, found.os_name) == ("6.1.0", "abc", "Debian 12")
    assert found.capabilities == 0x1FFFFFFFFFF
    assert found.seccomp == 0
    assert found.namespaces == {"pid": "pid:[4026531836]"}
    assert found.host_processes == {}


def test_qemu_conf_needs_no_daemon() -> None:
    lines = qemu_conf("libvirt-qemu").splitlines()
    assert 'stdio_handler = "file"' in lines
    assert 'user = "libvirt-qemu"' in lines


def test_follow_stops_when_its_reader_has_gone(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"x" * 200_000)
    read, write = os.pipe()
    os.close(read)
    follow = Follow(tmp_path / "log", write)
    follow.copy()
    follow.copy()
    follow.close()
    os.close(write)


def test_feed_counts_what_it_passed_on(tmp_path: Path) -> None:
    import socket

    told: list[int] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(tmp_path / "s"))
        server.listen(1)
        source, write = os.pipe()
        feed = Feed(source, tmp_path / "s", told.append)
        peer, _ = server.accept()
        with peer:
            os.write(write, b"hello")
            feed.move()
            os.close(write)
            feed.move()
            assert peer.recv(100) == b"hello"
        feed.close()
        os.close(source)
    assert told == [5]
    assert feed.reads is None
