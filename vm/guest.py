"""The files that a guest is started from, and how its QEMU is told from all other processes."""

from __future__ import annotations

import json
from pathlib import Path

from hybrid.home import Home
from hybrid.image import Healthcheck, Process
from hybrid.process import need
from hybrid.store import Record
from vm import initramfs, kernel
from vm.accel import detect
from vm.domain import FILE_PORTS, SOCKET_PORTS, Machine


def domain_name(identifier: str) -> str:
    """The libvirt domain of an instance."""
    return f"hybrid-{identifier}"


def find_qemu(identifier: str) -> int | None:
    """The pid of the instance's QEMU, by its command line: also found when nobody recorded it."""
    wanted = f"guest={domain_name(identifier)},".encode()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if any(argument.startswith(wanted) for argument in path.read_bytes().split(b"\0")):
                return int(path.parent.name)
        except OSError:
            continue
    return None


def save_process(directory: Path, process: Process) -> None:
    """Keep the command beside the instance, for every later start."""
    from dataclasses import asdict

    (directory / "process.json").write_text(json.dumps(asdict(process)))


def load_process(directory: Path) -> Process:
    """The command that `save_process` kept."""
    values = json.loads((directory / "process.json").read_text())
    check = values.pop("healthcheck")
    if check is not None:
        check["test"] = tuple(check["test"])
    for name in ("argv", "groups"):
        values[name] = tuple(values[name])
    return Process(**values, healthcheck=None if check is None else Healthcheck(**check))


def write_files(home: Home, record: Record, run: Path, *, has_stdin: bool) -> Machine:
    """Lay out what one start needs, logs emptied, and describe the machine that uses it."""
    directory, engine = record.directory, record.engine
    given = engine.get("kernel")
    found = kernel.find_kernel(home, Path(given) if given else None)
    initrd = directory / "initrd"
    initrd.write_bytes(
        initramfs.base(initramfs.init_binary(home), [path.read_bytes() for path in found.modules])
        + initramfs.instance(load_process(directory), has_stdin=has_stdin)
    )
    run.mkdir(parents=True, mode=0o711, exist_ok=True)
    files = {name: directory / f"{name}.log" for name in (*FILE_PORTS, "console")}
    events = directory / "events"
    for path in (*files.values(), events):
        path.write_bytes(b"")
    return Machine(
        name=domain_name(record.id),
        domain_type=detect().domain_type,
        emulator=need("qemu-system-x86_64", "qemu-system-x86"),
        memory=engine["memory"],
        vcpus=engine["vcpus"],
        kernel=found.vmlinux,
        initrd=initrd,
        disk=directory / "disk.qcow2",
        console=files["console"],
        events=events,
        ports={name: files[name] for name in FILE_PORTS} | {name: run / name for name in SOCKET_PORTS},
    )
