"""What of the host a guest is shown: one virtiofsd a VM, over a directory that only its own mount namespace has.

The directory holds each source under its number, read-only where the spec says so, which no guest can lift;
around them is an empty file system that nobody can write to. One process serves them all, confined by its own
sandbox (namespaces, pivot_root, seccomp), in the instance's control group. It ends when QEMU hangs up.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Sequence
from pathlib import Path

from hybrid import process
from hybrid.cgroups import Cgroup
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
    private,
)
from hybrid.volumes import Mount

MODULES = ("virtiofs",)
_DESCRIPTIONS = (Path("/etc/qemu/vhost-user"), Path("/usr/share/qemu/vhost-user"))
"""Where distributions say which program serves what, as QEMU's docs/interop/vhost-user.json has it."""
_ELSEWHERE = (Path("/usr/libexec/virtiofsd"), Path("/usr/lib/qemu/virtiofsd"), Path("/usr/lib/virtiofsd"))


def shared(mounts: Sequence[Mount]) -> list[tuple[int, Mount]]:
    """Those that the host shares, by their number; a path in the instance's directory is the guest's own."""
    return [(number, each) for number, each in enumerate(mounts) if each.source and not each.is_anonymous]


def find() -> Path:
    """virtiofsd; HostError when there is none."""
    for directory in _DESCRIPTIONS:
        for path in sorted(directory.glob("*.json")):
            described = json.loads(path.read_bytes())
            if described.get("type") == "fs" and os.access(described["binary"], os.X_OK):
                return Path(described["binary"])
    for path in _ELSEWHERE:
        if os.access(path, os.X_OK):
            return path
    raise HostError(
        "volumes of a VM need virtiofsd, which is not installed",
        where="volumes",
        mend="apt-get install virtiofsd, or qemu-system-common on Debian 12; or run it as a container",
    )


def arguments(program: Path, descriptor: int, directory: Path) -> list[str]:
    """virtiofsd's command line. Names and attributes are asked for each time: the host and others write there too."""
    options = ("cache=auto", "timeout=0", "xattr", "announce_submounts", "sandbox=namespace")
    given = [word for option in options for word in ("-o", option)]
    return [str(program), f"--fd={descriptor}", "--rlimit-nofile=0", *given, "-o", f"source={directory}"]


def serve(directory: Path, path: Path, id: str, mounts: Sequence[Mount], owner: int) -> None:
    """Start serving an instance's shares at a socket that `owner` (QEMU's user) may connect to.

    `directory` is the instance's. What is started is in its control group, ends with its QEMU, and is reaped.
    """
    program, place = find(), directory / "share"
    place.mkdir(exist_ok=True, mode=0o700)
    group = Cgroup(id)
    group.create()
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener, (directory / "virtiofsd.log").open("wb") as log:
        listener.bind(str(path))
        path.chmod(0o600)
        os.chown(path, owner, -1)
        listener.listen(1)

        def launch() -> process.Child:
            _show(place, mounts)
            return process.launch(
                arguments(program, listener.fileno(), place),
                stdout=log,
                stderr=log,
                pass_fds=[listener.fileno()],
                setup=lambda: group.add(0),
                new_session=True,
            )

        child = private(launch)
    threading.Thread(target=process.reap, args=(child,), daemon=True, name="virtiofsd-reaper").start()


def _show(place: Path, mounts: Sequence[Mount]) -> None:
    """Mount the sources at their numbers, in this thread's namespace."""
    mount("tmpfs", place, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=755,size=64k")
    with closing(open_directory(place)) as top:
        for number, each in shared(mounts):
            assert each.source is not None
            with (
                closing(point_in(top, str(number), directory=each.is_directory)) as point,
                closing(clone(Path(each.source), read_only=each.read_only)) as tree,
            ):
                attach(tree, point)
    mount("none", place, None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC)
