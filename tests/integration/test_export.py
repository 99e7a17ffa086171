"""Exports for real: disks boot under UEFI firmware to readiness, archives run in podman, failures leave nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hybrid import process

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="unpacking with owners needs root")

HYBRID = Path(sys.executable).with_name("hybrid")
FIRMWARE = (Path("/usr/share/OVMF/OVMF_CODE_4M.fd"), Path("/usr/share/OVMF/OVMF_VARS_4M.fd"))
BOOT_SECONDS = 400
"""After which a boot is given up: many times what one takes on an idle machine."""
BUSES = {
    "virtio": ["virtio-blk-pci,drive=disk"],
    "virtio-scsi": ["virtio-scsi-pci", "scsi-hd,drive=disk"],
    "sata": ["ahci,id=sata", "ide-hd,drive=disk,bus=sata.0"],
    "nvme": ["nvme,serial=1,drive=disk"],
    "pvscsi": ["pvscsi", "scsi-hd,drive=disk"],
}
# Each form on a bus of the hypervisor whose form it is, or on one that no other has.
BOOTS = {"qcow2": "virtio", "raw": "virtio-scsi", "vmdk": "nvme", "vdi": "sata", "vhdx": "virtio", "ova": "sata"}

APPLIANCE = """
image: {rootfs: ./tools}
command: [sh, -c, 'echo "hello from $(id -u) in $(pwd) on $(hostname), $GREETING"; touch /tmp/up; sleep 2; exit 7']
environment: {GREETING: moin}
user: "1000"
working_dir: /tmp
hostname: box
cpus: 2
mem_limit: 256m
labels: {made.for: tests}
healthcheck: {test: [CMD, test, -e, /tmp/up]}
"""
SERVICE = """
image: {rootfs: ./tools}
command: [sh, -c, 'trap "echo told to stop; exit 5" USR1; echo waiting; while :; do sleep 0.1; done']
stop_signal: SIGUSR1
mem_limit: 256m
"""


@pytest.fixture(scope="module")
def spec(specs: Path) -> Path:
    (specs / "tools/tmp").chmod(0o1777)
    (specs / "service.yaml").write_text(SERVICE)
    (specs / "appliance.yaml").write_text(APPLIANCE)
    return specs / "appliance.yaml"


@pytest.fixture(scope="module")
def export(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path, str], Path]:
    """An export made by the command line, its checksum checked."""
    folder = tmp_path_factory.mktemp("exports")

    def make(spec: Path, form: str) -> Path:
        file = folder / f"{spec.stem}.{form}"
        size = [] if form.endswith(("-archive", "-tar")) else ["--size", "256m"]
        done = hybrid(home, "export", spec, "--format", form, "-o", file, *size)
        assert done.returncode == 0, done.stderr.decode()
        assert done.stdout == file.with_name(f"{file.name}.sha256").read_bytes()
        subprocess.run(["sha256sum", "--check", "--quiet", f"{file.name}.sha256"], cwd=folder, check=True)
        return file

    return make


def hybrid(home: Path, command: str, *words: str | Path) -> subprocess.CompletedProcess[bytes]:
    """One `hybrid image` command."""
    argv = [HYBRID, "image", command, *words]
    return subprocess.run(argv, env=of_home(home), capture_output=True, check=False, timeout=300)


def of_home(home: Path) -> dict[str, str]:
    return {**os.environ, "HYBRID_HOME": str(home)}


def needed(package: str, *paths: str | Path | None) -> None:
    """Skips the test without the package's files; where nothing may be skipped, fails it."""
    if not all(path and Path(path).exists() for path in paths):
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{package} is not installed")


# Disks


