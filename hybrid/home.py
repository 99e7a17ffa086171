"""Where hybrid keeps its files."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


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


def default_home() -> Home:
    """The home of this user: `HYBRID_HOME`, else the system's place for root, else the user's own."""
    uid = os.getuid()
    run = Path("/run/hybrid") if uid == 0 else Path(os.environ.get("XDG_RUNTIME_DIR", f"/tmp/hybrid-{uid}")) / "hybrid"
    if given := os.environ.get("HYBRID_HOME"):
        return Home(Path(given).absolute(), run)
    if uid == 0:
        return Home(Path("/var/lib/hybrid"), run)
    data = Path(os.environ.get("XDG_DATA_HOME", Path.home() / ".local/share"))
    return Home(data / "hybrid", run)
