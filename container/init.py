"""Images whose command is an init, such as systemd: what it needs of a container beside what every command has.

As in Podman the command's name decides. Without CAP_SYS_ADMIN an init mounts nothing itself, so it finds /run,
/run/lock and /tmp mounted; and it may make control groups below its container's own, which changes none of the
limits: on v1 they are in the hierarchy without controllers, on v2 the limits are the parent's.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from hybrid import cgroups
from hybrid.errors import HostError

if TYPE_CHECKING:
    from container.mounts import IdMap
    from hybrid.image import Process

_PROGRAMS = ("/sbin/init", "/usr/sbin/init", "/usr/local/sbin/init")
_DELEGATED = ("", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control", "tasks")
_NAMED = "name=systemd"


def is_init(process: Process) -> bool:
    """Whether the command is an init, and means to be one."""
    return process.executable in _PROGRAMS or PurePosixPath(process.executable).name == "systemd"


def check(tree: cgroups.Tree) -> None:
    """HostError when no init can have control groups of its own here."""
    if tree.unified is None and _NAMED not in tree.v1:
        raise HostError(
            "an init needs control groups of its own, and this host has neither cgroup v2 nor v1's name=systemd",
            mend="mkdir /sys/fs/cgroup/systemd && mount -t cgroup -o none,name=systemd none /sys/fs/cgroup/systemd",
        )


def with_init(mounts: list[dict[str, Any]], cgroup: cgroups.Cgroup) -> list[dict[str, Any]]:
    """A container's mounts, with those that an init needs."""
    if cgroup.tree.unified is not None:
        mounts = [_writable(mount) if mount["type"] == "cgroup" else mount for mount in mounts]
    else:
        own = str(cgroup.tree.v1[_NAMED] / cgroup.path[1:])
        options = ["bind", "rw", "nosuid", "noexec", "nodev"]
        at = next(number for number, mount in enumerate(mounts) if mount["type"] == "cgroup") + 1
        named = {"destination": "/sys/fs/cgroup/systemd", "type": "bind", "source": own, "options": options}
        mounts = [*mounts[:at], named, *mounts[at:]]
    return [*mounts, _tmpfs("/run", "755"), _tmpfs("/run/lock", "1777"), _tmpfs("/tmp", "1777")]


def _writable(mount: dict[str, Any]) -> dict[str, Any]:
    return mount | {"options": [option for option in mount["options"] if option != "ro"]}


def _tmpfs(destination: str, mode: str) -> dict[str, Any]:
    options = ["nosuid", "nodev", f"mode={mode}"]
    return {"destination": destination, "type": "tmpfs", "source": "tmpfs", "options": options}


def delegate(cgroup: cgroups.Cgroup, ids: IdMap | None) -> None:
    """Make the group, where the runtime does not do this itself, and give it to the container's root."""
    if cgroup.tree.unified is not None:
        return  # an OCI runtime gives it to whom it is mounted writable for
    own = cgroup.tree.v1[_NAMED] / cgroup.path[1:]
    own.mkdir(exist_ok=True)
    for name in _DELEGATED if ids is not None else ():
        path: Path = own / name
        if path.exists() and ids is not None:
            os.chown(path, ids.base, ids.base)
