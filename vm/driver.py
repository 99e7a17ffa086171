"""The vm kind: KVM virtual machines through libvirt."""

from __future__ import annotations

import contextlib
import os
import platform
import pwd
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import ClassVar

from hybrid import cgroups, delegation, limits
from hybrid.driver import Instance, Kind, Problem, Request
from hybrid.errors import HostError
from hybrid.home import Home, ordinary_user
from hybrid.image import Image
from hybrid.marks import Mark
from hybrid.network import plan
from hybrid.process import find
from hybrid.store import InstanceStore, Record, new_id, now
from hybrid.volumes import prepared, to_record
from vm import disk, domain, guest, inside, kernel, shares
from vm.accel import detect
from vm.instance import VmInstance
from vm.libvirtapi import translated

TOOLS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "mke2fs": "e2fsprogs",
    "gcc": "gcc libc6-dev",
    "lz4": "lz4",
}


class VmDriver:
    """A `hybrid.driver.Driver` on libvirt: the one inside this process, or the one that `uri` names."""

    kind: ClassVar[Kind] = Kind.VM

    def __init__(self, home: Home, uri: str | None = None) -> None:
        self._home = home
        self._uri = uri

    def problems(self) -> Sequence[Problem]:
        found = []
        if platform.machine() != "x86_64":
            found.append(Problem(f"VMs are not made on {platform.machine()} yet", "use an x86_64 machine"))
        if os.geteuid() != 0:
            from hybrid import rootless

            found += rootless.problems()
        found += [
            Problem(f"{tool} is not installed", f"apt-get install {package}")
            for tool, package in TOOLS.items()
            if find(tool) is None
        ]
        if (problem := _libvirt_problem() if self._uri is None else self._daemon_problem(self._uri)) is not None:
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
        from vm.connection import connect

        connection = connect(self._home, self._uri)
        with translated("libvirt does not say what it is"), connection.collecting():
            libvirt, qemu = connection.libvirt.getLibVersion(), connection.libvirt.getVersion()
        return {
            "engine": f"libvirt {_version(libvirt)}, QEMU {_version(qemu)}",
            "connection": self._uri or "inside this process",
            "accelerator": detect().name,
            "machine": "q35",
            "kernel": kernel.find_kernel(self._home, None).release if kernel.cached(self._home) else "not fetched yet",
            "qemu user": _user_name(connection.qemu_uid() or ordinary_user() or 0),
        }

    def _daemon_problem(self, uri: str) -> Problem | None:
        """Why that libvirt cannot be used: it is asked."""
        from vm import elsewhere
        from vm.connection import connect

        if (problem := elsewhere.problem(uri)) is not None:
            return problem
        try:
            connect(self._home, uri)
        except HostError as error:
            return Problem(error.what, error.mend)
        return None

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
        network = plan.make(spec, self.kind, self._home, request.process.hostname)
        if spec.cpus is not None and spec.cpus != int(spec.cpus) and not cgroups.tree().usable:
            missing = delegation.missing("a VM has whole CPUs")
            raise HostError(missing.what, where="cpus", mend=f"{missing.mend}; or give cpus a whole number")
        base = disk.image_disk(self._home, request.image)
        engine: dict[str, object] = {
            "memory": memory,
            "vcpus": domain.vcpus(spec.cpus),
            "cpus": spec.cpus,
            "kernel": None if spec.vm.kernel is None else str(spec.vm.kernel),
            "probed": request.process.healthcheck is not None,
            "network": network,
            "rates": limits.of_disk(limits.block_io(spec), self._home.root),
            "uri": self._uri,
        }
        _check_shares(self._home, request)
        id = new_id()
        with (
            InstanceStore(self._home).making(request.name, id) as (directory, commit),
            prepared(spec, request.image, self._home, directory, copy=False) as mounted,
        ):
            engine |= {"settings": inside.settings(spec, mounted), **to_record(mounted)}
            disk.instance_disk(base, directory / "disk.qcow2")
            guest.save_process(directory, request.process)
            record = commit(
                Record(
                    name=request.name,
                    id=id,
                    kind=Kind.VM,
                    image=request.image.digest,
                    image_name=next(iter(request.image.names), request.image.digest),
                    command=request.process.argv,
                    created=now(),
                    directory=directory,
                    stop_signal=request.process.stop_signal,
                    stop_timeout=request.process.stop_timeout,
                    spec=request.spec.saved(),
                    engine=engine,
                )
            )
        request.marks.stamp(Mark.CREATE)
        return VmInstance(self._home, record, request.marks)

    def open(self, record: Record) -> Instance:
        return VmInstance(self._home, record)


def _check_shares(home: Home, request: Request) -> None:
    """HostError when the spec mounts what is the host's, and it cannot be shared with a guest."""
    if any(mount.source is not None for mount in request.spec.volumes):
        shares.find()
        kernel.find_kernel(home, request.spec.vm.kernel, guest.flavour(shared=True))


def _libvirt_problem() -> Problem | None:
    from vm.embedded import QEMU_USER

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


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _version(number: int) -> str:
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"
