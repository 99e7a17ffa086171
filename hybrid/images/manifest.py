"""Manifests, and lists of them, read as hostile input."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hybrid.errors import ImageError
from hybrid.images.config import damaged, load_json

OCI = "application/vnd.oci.image"
DOCKER = "application/vnd.docker"
LISTS = (f"{OCI}.index.v1+json", f"{DOCKER}.distribution.manifest.list.v2+json")
MANIFESTS = (f"{OCI}.manifest.v1+json", f"{DOCKER}.distribution.manifest.v2+json")
_CONFIGS = (f"{OCI}.config.v1+json", f"{DOCKER}.container.image.v1+json")
_LAYERS = (
    f"{OCI}.layer.v1.tar",
    f"{OCI}.layer.v1.tar+gzip",
    f"{OCI}.layer.v1.tar+zstd",
    f"{DOCKER}.image.rootfs.diff.tar",
    f"{DOCKER}.image.rootfs.diff.tar.gzip",
)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_MAX_LAYERS = 512
_PLATFORM = re.compile(r"([a-z0-9]+)/([a-z0-9]+)(?:/([a-z0-9.]+))?")
_RUNNABLE = {"x86_64": ("amd64", "386"), "aarch64": ("arm64",)}


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What a manifest says of a blob."""

    media_type: str
    digest: str
    size: int

    @property
    def hex(self) -> str:
        return self.digest.partition(":")[2]

    def values(self) -> dict[str, Any]:
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size}


@dataclass(frozen=True, slots=True)
class Manifest:
    config: Descriptor
    layers: tuple[Descriptor, ...]

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        return (self.config, *dict.fromkeys(self.layers))


@dataclass(frozen=True, slots=True)
class Platform:
    """An operating system and a processor, as OCI names them."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)

    @property
    def runnable(self) -> bool:
        """Whether this machine runs programs for it."""
        return self.os == "linux" and self.architecture in architectures()


def architectures() -> tuple[str, ...]:
    """Those that this machine runs, its own first."""
    machine = os.uname().machine
    return _RUNNABLE.get(machine, (machine,))


def here() -> Platform:
    return Platform("linux", architectures()[0])


def platform(text: str) -> Platform:
    """What Compose's `platform: os/arch[/variant]` names; ValueError when it is none."""
    match = _PLATFORM.fullmatch(text)
    if match is None:
        raise ValueError(text)
    return Platform(match[1], {"x86_64": "amd64", "aarch64": "arm64"}.get(match[2], match[2]), match[3] or "")


def is_digest(value: object) -> bool:
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


def parse(data: bytes) -> Manifest:
    """An image's manifest; ImageError when it is damaged or of a kind that cannot be used."""
    document = load_json(data, "manifest")
    layers = document.get("layers")
    if document.get("schemaVersion") != 2 or not isinstance(layers, list):
        raise ImageError("the image's manifest is of too old a form", mend="push the image again with a newer tool")
    if len(layers) > _MAX_LAYERS:
        raise ImageError(f"the image has {len(layers)} layers, more than {_MAX_LAYERS}", mend="squash it")
    return Manifest(_descriptor(document.get("config"), _CONFIGS), tuple(_descriptor(each, _LAYERS) for each in layers))


def is_list(data: bytes) -> bool:
    document = load_json(data, "manifest")
    return document.get("mediaType") in LISTS or ("manifests" in document and "layers" not in document)


def choose(data: bytes, wanted: Platform, name: str) -> Descriptor:
    """The part of a list that is for a platform: the variant that was asked for, else the first without a choice."""
    listed = load_json(data, "manifest list").get("manifests")
    if not isinstance(listed, list):
        raise damaged("manifest list", "no list in it")
    told = [(each, _said(each)) for each in listed if isinstance(each, dict)]
    fits = [each for each, said in told if said is not None and _fits(said, wanted)]
    if not fits:
        found = ", ".join(sorted({str(said) for _, said in told if said is not None and said.os != "unknown"}))
        raise ImageError(
            f"{name} has no image for {wanted}; there are {found[:200] or 'none'}",
            mend="use an image for this machine",
        )
    return _descriptor(fits[0], (*LISTS, *MANIFESTS))


def _said(entry: dict[str, Any]) -> Platform | None:
    """The platform that an entry is for; any, when it is a list again and says nothing."""
    said = entry.get("platform")
    if not isinstance(said, dict):
        return Platform("", "") if entry.get("mediaType") in LISTS else None
    parts = [str(said.get(key) or "")[:40] for key in ("os", "architecture", "variant")]
    return Platform(*(re.sub(r"[^A-Za-z0-9._-]", "?", part) for part in parts))


def _fits(said: Platform, wanted: Platform) -> bool:
    if said == Platform("", ""):
        return True
    if (said.os, said.architecture) != (wanted.os, wanted.architecture):
        return False
    return said.variant == wanted.variant or not wanted.variant or (not said.variant and wanted.variant == "v8")


def _descriptor(values: Any, media_types: Sequence[str]) -> Descriptor:
    """A descriptor of one of these media types; ImageError when it is none."""
    if not isinstance(values, dict) or not _DIGEST.fullmatch(str(values.get("digest"))):
        raise damaged("manifest", "a blob without a sha256 digest")
    media_type, size = values.get("mediaType"), values.get("size")
    if media_type not in media_types:
        raise ImageError(
            f"a part of the image is of a kind that cannot be used: {str(media_type)[:80]}",
            mend="use an image for Linux whose layers are tars",
        )
    if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size < 2**63:
        raise damaged("manifest", "a blob without a size")
    return Descriptor(str(media_type), str(values["digest"]), size)
