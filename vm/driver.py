"""The vm kind: KVM virtual machines through libvirt."""

from __future__ import annotations

import contextlib
import os
import platform
import pwd
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import ClassVar

from hybrid.driver import Instance, Kind, Problem, Request
from hybrid.errors import HostError
from hybrid.home import Home
from hybrid.image import Image
from hybrid.marks import Mark
from hybrid.process import find
from hybrid.store import InstanceStore, Record, new_id, now
from vm import disk, domain, guest, kernel
from vm.accel import detect
from vm.instance import VmInstance

TOOLS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "mke2fs": "e2fsprogs",
    "gcc": "gcc libc6-dev",
    "lz4": "lz4",
}


class VmDriver:
    """A `hybrid.driver.Driver` on libvirt's embedded QEMU driver."""

    kind: ClassVar[Kind] = Kind.VM

    def __init__(self, home: Home) -> None:
        self._home = home

    def problems(self) -> Sequence[Problem]:
        found = []
        if platform.machine() != "x86_64":
            found.append(Problem(f"VMs are not made on {platform.machine()} yet", "use an x86_64 machine"))
        if os.getuid() != 0:
            found.append(Problem("VMs need root here", "run it as root, or with sudo"))
        found += [
            Problem(f"{tool} is not installed", f"apt-get install {package}")
            for tool, package in TOOLS.items()
            if find(tool) is None
        ]
        if (problem := _libvirt_problem()) is not None:
            found.append(problem)
        if not kernel.cached(self._home) and find("apt-get") is None:
            found.append(Problem("no guest kernel is there", "name one in the spec: `vm: {kernel: FILE}`"))
        return found

    def warnings(self) -> Sequence[Problem]:
        accelerator = detect()
        if accelerator.name == "kvm":
            return []
        return [
            Problem(
                f"VMs are emulated (TCG), since {accelerator.why}",
                "use a machine with VT-x or AMD-V, or nested virtualisation; emulated figures say nothing of KVM's",
            )
        ]

    def facts(self) -> Mapping[str, str]:
        from vm.connection import connect, qemu_user

        connection = connect(self._home)
        with connection.collecting():
            libvirt, qemu = connection.libvirt.getLibVersion(), connection.libvirt.getVersion()
        return {
            "engine": f"libvirt {_version(libvirt)}, QEMU {_version(qemu)}",
            "accelerator": detect().name,
            "machine": "q35",
            "kernel": kernel.find_kernel(self._home, None).release if kernel.cached(self._home) else "not fetched yet",
            "qemu user": qemu_user(),
        }

    def prepare(self, image: Image) -> int:
        with contextlib.suppress(HostError):  # a spec may name a kernel of its own; if it does not, `start` says why
            kernel.find_kernel(self._home, None)
        return disk.image_disk(self._home, image).stat().st_blocks * 512

    def create(self, request: Request) -> Instance:
        spec = request.spec
        memory = spec.mem_limit or domain.DEFAULT_MEMORY
        if memory < domain.LEAST_MEMORY:
            raise HostError(
                f"a VM cannot boot in {memory >> 20} MiB",
                where="mem_limit",
                mend=f"give mem_limit at least {domain.LEAST_MEMORY >> 20}m, or use --as container",
            )
        base = disk.image_disk(self._home, request.image)
        engine: dict[str, object] = {
            "memory": memory,
            "vcpus": domain.vcpus(spec.cpus),
            "cpus": spec.cpus,
            "kernel": None if spec.vm.kernel is None else str(spec.vm.kernel),
            "probed": request.process.healthcheck is not None,
        }
        with InstanceStore(self._home).making(request.name) as (directory, commit):
            disk.instance_disk(base, directory / "disk.qcow2")
            guest.save_process(directory, request.process)
            record = commit(
                Record(
                    name=request.name,
                    id=new_id(),
                    kind=Kind.VM,
                    image=request.image.digest,
                    image_name=next(iter(request.image.names), request.image.digest),
                    command=request.process.argv,
                    created=now(),
                    directory=directory,
                    stop_signal=request.process.stop_signal,
                    stop_timeout=request.process.stop_timeout,
                    engine=engine,
                )
            )
        request.marks.stamp(Mark.CREATE)
        return VmInstance(self._home, record, request.marks)

    def open(self, record: Record) -> Instance:
        return VmInstance(self._home, record)


def _libvirt_problem() -> Problem | None:
    from vm.connection import QEMU_USER

    if find_spec("libvirt") is None:
        return Problem("libvirt-python is not installed", "apt-get install libvirt-dev; pip install libvirt-python")
    try:
        pwd.getpwnam(QEMU_USER)
    except KeyError:
        return Problem(
            f"the user {QEMU_USER} does not exist, and libvirt's QEMU driver wants it",
            f"adduser --system --group --no-create-home {QEMU_USER}",
        )
    return None


def _version(number: int) -> str:
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"
