"""Which accelerator a stock guest can really be booted with here: decided from evidence, never hoped."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

KVM_GET_API_VERSION = 0xAE00
KVM_API_VERSION = 12


@dataclass(frozen=True, slots=True)
class Accelerator:
    """`domain_type` is libvirt's name for it; `why` says why KVM is not used, empty when it is."""

    domain_type: str
    why: str = ""

    @property
    def name(self) -> str:
        return "kvm" if self.domain_type == "kvm" else "tcg"


def detect(device: Path = Path("/dev/kvm"), cpuinfo: Path = Path("/proc/cpuinfo")) -> Accelerator:
    """KVM when the device answers *and* the CPU shows vmx or svm, else TCG.

    A para-virtual KVM without hardware virtualisation opens, answers, and hangs a stock guest.
    """
    try:
        descriptor = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        return Accelerator("qemu", f"{device}: {error.strerror}")
    try:
        version = fcntl.ioctl(descriptor, KVM_GET_API_VERSION)
    except OSError as error:
        return Accelerator("qemu", f"{device}: {error.strerror}")
    finally:
        os.close(descriptor)
    if version != KVM_API_VERSION:
        return Accelerator("qemu", f"{device} speaks KVM's interface version {version}, not {KVM_API_VERSION}")
    if not has_hardware_virtualisation(cpuinfo):
        return Accelerator("qemu", f"{device} opens, but the CPU shows neither vmx nor svm")
    return Accelerator("kvm")


def has_hardware_virtualisation(cpuinfo: Path) -> bool:
    """Whether the first CPU's flags hold vmx (Intel) or svm (AMD)."""
    for line in cpuinfo.read_text(errors="replace").splitlines():
        if line.startswith("flags"):
            return not {"vmx", "svm"}.isdisjoint(line.split())
    return False
