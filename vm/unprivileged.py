"""What libvirt's QEMU driver needs to run for an ordinary user, who is root of a user namespace (hybrid.rootless).

It takes the process for root's. So it wants a directory below /run, which only root can make, and would give
QEMU to another user. It finds the first in a mount namespace of this process and of what it starts; and QEMU
stays what this process is: on the host the user itself, with the user's groups, so that the group `kvm` counts.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from hybrid.mounts import CLONE_NEWNS, MS_MOVE, MS_REC, MS_SLAVE, attach, check, clone, closing, mount

_PR_SET_SECUREBITS, _NOROOT_LOCKED = 28, 0b11
_RUN, _STAGE = Path("/run"), Path("/tmp")
_STATE = "libvirt"
AS_WE_ARE = "+4294967295"
"""The id -1: setresuid(2) and chown(2) change nothing, and libvirt does not touch the groups."""

_libc = ctypes.CDLL(None, use_errno=True)


def qemu_conf() -> str:
    """libvirt's qemu.conf: QEMU as this process, nothing given away, no device nodes made."""
    lines = (
        'stdio_handler = "file"',
        'security_driver = "none"',
        "cgroup_controllers = [ ]",
        "namespaces = [ ]",
        "hugetlbfs_mount = [ ]",
        f'user = "{AS_WE_ARE}"',
        f'group = "{AS_WE_ARE}"',
        "dynamic_ownership = 0",
        "remember_owner = 0",
    )
    return "".join(f"{line}\n" for line in lines)


def own_run() -> None:
    """Give this thread, and threads and programs that it starts, a /run with an empty /run/libvirt of its own.

    All else in /run stays what it is. The new one is put together over /tmp, which is as before when it is moved.
    """
    check(_libc.unshare(CLONE_NEWNS), "unshare(CLONE_NEWNS)")
    mount("none", "/", None, MS_REC | MS_SLAVE)
    if (_RUN / _STATE).is_dir():
        mount("none", _RUN / _STATE, "tmpfs", 0, "mode=755")
        return
    mount("none", _STAGE, "tmpfs", 0, "mode=755")
    for entry in os.scandir(_RUN):
        _show(entry, _STAGE / entry.name)
    (_STAGE / _STATE).mkdir()
    mount(_STAGE, _RUN, None, MS_MOVE)


def keep_no_capabilities() -> None:
    """Let programs that this thread starts from now on have no capability, though they are root of the namespace."""
    check(_libc.prctl(_PR_SET_SECUREBITS, _NOROOT_LOCKED, 0, 0, 0), "prctl(PR_SET_SECUREBITS)")


def _show(entry: os.DirEntry[str], target: Path) -> None:
    if entry.is_symlink():
        target.symlink_to(Path(entry.path).readlink())
        return
    if entry.is_dir(follow_symlinks=False):
        target.mkdir()
    else:
        target.touch()
    with closing(clone(Path(entry.path))) as tree:
        attach(tree, target)
