"""The OCI runtime configuration of a container: what Docker gives one by default, with a user namespace.

One pure function, tested against golden files. It differs from `docker run --network none` on purpose
in three things: a user namespace, no_new_privs, and /etc/hostname and /etc/hosts of our own making.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from container.mounts import IdMap
from hybrid.defaults import hosts

if TYPE_CHECKING:
    from hybrid.image import Process
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
    cgroup: str
    """Its cgroup, absolute, in every hierarchy."""
    ids: IdMap | None
    """Its user namespace; None shares the host's ids."""
    open_files: tuple[int, int]
    """Soft and hard limit of open files."""
    swap: bool
    """Whether the host's cgroups can limit swap."""
    seccomp: Mapping[str, Any]
    """linux.seccomp of the OCI runtime specification."""
    compiled: bytes = b""
    """The same as a filter program, where the runtime has compiled it before."""


def runtime_config(spec: Spec, process: Process, place: Place) -> dict[str, Any]:
    """config.json for a container that runs `process` with the resources of `spec` in `place`."""
    return {
        "ociVersion": "1.0.2",
        "process": _process(process, place),
        "root": {"path": str(place.root), "readonly": False},
        "hostname": process.hostname,
        "mounts": [*_system_mounts(), *_files(place.etc)],
        "linux": _linux(spec, place),
        **_annotations(place.compiled),
    }


def _annotations(compiled: bytes) -> dict[str, Any]:
    """crun's own word for a filter that need not be compiled; the rules stay for those that do not know it."""
    return {"annotations": {"run.oci.seccomp_bpf_data": base64.b64encode(compiled).decode()}} if compiled else {}


def _process(process: Process, place: Place) -> dict[str, Any]:
    held = list(CAPABILITIES) if process.uid == 0 else []
    soft, hard = place.open_files
    return {
        "terminal": False,
        "user": {
            "uid": process.uid,
            "gid": process.gid,
            "umask": 0o022,
            "additionalGids": list(process.groups),
        },
        "args": list(process.argv),
        "env": environment(process.env),
        "cwd": process.cwd,
        "capabilities": {"bounding": list(CAPABILITIES), "effective": held, "permitted": held},
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": hard, "soft": soft}],
        "noNewPrivileges": True,
    }


def environment(env: Mapping[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in env.items()]


def _system_mounts() -> list[dict[str, Any]]:
    safe = ("nosuid", "noexec", "nodev")
    return [
        _mount("/proc", "proc", "proc", *safe),
        _mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        _mount(
            "/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"
        ),
        _mount("/sys", "sysfs", "sysfs", *safe, "ro"),
        _mount("/sys/fs/cgroup", "cgroup", "cgroup", *safe, "ro"),
        _mount("/dev/mqueue", "mqueue", "mqueue", *safe),
        _mount("/dev/shm", "tmpfs", "shm", *safe, "mode=1777", "size=65536k"),
    ]


def _files(etc: Path) -> list[dict[str, Any]]:
    return [_mount(f"/etc/{name}", "bind", str(etc / name), "bind", "rprivate") for name in ("hosts", "hostname")]


def _mount(destination: str, kind: str, source: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": source, "options": list(options)}


def _linux(spec: Spec, place: Place) -> dict[str, Any]:
    names = ["pid", "network", "ipc", "uts", "mount", "cgroup"]
    linux: dict[str, Any] = {
        "cgroupsPath": place.cgroup,
        "resources": _resources(spec, place.swap),
        "sysctl": _sysctl(place.ids),
        "seccomp": dict(place.seccomp),
        "maskedPaths": list(MASKED_PATHS),
        "readonlyPaths": list(READONLY_PATHS),
    }
    if place.ids is not None:
        names.append("user")
        mapping = {"containerID": 0, "hostID": place.ids.base, "size": place.ids.size}
        linux |= {"uidMappings": [mapping], "gidMappings": [mapping]}
    return linux | {"namespaces": [{"type": name} for name in names]}


def _resources(spec: Spec, swap: bool) -> dict[str, Any]:
    devices: list[dict[str, Any]] = [{"allow": False, "access": "rwm"}]
    devices += [_device(*device) for device in _DEVICES]
    resources: dict[str, Any] = {"devices": devices}
    if spec.cpus is not None:
        resources["cpu"] = {"quota": max(1000, round(spec.cpus * _CPU_PERIOD)), "period": _CPU_PERIOD}
    if spec.mem_limit is not None:
        resources["memory"] = {"limit": spec.mem_limit} | ({"swap": spec.mem_limit} if swap else {})
    if spec.pids_limit is not None:
        resources["pids"] = {"limit": spec.pids_limit}
    return resources


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
