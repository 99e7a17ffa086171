"""The OCI runtime configuration of a container: what Docker gives one by default, with a user namespace.

One pure function, tested against golden files. It differs from `docker run --network none` on purpose
in three things: a user namespace, no_new_privs, and /etc/hostname and /etc/hosts of our own making. With a
network of ours, network and user namespace are made before, and the runtime joins them.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from container.mounts import IdMap
from container.runtime import environment, privileges
from hybrid.defaults import SHM_SIZE, hosts
from hybrid.network.words import Mode

if TYPE_CHECKING:
    from hybrid.image import Process
    from hybrid.limits import BlockIo, Device
    from hybrid.spec import Spec

CAPABILITIES = (
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
)
"""Docker's default capability set."""

MASKED_PATHS = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

_DEVICES = (
    ("c", None, None, "m"),
    ("b", None, None, "m"),
    ("c", 1, 3, "rwm"),  # null
    ("c", 1, 5, "rwm"),  # zero
    ("c", 1, 7, "rwm"),  # full
    ("c", 1, 8, "rwm"),  # random
    ("c", 1, 9, "rwm"),  # urandom
    ("c", 5, 0, "rwm"),  # tty
    ("c", 5, 1, "rwm"),  # console
    ("c", 5, 2, "rwm"),  # ptmx
    ("c", 136, None, "rwm"),  # pts
)

_CPU_PERIOD = 100_000
"""Microseconds."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a container's parts are on this host, and what the host allows it."""

    root: Path
    """Where its root filesystem is mounted."""
    etc: Path
    """The directory with the files that it sees as /etc/hosts and /etc/hostname."""
    cgroup: str | None
    """Its cgroup, absolute, in every hierarchy; None where it has none."""
    ids: IdMap | None
    """Its user namespace; None shares the host's ids."""
    rlimits: Mapping[str, tuple[int, int]]
    """Soft and hard resource limits by name: nofile, …"""
    swap: bool
    """Whether the host's cgroups can limit swap."""
    seccomp: Mapping[str, Any]
    """linux.seccomp of the OCI runtime specification."""
    compiled: bytes = b""
    """The same as a filter program, where the runtime has compiled it before."""
    mounts: Sequence[Mapping[str, Any]] = ()
    """What the spec mounts, as config.json has it."""
    block_io: BlockIo | None = None
    """The spec's blkio_config, its devices found."""
    network: Mode = Mode.NONE
    namespaces: Mapping[str, Path] = field(default_factory=dict)
    """Those to join, by their OCI names; the others are new."""


def runtime_config(spec: Spec, process: Process, place: Place) -> dict[str, Any]:
    """config.json for a container that runs `process` with the resources of `spec` in `place`."""
    return {
        "ociVersion": "1.0.2",
        "process": _process(process, place) | _oom(spec.oom_score_adj),
        "root": {"path": str(place.root), "readonly": spec.read_only},
        "hostname": process.hostname,
        "mounts": [
            *_system_mounts(spec.shm_size or SHM_SIZE, place.network, place.cgroup is not None),
            *_files(place),
            *map(dict, place.mounts),
        ],
        "linux": _linux(spec, place),
        **_annotations(place.compiled),
    }


def _annotations(compiled: bytes) -> dict[str, Any]:
    """crun's own word for a filter that need not be compiled; the rules stay for those that do not know it."""
    return {"annotations": {"run.oci.seccomp_bpf_data": base64.b64encode(compiled).decode()}} if compiled else {}


def _process(process: Process, place: Place) -> dict[str, Any]:
    return {
        "terminal": process.tty,
        "user": {
            "uid": process.uid,
            "gid": process.gid,
            "umask": 0o022,
            "additionalGids": list(process.groups),
        },
        "args": list(process.argv),
        "env": environment(process.env),
        "cwd": process.cwd,
        "capabilities": privileges(process.uid, CAPABILITIES),
        "rlimits": [
            {"type": f"RLIMIT_{name.upper()}", "hard": hard, "soft": soft}
            for name, (soft, hard) in place.rlimits.items()
        ],
        "noNewPrivileges": True,
    }


def _oom(adjustment: int | None) -> dict[str, Any]:
    return {} if adjustment is None else {"oomScoreAdj": adjustment}


