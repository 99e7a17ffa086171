"""Freezing a control group: none of its processes runs until it is thawed."""

from __future__ import annotations

import contextlib
import select
import time
from pathlib import Path

from hybrid.cgroups import Cgroup
from hybrid.errors import HostError

_PATIENCE = 10.0
"""Seconds after which a process that does not stop hangs in the kernel."""


def freeze(group: Cgroup) -> None:
    """Return once all processes of the group stand still; HostError when they do not, and then they run on."""
    if not _set(group, frozen=True):
        _set(group, frozen=False)
        raise HostError("the kernel does not freeze the instance's processes", mend="see dmesg; try again")


def thaw(group: Cgroup) -> None:
    """Let the processes of the group run on. Nothing happens when they do, or when there is no group."""
    _set(group, frozen=False)


def is_frozen(group: Cgroup) -> bool:
    """Whether the group's processes stand still, or are about to."""
    unified = _unified(group)
    path = unified / "cgroup.freeze" if unified else _state(group)
    with contextlib.suppress(OSError):
        return path is not None and path.read_text().strip() not in ("0", "THAWED")
    return False


def _unified(group: Cgroup) -> Path | None:
    return group.tree.unified / group.path[1:] if group.tree.unified else None


def _state(group: Cgroup) -> Path | None:
    root = group.tree.v1.get("freezer")
    return root / group.path[1:] / "freezer.state" if root else None


def _set(group: Cgroup, *, frozen: bool) -> bool:
    """Whether it came to be so in time."""
    unified = _unified(group)
    try:
        return _set_unified(unified, frozen) if unified else _set_v1(group, frozen)
    except FileNotFoundError:
        return not frozen
    except OSError as error:
        raise HostError(f"the control group cannot be frozen: {error.strerror}", mend="run as root") from None


def _set_unified(directory: Path, frozen: bool) -> bool:
    with (directory / "cgroup.events").open() as events:
        (directory / "cgroup.freeze").write_text("1" if frozen else "0")
        poller = select.poll()
        poller.register(events, select.POLLPRI)
        deadline = time.monotonic() + _PATIENCE
        while f"frozen {int(frozen)}" not in events.read().splitlines():
            if time.monotonic() > deadline:
                return False
            poller.poll(1000)
            events.seek(0)
    return True


def _set_v1(group: Cgroup, frozen: bool) -> bool:
    """v1 tells nobody when it is done: hence the retries, each of which reads the state and so moves it on."""
    path, wanted = _state(group), "FROZEN" if frozen else "THAWED"
    if path is None and not frozen:
        return True
    if path is None and not group.tree.usable:
        from hybrid import delegation

        missing = delegation.missing("no instance can be paused")
        raise HostError(missing.what, mend=missing.mend)
    if path is None:
        raise HostError("the host has no freezer for control groups", mend="mount the v1 hierarchy `freezer`")
    path.write_text(wanted)
    deadline = time.monotonic() + _PATIENCE
    while path.read_text().strip() != wanted:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
        path.write_text(wanted)
    return True
