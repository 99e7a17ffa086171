"""The machine that measures: what it is, and how busy it was."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Load:
    """How busy the machine is at one moment."""

    at: float
    """Seconds since the epoch."""
    average: float
    """The kernel's load average over one minute."""
    stolen: float
    """CPU seconds that the hypervisor below withheld, since boot, over all CPUs."""
    busy: float
    """CPU seconds spent on work, since boot, over all CPUs."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What a reader must know of the machine to judge its figures."""

    cpu: str
    cores: int
    """Those that this process may use."""
    memory_bytes: int
    kernel: str
    os_name: str
    boot_id: str
    virtual: str
    """What shows that this machine is itself virtual; empty when nothing does."""
    governor: str
    """The CPU frequency governor; empty when the kernel manages none."""
    cgroups: str
    """`v2`, `v1-hybrid`, `v1` or `none`."""
    namespaces: Mapping[str, str]
    """This process's namespaces: name to link, to hold an instance's against."""
    capabilities: int
    """The capabilities that this kernel has, as a bit mask."""
    python: str
    hybrid: str


def describe() -> Machine:
    """The machine as it is now."""
    from hybrid import __version__

    return Machine(
        cpu=_cpu_model(),
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        kernel=platform.release(),
        os_name=_os_name(),
        boot_id=_read("/proc/sys/kernel/random/boot_id"),
        virtual=_virtual(),
        governor=_read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        cgroups=cgroup_layout(Path("/sys/fs/cgroup")),
        namespaces=namespaces(),
        capabilities=(1 << (int(_read("/proc/sys/kernel/cap_last_cap") or "40") + 1)) - 1,
        python=platform.python_version(),
        hybrid=__version__,
    )


def load() -> Load:
    """How busy the machine is now."""
    tick = os.sysconf("SC_CLK_TCK")
    fields = [int(field) / tick for field in _read("/proc/stat").split("\n", 1)[0].split()[1:9]]
    user, nice, system, _idle, _iowait, irq, softirq, stolen = fields
    return Load(time.time(), os.getloadavg()[0], stolen, user + nice + system + irq + softirq)


def namespaces() -> Mapping[str, str]:
    """This process's own namespaces, name to link."""
    folder = Path("/proc/self/ns")
    names = sorted(entry.name for entry in folder.iterdir() if not entry.name.endswith("_for_children"))
    return {name: str((folder / name).readlink()) for name in names}


def cgroup_layout(root: Path) -> str:
    """How the control groups under `root` are laid out."""
    if (root / "cgroup.controllers").exists():
        return "v2"
    if (root / "unified/cgroup.controllers").exists():
        return "v1-hybrid"
    return "v1" if (root / "memory").exists() else "none"


def _cpu_model() -> str:
    for line in _read("/proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Model", "cpu model"):
            return value.strip()
    return platform.machine()


def _virtual() -> str:
    product = " ".join(filter(None, (_read(f"/sys/class/dmi/id/{name}") for name in ("sys_vendor", "product_name"))))
    flags = next((line for line in _read("/proc/cpuinfo").splitlines() if line.startswith("flags")), "")
    if "hypervisor" in flags.split():
        return product or "the CPU's hypervisor flag"
    return ""


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        return ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:
        return ""
