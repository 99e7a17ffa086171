"""OCI image layouts: written for a single tar, taken over from skopeo's `dir:`, unpacked by umoci."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybrid import process
from hybrid.errors import ImageError, ToolError
from hybrid.images.config import MAX_BYTES, damaged, load_json
from hybrid.images.tools import watch

TAG = "image"
_OCI = "application/vnd.oci.image"
_DOCKER = "application/vnd.docker"
_MEDIA_TYPES = {
    f"{_DOCKER}.distribution.manifest.v2+json": f"{_OCI}.manifest.v1+json",
    f"{_DOCKER}.container.image.v1+json": f"{_OCI}.config.v1+json",
    f"{_DOCKER}.image.rootfs.diff.tar.gzip": f"{_OCI}.layer.v1.tar+gzip",
    f"{_DOCKER}.image.rootfs.diff.tar": f"{_OCI}.layer.v1.tar",
}
_KNOWN = frozenset(_MEDIA_TYPES.values())
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Layout:
    """An image whose blobs are all on this disk, ready to be unpacked."""

    directory: Path
    manifest: bytes
    """As its source gave it: its digest names the image."""
    config: bytes

    @property
    def digest(self) -> str:
        return digest_of(self.manifest)


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def from_tar(directory: Path, tar: Path, *, created: str) -> Layout:
    """A layout whose one layer is `tar` (uncompressed; moved), with a config that says nothing else.

    Equal bytes and `created` give equal digests.
    """
    blobs = _start(directory)
    layer = file_digest(tar)
    size = tar.stat().st_size
    tar.rename(blobs / layer.partition(":")[2])
    config = _json(
        {
            "created": created,
            "architecture": architecture(),
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [layer]},
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": f"{_OCI}.manifest.v1+json",
            "config": _descriptor(f"{_OCI}.config.v1+json", digest_of(config), len(config)),
            "layers": [_descriptor(f"{_OCI}.layer.v1.tar", layer, size)],
        }
    )
    (blobs / digest_of(config).partition(":")[2]).write_bytes(config)
    return _finish(directory, manifest, manifest, config)


def from_dir(directory: Path, fetched: Path) -> Layout:
    """A layout of what skopeo put in `dir:fetched`; its blobs are moved.

    Docker's manifest becomes OCI's by its media types alone; the original is kept, and so is its digest.
    """
    original = _bounded(fetched / "manifest.json")
    manifest = load_json(original, "manifest")
    if manifest.get("schemaVersion") != 2 or not isinstance(manifest.get("layers"), list):
        raise ImageError(
            "the image's manifest is of a form that is too old", mend="push the image again with a newer tool"
        )
    descriptors = [manifest.get("config"), *manifest["layers"]]
    blobs = _start(directory)
    manifest["mediaType"] = f"{_OCI}.manifest.v1+json"
    config = b""
    for index, descriptor in enumerate(descriptors):
        name = _translate(descriptor)
        if index == 0:
            config = _bounded(fetched / name)
            (blobs / name).write_bytes(config)
        elif not (blobs / name).exists():
            _take(fetched / name, blobs / name)
    return _finish(directory, _json(manifest), original, config)


def unpack(layout: Layout, rootfs: Path, lock: int) -> None:
    """Unpack every layer to `rootfs` with owners, modes, links and extended attributes as they are in the image."""
    argv = [process.need("umoci"), "raw", "unpack", "--image", f"{layout.directory}:{TAG}"]
    rootless = [] if os.geteuid() == 0 else ["--rootless"]
    try:
        watch([*argv, *rootless, rootfs], lambda line: None, pass_fds=[lock])
    except ToolError as error:
        if "no space left" in error.stderr.lower():
            raise
        raise ImageError(
            f"the image cannot be unpacked: {error.what.rpartition('error: ')[2][:300]}", mend="fetch or build it again"
        ) from None


def architecture() -> str:
    """This machine's, as OCI names it."""
    machine = os.uname().machine
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


def _translate(descriptor: Any) -> str:
    """Give a descriptor OCI's media type; returns the name of its blob."""
    if not isinstance(descriptor, dict) or not _DIGEST.fullmatch(str(descriptor.get("digest"))):
        raise damaged("manifest", "a blob without a sha256 digest")
    media_type = str(descriptor.get("mediaType"))
    descriptor["mediaType"] = _MEDIA_TYPES.get(media_type, media_type)
    if descriptor["mediaType"] not in _KNOWN:
        raise ImageError(
            f"a part of the image is of a kind that cannot be used: {media_type[:80]}",
            mend="use an image for Linux whose layers are plain or gzip-compressed tars",
        )
    return str(descriptor["digest"]).partition(":")[2]


def _take(source: Path, target: Path) -> None:
    try:
        source.rename(target)
    except FileNotFoundError:
        raise damaged("manifest", f"its blob {target.name[:12]} is missing") from None


def _bounded(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise damaged("manifest", f"{path.name[:12]} is missing") from None


def _start(directory: Path) -> Path:
    blobs = directory / "blobs/sha256"
    blobs.mkdir(parents=True)
    (directory / "oci-layout").write_bytes(_json({"imageLayoutVersion": "1.0.0"}))
    return blobs


def _finish(directory: Path, manifest: bytes, original: bytes, config: bytes) -> Layout:
    digest = digest_of(manifest)
    (directory / "blobs/sha256" / digest.partition(":")[2]).write_bytes(manifest)
    entry = _descriptor(f"{_OCI}.manifest.v1+json", digest, len(manifest))
    entry["annotations"] = {"org.opencontainers.image.ref.name": TAG}
    (directory / "index.json").write_bytes(_json({"schemaVersion": 2, "manifests": [entry]}))
    return Layout(directory, original, config)


def _descriptor(media_type: str, digest: str, size: int) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest, "size": size}


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
