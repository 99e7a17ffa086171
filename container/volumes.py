"""What a spec mounts, in the kinds whose kernel is the host's.

A container sees each source through its user namespace's ids, by an id-mapped mount: what belongs to 1000
there belongs to 1000 on disk, as it does for a VM. The mounts are made in the instance's private mount namespace,
below its directory, and the runtime binds them from there: nothing of the source's path need be open to others.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hybrid.errors import HostError
from hybrid.mounts import (
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_RDONLY,
    MS_REMOUNT,
    attach,
    clone,
    closing,
    mount,
    open_directory,
    point_in,
)
from hybrid.volumes import Mount

_FOLDER = "mounts"
_FLAGS = {"nosuid": MS_NOSUID, "nodev": MS_NODEV, "noexec": MS_NOEXEC}


def prepare(directory: Path, mounts: Sequence[Mount]) -> None:
    """Make the places in an instance's directory where `show` puts its mounts."""
    for number, each in enumerate(mounts):
        if each.source is not None:
            place = directory / _FOLDER / str(number)
            place.parent.mkdir(exist_ok=True, mode=0o711)
            if each.is_directory:
                place.mkdir()
            else:
                place.touch()


def show(directory: Path, mounts: Sequence[Mount], userns: int | None) -> None:
    """Mount each source at its place, in this thread's namespace; `userns` maps the owners."""
    for number, each in enumerate(mounts):
        if each.source is not None:
            with closing(_clone(each, userns)) as tree:
                attach(tree, directory / _FOLDER / str(number))


def entries(directory: Path, mounts: Sequence[Mount]) -> list[dict[str, Any]]:
    """The same as `mounts` of config.json, once `show` has made them; tmpfs too."""
    return [_entry(directory / _FOLDER / str(number), each) for number, each in enumerate(mounts)]


def _entry(place: Path, each: Mount) -> dict[str, Any]:
    access = ["ro"] if each.read_only else []
    if each.source is None:
        return {"destination": each.target, "type": "tmpfs", "source": "tmpfs", "options": [*each.options, *access]}
    options = ["rbind", "rprivate", *access]
    return {"destination": each.target, "type": "bind", "source": str(place), "options": options}


def mount_in(root: Path, mounts: Sequence[Mount], *, read_only: bool, userns: int | None = None) -> None:
    """Mount all below a root directory of this thread's namespace; links lead out of it nowhere."""
    with closing(open_directory(root)) as top:
        for each in mounts:
            with closing(point_in(top, each.target, directory=each.is_directory)) as point:
                if each.source is not None:
                    with closing(_clone(each, userns)) as tree:
                        attach(tree, point)
                else:
                    _mount_tmpfs(point, each)
    if read_only:
        mount("none", root, None, MS_REMOUNT | MS_BIND | MS_RDONLY)


def _mount_tmpfs(point: int, each: Mount) -> None:
    flags = MS_RDONLY if each.read_only else 0
    for option in each.options:
        flags |= _FLAGS.get(option, 0)
    data = ",".join(option for option in each.options if option not in _FLAGS)
    mount("tmpfs", f"/proc/self/fd/{point}", "tmpfs", flags, data)


def _clone(each: Mount, userns: int | None) -> int:
    assert each.source is not None
    try:
        return clone(Path(each.source), userns=userns, read_only=each.read_only)
    except OSError as error:
        if userns is None or error.errno not in (errno.EINVAL, errno.EPERM, errno.EOPNOTSUPP):
            raise HostError(
                f"{each.source} cannot be mounted: {os.strerror(error.errno or 0)}", mend="see dmesg"
            ) from None
        raise HostError(
            f"a file system at {each.source} cannot be mounted with a container's own ids: the kernel cannot map them",
            where=f"volumes: {each.target}",
            mend="use one on ext4, xfs or btrfs, or set `container: {userns: false}`, or run it as a vm",
        ) from None
