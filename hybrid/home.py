"""Where hybrid keeps its files."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hybrid.errors import HostError


@dataclass(frozen=True, slots=True)
class Home:
    """The folders of one hybrid installation.

    `root` holds images, instances and caches and survives a reboot. `run` holds sockets and pid
    files; it is short, since a socket's path must stay below 108 bytes, and a reboot empties it.
    """

    root: Path
    run: Path

    @property
    def images(self) -> Path:
        return self.root / "images"

    @property
    def instances(self) -> Path:
        return self.root / "instances"

    @property
    def cache(self) -> Path:
        return self.root / "cache"


_LONGEST = 30
"""Bytes of a path below which a socket's path, of which libvirt makes long ones, stays below 108."""
USER = "_HYBRID_USER"
"""In the environment of a command that `hybrid.rootless` made root of a user namespace: the uid that it had before."""


def ordinary_user() -> int | None:
    """The uid of the ordinary user who gave the command; None when that is root."""
    if os.geteuid() != 0:
        return os.geteuid()
    given = os.environ.get(USER, "")
    if not given.isdecimal() or Path("/proc/self/uid_map").read_text().split() == ["0", "0", "4294967295"]:
        return None
    return int(given)


def default_home() -> Home:
    """The home of this user: `HYBRID_HOME`, else the system's place for root, else the user's own."""
    user = ordinary_user()
    run = Path("/run/hybrid") if user is None else session_directory(user) / "hybrid"
    if user is not None:
        check_own(run.parent)
        check_own(run)
    if given := os.environ.get("HYBRID_HOME"):
        return Home(Path(given).absolute(), run)
    if user is None:
        return Home(Path("/var/lib/hybrid"), run)
    data = Path(os.environ.get("XDG_DATA_HOME", Path.home() / ".local/share"))
    return Home(data / "hybrid", run)


def session_directory(uid: int) -> Path:
    """Where an ordinary user's sockets and pid files are: XDG_RUNTIME_DIR, or our own in its place."""
    with suppress(KeyError, OSError):
        session = Path(os.environ["XDG_RUNTIME_DIR"])
        fits = session.is_absolute() and len(os.fsencode(session)) <= _LONGEST
        if fits and session.stat().st_uid == os.geteuid():
            return session
    return Path(f"/tmp/hybrid-{uid}")


def check_own(path: Path) -> None:
    """HostError when there is something that is not a directory of this user alone: another could have put it there."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise HostError(
            f"{path} is not a directory that only this user can use",
            mend=f"rm -r {path} (as root, if it is another user's), or set XDG_RUNTIME_DIR to a directory of yours",
        )