@dataclass(frozen=True)
class Machine:
    """What any hypervisor might give: UEFI firmware, one disk on some bus, a screen and a serial port."""

    disk: Path
    form: str
    bus: str
    kernel: Path | None = None
    """What the firmware starts when it has no driver for the bus."""

    def argv(self, control: Path) -> list[str]:
        code, variables = FIRMWARE
        argv = ["qemu-system-x86_64", "-machine", "q35", "-accel", "tcg", "-cpu", "max", "-m", "256", "-no-reboot"]
        argv += ["-nodefaults", "-display", "none", "-vga", "std", "-serial", "stdio"]
        argv += ["-qmp", f"unix:{control},server=on,wait=off"]
        for drive in (
            f"if=pflash,format=raw,readonly=on,file={code}",
            f"if=pflash,format=raw,snapshot=on,file={variables}",
            f"if=none,id=disk,format={self.form},snapshot=on,file={self.disk}",
        ):
            argv += ["-drive", drive]
        for device in BUSES[self.bus]:
            argv += ["-device", device]
        return argv if self.kernel is None else [*argv, "-kernel", str(self.kernel)]

    def boot(self, control: Path, on_line: Callable[[str], None] = lambda line: None) -> list[str]:
        """The lines that it says on its serial port until it powers off."""
        argv = ["timeout", "--signal=KILL", str(BOOT_SECONDS), *self.argv(control)]
        said = []
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL) as qemu:
            assert qemu.stdout is not None
            for line in qemu.stdout:
                said.append(line.decode(errors="replace").rstrip())
                on_line(said[-1])
        assert qemu.returncode == 0, said
        return said


def press_power_button(control: Path) -> None:
    """As a person would, and a hypervisor that is told to shut a guest down."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(control))
        with connection.makefile("rw") as file:
            for command in ("qmp_capabilities", "system_powerdown"):
                file.readline()
                file.write(json.dumps({"execute": command}))
                file.flush()
            file.readline()


def disk_of_ova(file: Path) -> Path:
    """The disk inside, after a look at what an importer looks at."""
    with tarfile.open(file) as tar:
        assert tar.getnames() == ["appliance.ovf", "appliance.mf", "appliance-disk1.vmdk"]
    subprocess.run(["tar", "-xf", file, "-C", file.parent], check=True)
    sums = (file.with_name("appliance.mf").read_text()).replace("SHA256(", "").splitlines()
    pairs = [line.split(")= ")[::-1] for line in sums]
    check = "".join(f"{digest}  {name}\n" for digest, name in pairs)
    subprocess.run(["sha256sum", "--check", "--quiet"], input=check.encode(), cwd=file.parent, check=True)
    return file.with_name("appliance-disk1.vmdk")


def boot_from_button(disk: Path, folder: Path) -> list[str]:
    """From VMware's bus, which this firmware does not know, until somebody presses the power button."""
    program = folder / "boot.efi"
    subprocess.run(["mcopy", "-i", f"{disk}@@1M", "::/EFI/BOOT/BOOTX64.EFI", program], check=True)
    control = folder / "button"

    def press(line: str) -> None:
        if line == "waiting":  # as the first of its processes it hears no signal that it has no trap for
            press_power_button(control)

    return Machine(disk, "raw", "pvscsi", program).boot(control, press)


@pytest.fixture(scope="module")
def boots(
    export: Callable[[Path, str], Path], spec: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[list[str]]]]:
    """What each disk says: all booted two at a time, while the first is looked at."""
    needed("ovmf", *FIRMWARE)
    needed("qemu-system-x86", shutil.which("qemu-system-x86_64"))
    folder = tmp_path_factory.mktemp("boots")
    disks = {form: export(spec, form) for form in BOOTS}
    disks["ova"] = disk_of_ova(disks["ova"])
    service = export(spec.with_name("service.yaml"), "raw")
    with ThreadPoolExecutor(2) as pool:
        started = {
            form: pool.submit(Machine(disks[form], "vmdk" if form == "ova" else form, bus).boot, folder / form)
            for form, bus in BOOTS.items()
        }
        yield started | {"service": pool.submit(boot_from_button, service, folder)}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("form", BOOTS)
def test_a_disk_boots_to_the_readiness_that_the_spec_wants(boots: dict[str, Future[list[str]]], form: str) -> None:
    said = boots[form].result()
    events = [line for line in said if line.startswith("hybrid: ") and not line.startswith("hybrid: probe")]
    assert events == [f"hybrid: {event}" for event in ("kernel", "init", "entrypoint", "ready", "exit 7")]
    greeting = said.index("hello from 1000 in /tmp on box, moin")
    assert said.index("hybrid: entrypoint") < greeting < said.index("hybrid: exit 7")


