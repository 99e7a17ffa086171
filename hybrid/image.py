"""An image: an immutable root filesystem and its OCI config, named by digest; and the command made of it.

`Image` says what the store keeps, `Process` what a driver runs. Merging the two with a spec follows
Docker's rules and is done here, once, for every kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Healthcheck:
    """How to tell that an instance is ready. Durations in seconds."""

    test: tuple[str, ...]
    """The command and its arguments, executed inside the instance; 0 means healthy."""
    interval: float = 30.0
    timeout: float = 30.0
    retries: int = 3
    start_period: float = 0.0
    start_interval: float = 0.1
    """Between the end of one probe and the start of the next, until the first has passed."""


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """The parts of an OCI image config that say how to run it."""

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    working_dir: str = "/"
    user: str = ""
    stop_signal: str = "SIGTERM"
    healthcheck: Healthcheck | None = None
    exposed_ports: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    architecture: str = "amd64"
    os: str = "linux"
    created: str = ""


@dataclass(frozen=True, slots=True)
class Image:
    """One image in the store."""

    digest: str
    """`sha256:` and 64 hex digits of its OCI manifest."""
    directory: Path
    """The store's directory for this digest; drivers may cache what they derive in it."""
    config: ImageConfig
    names: tuple[str, ...] = ()
    source: str = ""
    tree_bytes: int = 0
    """Allocated bytes of the unpacked tree."""

    @property
    def tree(self) -> Path:
        """The unpacked root filesystem, owned as in the image. Never written to."""
        return self.directory / "rootfs"


@dataclass(frozen=True, slots=True)
class Process:
    """The command to run, with every default applied and every name resolved against the image."""

    argv: tuple[str, ...]
    executable: str
    """Absolute path, inside the image, of what argv[0] names: found in the process's own PATH."""
    env: Mapping[str, str]
    cwd: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    """Supplementary groups."""
    hostname: str
    stop_signal: int
    stop_timeout: float
    """Seconds from the stop signal to SIGKILL."""
    healthcheck: Healthcheck | None
