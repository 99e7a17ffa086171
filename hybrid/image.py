"""An image: an immutable root filesystem and its OCI config, named by digest; and the command made of it.

`Image` says what the store keeps, `Process` what a driver runs. Merging the two with a spec follows
Docker's rules and is done here, once, for every kind.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from hybrid import accounts, executable, tree
from hybrid.errors import CommandError, ImageError
from hybrid.units import parse_signal

if TYPE_CHECKING:
    from hybrid.spec import Spec


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


DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def merge(spec: Spec, image: Image, command: Sequence[str], name: str) -> Process:
    """What to run: the image's config, the spec over it, and `command` over both, by Docker's rules.

    `name` is the instance's and serves as host name. CommandError (126, 127) when the command cannot be
    executed, ImageError when the image cannot be run as the spec says. A `cwd` that the tree does not
    have is for the driver to make, owned by root, as Docker does.
    """
    config = image.config
    account = accounts.lookup(image.tree, config.user if spec.user is None else spec.user)
    hostname = spec.hostname or name
    env = {"PATH": DEFAULT_PATH, "HOSTNAME": hostname, "HOME": account.home, **config.env, **spec.environment}
    argv = _argv(spec, config, command)
    cwd = _cwd(image, spec.working_dir or config.working_dir or "/")
    groups = (account.gid, *account.groups)
    return Process(
        argv=argv,
        executable=executable.find(image.tree, argv[0], env["PATH"], cwd, account.uid, groups),
        env=env,
        cwd=cwd,
        uid=account.uid,
        gid=account.gid,
        groups=account.groups,
        hostname=hostname,
        stop_signal=_stop_signal(spec, config),
        stop_timeout=10.0 if spec.stop_grace_period is None else spec.stop_grace_period,
        healthcheck=config.healthcheck if spec.healthcheck is None else spec.healthcheck.resolve(config.healthcheck),
    )


def _argv(spec: Spec, config: ImageConfig, command: Sequence[str]) -> tuple[str, ...]:
    """Entrypoint and command in one; an entrypoint of the spec's own drops the image's command."""
    entrypoint, cmd = config.entrypoint, config.cmd
    if spec.entrypoint is not None:
        entrypoint, cmd = spec.entrypoint, ()
    if spec.command is not None:
        cmd = spec.command
    argv = (*entrypoint, *(command or cmd))
    if not argv:
        raise ImageError(
            "no command to run: neither the spec nor the image gives one",
            mend="add `command:` to the spec, or give one: hybrid run … -- COMMAND",
        )
    if not argv[0] or any("\0" in word for word in argv):
        raise CommandError(f"{argv[0]!r} is no command", exit_code=127, mend="name a program")
    return argv


def _cwd(image: Image, path: str) -> str:
    path = "/" + str(PurePosixPath("/", path)).lstrip("/")
    try:
        fits = stat.S_ISDIR(tree.status(image.tree, path).st_mode)
    except FileNotFoundError:
        fits = True
    except OSError:
        fits = False
    if not fits:
        raise ImageError(f"the working directory {path} is not a directory in the image", mend="choose another")
    return path


def _stop_signal(spec: Spec, config: ImageConfig) -> int:
    if spec.stop_signal is not None:
        return spec.stop_signal
    try:
        return parse_signal(config.stop_signal or "SIGTERM")
    except ValueError as error:
        raise ImageError(f"the image's stop signal: {error}", mend="give `stop_signal:` in the spec") from None
