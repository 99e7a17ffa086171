"""The spec that names an image and says little else, as a plain object.

`hybrid.spec.for_image` reads the same from `image: NAME`. But its library takes longer to be imported than a
container takes to start, and here there is hardly anything to validate. A test holds the two together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybrid.errors import HybridError, SpecError
from hybrid.images import reference

if TYPE_CHECKING:
    from hybrid.specoptions import Option


@dataclass(frozen=True)
class VmDefaults:
    """See `hybrid.spec.VmOptions`."""

    kernel: None = None


@dataclass(frozen=True)
class ContainerDefaults:
    """See `hybrid.spec.ContainerOptions`."""

    runtime: None = None
    userns: bool = True


@dataclass(frozen=True)
class ImageSpec:
    """It has all that a `hybrid.spec.Spec` has."""

    image: str
    build: None = None
    pull_policy: None = None
    platform: None = None
    command: None = None
    entrypoint: None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    working_dir: None = None
    user: None = None
    hostname: None = None
    cpus: None = None
    mem_limit: None = None
    pids_limit: None = None
    memswap_limit: None = None
    oom_score_adj: None = None
    ulimits: Mapping[str, Any] = field(default_factory=dict)
    blkio_config: None = None
    volumes: tuple[()] = ()
    tmpfs: tuple[()] = ()
    read_only: bool = False
    shm_size: None = None
    stop_signal: None = None
    stop_grace_period: None = None
    healthcheck: None = None
    restart: None = None
    tty: bool = False
    stdin_open: bool = False
    network_mode: str | None = None
    networks: Mapping[str, Any] = field(default_factory=dict)
    ports: tuple[()] = ()
    dns: tuple[()] = ()
    extra_hosts: tuple[()] = ()
    isolation: None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    vm: VmDefaults = field(default_factory=VmDefaults)
    container: ContainerDefaults = field(default_factory=ContainerDefaults)
    made_of: None = None
    source: Path | None = None

    def saved(self) -> dict[str, Any]:
        said = {name: getattr(self, name) for name in _SIMPLE}
        return {"image": self.image} | {name: value for name, value in said.items() if value}

    def where(self, key: str) -> str:
        return ""


_SIMPLE: Mapping[str, tuple[object, ...]] = {
    "tty": (True,),
    "stdin_open": (True,),
    "network_mode": ("none", "host", "bridge"),
}
"""The keys that an option may set here, and to what."""


def is_simple(options: Sequence[Option]) -> bool:
    """Whether these options can be laid over an image without the library."""
    return all(option.value in _SIMPLE.get(option.key, ()) for option in options)


def for_image(name: str, options: Sequence[Option] = ()) -> ImageSpec:
    """The spec of an image that is named, with simple options; SpecError when that can be no name."""
    try:
        reference.parse(name)
    except HybridError as error:
        raise SpecError([HybridError(error.what, mend=error.mend)]) from None
    return ImageSpec(name, **{option.key: option.value for option in options})