def _system_mounts(shm: int, network: Mode, cgroup: bool) -> list[dict[str, Any]]:
    safe = ("nosuid", "noexec", "nodev")
    sysfs = _mount("/sys", "sysfs", "sysfs", *safe, "ro")
    if network is Mode.HOST:  # the kernel mounts a new one for those only who own the network
        sysfs = _mount("/sys", "bind", "/sys", "bind", "rprivate", *safe, "ro")
    return [
        _mount("/proc", "proc", "proc", *safe),
        _mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        _mount(
            "/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"
        ),
        sysfs,
        *([_mount("/sys/fs/cgroup", "cgroup", "cgroup", *safe, "ro")] if cgroup else []),
        _mount("/dev/mqueue", "mqueue", "mqueue", *safe),
        _mount("/dev/shm", "tmpfs", "shm", *safe, "mode=1777", f"size={shm >> 10}k"),
    ]


def _files(place: Place) -> list[dict[str, Any]]:
    names = ("hosts", "hostname", *(["resolv.conf"] if place.network is not Mode.NONE else []))
    return [_mount(f"/etc/{name}", "bind", str(place.etc / name), "bind", "rprivate") for name in names]


def _mount(destination: str, kind: str, source: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": source, "options": list(options)}


def _group(spec: Spec, place: Place) -> dict[str, Any]:
    if place.cgroup is None:
        return {}
    return {"cgroupsPath": place.cgroup, "resources": _resources(spec, place.swap) | _block_io(place.block_io)}


def _linux(spec: Spec, place: Place) -> dict[str, Any]:
    names = ["pid", *([] if place.network is Mode.HOST else ["network"]), "ipc", "uts", "mount", "cgroup"]
    linux: dict[str, Any] = {
        **_group(spec, place),
        "sysctl": {} if place.network is Mode.HOST else _sysctl(place.ids),
        "seccomp": dict(place.seccomp),
        "maskedPaths": list(MASKED_PATHS),
        "readonlyPaths": list(READONLY_PATHS),
    }
    if place.ids is not None:
        names.append("user")
        mappings = [{"containerID": inside, "hostID": id, "size": count} for inside, id, count in place.ids.ranges]
        linux |= {"uidMappings": mappings, "gidMappings": mappings}
    known = {name: {"path": str(path)} for name, path in place.namespaces.items()}
    return linux | {"namespaces": [{"type": name, **known.get(name, {})} for name in names]}


def _resources(spec: Spec, swap: bool) -> dict[str, Any]:
    devices: list[dict[str, Any]] = [{"allow": False, "access": "rwm"}]
    devices += [_device(*device) for device in _DEVICES]
    resources: dict[str, Any] = {"devices": devices}
    if spec.cpus is not None:
        resources["cpu"] = {"quota": max(1000, round(spec.cpus * _CPU_PERIOD)), "period": _CPU_PERIOD}
    if spec.mem_limit is not None:
        both = spec.mem_limit if spec.memswap_limit is None else spec.memswap_limit
        resources["memory"] = {"limit": spec.mem_limit} | ({"swap": both} if swap else {})
    if spec.pids_limit is not None:
        resources["pids"] = {"limit": spec.pids_limit}
    return resources


def _block_io(found: BlockIo | None) -> dict[str, Any]:
    if found is None:
        return {}
    rates = {
        "throttleReadBpsDevice": found.read_bps,
        "throttleWriteBpsDevice": found.write_bps,
        "throttleReadIOPSDevice": found.read_iops,
        "throttleWriteIOPSDevice": found.write_iops,
    }
    limits: dict[str, Any] = {name: [_of_device(each, "rate") for each in rate] for name, rate in rates.items() if rate}
    if found.weight is not None:
        limits["weight"] = found.weight
    if found.weights:
        limits["weightDevice"] = [_of_device(each, "weight") for each in found.weights]
    return {"blockIO": limits} if limits else {}


def _of_device(each: Device, key: str) -> dict[str, int]:
    return {"major": each.major, "minor": each.minor, key: each.value}


def _device(kind: str, major: int | None, minor: int | None, access: str) -> dict[str, Any]:
    numbers = {"major": major, "minor": minor}
    return {"allow": True, "type": kind, "access": access} | {k: n for k, n in numbers.items() if n is not None}


def _sysctl(ids: IdMap | None) -> dict[str, str]:
    """What Docker sets in a network namespace of its own: low ports and ping for everybody in it."""
    last = 2147483647 if ids is None else ids.size - 1
    return {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": f"0 {last}"}


def files(hostname: str) -> Sequence[tuple[str, str]]:
    """The files of `Place.etc`: name and content."""
    return (("hosts", hosts(hostname)), ("hostname", f"{hostname}\n"))