def test_the_power_button_is_the_stop_signal(boots: dict[str, Future[list[str]]]) -> None:
    said = boots["service"].result()
    assert "hybrid: ready" in said  # which, without a healthcheck, it is once it runs
    assert said.index("waiting") < said.index("told to stop") < said.index("hybrid: exit 5")


@pytest.mark.parametrize("form", ["ova", "oci-archive", "docker-archive", "rootfs-tar"])
def test_the_same_export_is_the_same_bytes(home: Path, spec: Path, tmp_path: Path, form: str) -> None:
    options = [] if form.endswith(("-archive", "-tar")) else ["--size", "256m"]
    sums = set()
    for _ in range(2):
        done = hybrid(home, "export", spec, "--format", form, "-o", tmp_path / "x", "--force", *options)
        assert done.returncode == 0, done.stderr
        sums.add(done.stdout)
    assert len(sums) == 1


# Archives


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., subprocess.CompletedProcess[bytes]]]:
    """podman with a store, and cgroups, of its own."""
    needed("podman", shutil.which("podman"), shutil.which("runc"))
    folder = tmp_path_factory.mktemp("podman")
    cgroup = f"hybrid-test-podman-{os.getpid()}"
    options: list[str | Path] = ["--root", folder / "root", "--runroot", folder / "run", "--storage-driver", "vfs"]
    options += ["--cgroup-manager", "cgroupfs", "--runtime", "runc", "--events-backend", "none"]
    limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]  # no more than any machine allows
    run = ["--rm", "--network", "none", "--no-healthcheck", "--cgroup-parent", cgroup, *limits]

    def call(command: str, *words: str | Path) -> subprocess.CompletedProcess[bytes]:
        argv: list[str | Path] = ["podman", *options, command, *(run if command == "run" else []), *words]
        return subprocess.run(argv, capture_output=True, check=False, timeout=120)

    yield call
    call("rmi", "--all", "--force")
    for found in (*Path("/sys/fs/cgroup").glob(cgroup), *Path("/sys/fs/cgroup").glob(f"*/{cgroup}")):
        for directory in sorted((path for path in found.rglob("*") if path.is_dir()), reverse=True):
            directory.rmdir()
        found.rmdir()


@pytest.mark.parametrize("form", ["oci-archive", "docker-archive"])
def test_an_archive_runs_in_podman_as_here(
    export: Callable[[Path, str], Path], spec: Path, podman: Callable[..., Any], form: str
) -> None:
    loaded = podman("load", "--quiet", "--input", export(spec, form))
    assert loaded.stdout.decode().split() == ["Loaded", "image:", "localhost/appliance:latest"], loaded.stderr
    ran = podman("run", "--hostname", "box", "localhost/appliance:latest")
    assert (ran.returncode, ran.stdout.decode()) == (7, "hello from 1000 in /tmp on box, moin\n"), ran.stderr
    (told,) = json.loads(podman("inspect", "localhost/appliance:latest").stdout)
    assert told["Labels"] == {"made.for": "tests"}
    if form == "docker-archive":  # OCI's own form knows no healthchecks
        assert told["Healthcheck"]["Test"] == ["CMD", "test", "-e", "/tmp/up"]
    podman("rmi", "--force", "localhost/appliance:latest")


def test_a_tree_runs_in_podman_as_it_is(
    export: Callable[[Path, str], Path], spec: Path, podman: Callable[..., Any]
) -> None:
    assert podman("import", "--quiet", export(spec, "rootfs-tar"), "localhost/tree:1").returncode == 0
    ran = podman("run", "localhost/tree:1", "stat", "-c", "%a %u %F", "/tmp", "/bin/sh", "/bin/busybox")
    assert ran.stdout.decode() == "1777 0 directory\n777 0 symbolic link\n755 0 regular file\n", ran.stderr


