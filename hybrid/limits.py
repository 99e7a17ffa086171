"""The limits of a spec that the kernel puts on single processes or on devices, made ready for a kind.

Bounds on CPU, memory and processes are the control group's: hybrid/cgroups.py.
"""

from __future__ import annotations

import os
import resource
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hybrid.defaults import OPEN_FILES
from hybrid.errors import HostError
from hybrid.home import ordinary_user

if TYPE_CHECKING:
    from hybrid.spec import Spec

INFINITY = (1 << 64) - 1
"""RLIM_INFINITY as the kernel has it; resource.RLIM_INFINITY is -1."""
_CAP_SYS_RESOURCE = 24
_LOCKS = 10
"""RLIMIT_LOCKS, which Python does not name and Linux does not enforce any more."""


@dataclass(frozen=True, slots=True)
class Device:
    """A block device by its numbers, and a rate (bytes or operations a second) or a weight."""

    major: int
    minor: int
    value: int


@dataclass(frozen=True, slots=True)
class BlockIo:
    """`blkio_config` with its devices found."""

    weight: int | None = None
    weights: tuple[Device, ...] = ()
    read_bps: tuple[Device, ...] = ()
    write_bps: tuple[Device, ...] = ()
    read_iops: tuple[Device, ...] = ()
    write_iops: tuple[Device, ...] = ()


def rlimits(spec: Spec) -> dict[str, tuple[int, int]]:
    """Soft and hard resource limits by name, INFINITY for none. Open files are always among them."""
    given = {name: (_number(limit.soft), _number(limit.hard)) for name, limit in spec.ulimits.items()}
    return {"nofile": OPEN_FILES, **given}


def here(spec: Spec) -> dict[str, tuple[int, int]]:
    """The same for processes of this host: HostError when this process may not give a limit that the spec asks for.

    The default for open files is cut down to what it may give.
    """
    found = rlimits(spec)
    if not _may_raise():
        for name, (soft, hard) in found.items():
            allowed = _number(resource.getrlimit(number(name))[1])
            if name not in spec.ulimits:
                found[name] = min(soft, allowed), min(hard, allowed)
            elif hard > allowed:
                raise HostError(
                    f"this host lets hybrid raise {name} to {allowed} at most, and the spec asks for {_shown(hard)}",
                    where=f"ulimits.{name}",
                    mend="run hybrid with CAP_SYS_RESOURCE, raise its own limit (ulimit -H), or ask for less",
                )
    return found


def number(name: str) -> int:
    """The number of a resource limit, RLIMIT_… of setrlimit(2) on this architecture."""
    return _LOCKS if name == "locks" else int(getattr(resource, f"RLIMIT_{name.upper()}"))


def block_io(spec: Spec) -> BlockIo | None:
    """The spec's block I/O limits; HostError when a device is none."""
    if (given := spec.blkio_config) is None:
        return None
    found = {
        name: tuple(_device(rate.path, rate.rate) for rate in getattr(given, f"device_{name}"))
        for name in ("read_bps", "write_bps", "read_iops", "write_iops")
    }
    return BlockIo(given.weight, tuple(_device(each.path, each.weight) for each in given.weight_device), **found)


def of_disk(found: BlockIo | None, path: Path) -> Mapping[str, int]:
    """The rates (`read_bps` …) that hold for a file: those of its device, or of the disk that this is a part of."""
    if found is None:
        return {}
    devices = _disks(path.stat().st_dev)
    rates = {}
    for name in ("read_bps", "write_bps", "read_iops", "write_iops"):
        fitting = [each.value for each in getattr(found, name) if (each.major, each.minor) in devices]
        if fitting:
            rates[name] = min(fitting)
    return rates


def _disks(device: int) -> set[tuple[int, int]]:
    """A block device and the disk that it is a part of."""
    numbers = {(os.major(device), os.minor(device))}
    parent = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve().parent / "dev"
    if parent.exists():
        major, _, minor = parent.read_text().strip().partition(":")
        numbers.add((int(major), int(minor)))
    return numbers


def _device(path: str, value: int) -> Device:
    try:
        status = Path(path).stat()
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}", where="blkio_config", mend="name a disk of this host") from None
    if not stat.S_ISBLK(status.st_mode):
        raise HostError(f"{path} is no block device", where="blkio_config", mend="lsblk lists them")
    return Device(os.major(status.st_rdev), os.minor(status.st_rdev), value)


def _may_raise() -> bool:
    """Whether this process may raise its hard limits."""
    status = Path("/proc/self/status").read_text()
    held = next((int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff:")), 0)
    return bool(held >> _CAP_SYS_RESOURCE & 1) and ordinary_user() is None  # of a user namespace it is not enough


def _number(limit: int) -> int:
    return INFINITY if limit < 0 else limit


def _shown(limit: int) -> str:
    return "no limit" if limit == INFINITY else str(limit)