def test_an_archive_by_name_is_the_image_unchanged(
    home: Path, export: Callable[[Path, str], Path], spec: Path, tmp_path: Path
) -> None:
    """Out, in again under another home, and out once more: name, digest and bytes are the same."""
    build = hybrid(home, "build", spec.with_name("tools.yaml"), "--tag", "round:trip")
    assert build.returncode == 0, build.stderr
    first, second = tmp_path / "first.tar", tmp_path / "second.tar"
    assert hybrid(home, "export", "round:trip", "--format", "oci-archive", "-o", first).returncode == 0
    (tmp_path / "round.yaml").write_text("image: {archive: ./first.tar}\n")
    other = tmp_path / "home"
    other.mkdir(mode=0o711)
    assert hybrid(other, "build", tmp_path / "round.yaml", "--tag", "round:trip").returncode == 0
    assert hybrid(other, "export", "round:trip", "--format", "oci-archive", "-o", second).returncode == 0
    assert first.read_bytes() == second.read_bytes()
    with tarfile.open(first) as tar:
        index = tar.extractfile("index.json")
        assert index is not None
        (entry,) = json.load(index)["manifests"]
    assert entry["annotations"]["org.opencontainers.image.ref.name"] == "localhost/round:trip"


# What goes wrong


def test_what_is_there_is_kept(home: Path, spec: Path, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("mine")
    refused = hybrid(home, "export", spec, "--format", "rootfs-tar", "-o", tmp_path / "x")
    assert refused.returncode == 1
    assert "there is a file of that name already" in refused.stderr.decode()
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert hybrid(home, "export", spec, "--format", "rootfs-tar", "-o", tmp_path / "x", "--force").returncode == 0
    assert tarfile.is_tarfile(tmp_path / "x")


@pytest.mark.parametrize("form", ["raw", "qcow2", "ova", "oci-archive", "docker-archive", "rootfs-tar"])
def test_a_full_disk_is_one_clear_error(home: Path, spec: Path, tmp_path: Path, form: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", tmp_path], check=True)
    try:
        failed = hybrid(home, "export", spec, "--format", form, "-o", tmp_path / "x")
        assert (failed.returncode, list(tmp_path.iterdir())) == (1, [])
    finally:
        subprocess.run(["umount", tmp_path], check=True)
    assert failed.stderr.decode().splitlines() == [
        "hybrid: no space is left for the export",
        f"  at   {tmp_path}",
        "  mend free some, or write to a larger disk",
    ]


@pytest.mark.parametrize("tool", ["mcopy", "mke2fs", "qemu-img", "skopeo"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_export_leaves_nothing(
    home: Path, export: Callable[[Path, str], Path], spec: Path, tmp_path: Path, tool: str, number: int
) -> None:
    """Interrupted while one of the programs that it uses is running."""
    tools, out = tmp_path / "tools", tmp_path / "out"
    tools.mkdir()
    out.mkdir()
    os.mkfifo(tmp_path / "started")
    (tools / tool).write_text(f"#!/bin/sh\necho $$ > {tmp_path}/started\nexec sleep 1000\n")
    (tools / tool).chmod(0o755)
    form = "docker-archive" if tool == "skopeo" else "qcow2"
    environment = {**of_home(home), "PATH": f"{tools}:{os.environ['PATH']}"}
    argv: list[str | Path] = [HYBRID, "image", "export", spec, "--format", form, "-o", out / "x"]
    with subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        child = os.pidfd_open(int((tmp_path / "started").read_text()))
        assert signalled(running, number) == 128 + number
    assert list(out.iterdir()) == []
    assert process.ended(child, 10)
    os.close(child)


def signalled(running: subprocess.Popen[bytes], number: int) -> int:
    """How it ends when it is told to, again if need be: what comes just before Python waits is heard with the next."""
    for _ in range(10):
        running.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            return running.wait(5)
    running.kill()
    pytest.fail(f"it goes on after signal {number}")


def test_mistakes_are_told_before_any_work(home: Path, spec: Path, tmp_path: Path) -> None:
    for words, told in (
        (["--format", "floppy", "-o", "x"], "'floppy' is not one of"),
        (["--format", "rootfs-tar", "-o", "x", "--size", "1g"], "only a bootable disk has one"),
        (["--format", "raw", "-o", "x", "--size", "big"], "'big' is no size"),
        (["--format", "raw", "-o", tmp_path], "the output is a directory"),
        (["--format", "raw", "-o", tmp_path / "a/b"], "directory does not exist"),
        (["--format", "raw", "-o", tmp_path / "x", "--size", "65m"], "does not fit on 65 MiB"),
    ):
        failed = hybrid(home, "export", spec, *words)
        assert failed.returncode in (1, 2)
        assert told in failed.stderr.decode()
    assert list(tmp_path.iterdir()) == []
