"""OCI image layouts: written for a single tar, taken over from skopeo's `dir:`, unpacked by umoci."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybrid import process
from hybrid.errors import ImageError, ToolError
from hybrid.images import compression
from hybrid.images.config import MAX_BYTES, damaged, load_json
from hybrid.images.tools import watch

TAG = "image"
_OCI = "application/vnd.oci.image"
_DOCKER = "application/vnd.docker"
_CONFIGS = (f"{_OCI}.config.v1+json", f"{_DOCKER}.container.image.v1+json")
_LAYERS = (
    f"{_OCI}.layer.v1.tar",
    f"{_OCI}.layer.v1.tar+gzip",
    f"{_OCI}.layer.v1.tar+zstd",
    f"{_DOCKER}.image.rootfs.diff.tar",
    f"{_DOCKER}.image.rootfs.diff.tar.gzip",
)
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
    manifest = _manifest(config, [_descriptor(f"{_OCI}.layer.v1.tar", layer, size)])
    (blobs / digest_of(config).partition(":")[2]).write_bytes(config)
    return _finish(directory, manifest, manifest, config)


def from_dir(directory: Path, fetched: Path, lock: int) -> Layout:
    """A layout of what skopeo put in `dir:fetched`; its blobs are moved.

    Its manifest may be Docker's and need not tell the truth about compression: the layout's is written anew,
    but the original is kept, and so is its digest.
    """
    original = _bounded(fetched / "manifest.json")
    manifest = load_json(original, "manifest")
    if manifest.get("schemaVersion") != 2 or not isinstance(manifest.get("layers"), list):
        raise ImageError("the image's manifest is of too old a form", mend="push the image again with a newer tool")
    blobs = _start(directory)
    config = _bounded(fetched / _blob(manifest.get("config"), _CONFIGS))
    (blobs / digest_of(config).partition(":")[2]).write_bytes(config)
    layers = [_take(fetched / _blob(layer, _LAYERS), blobs, lock) for layer in manifest["layers"]]
    return _finish(directory, _manifest(config, layers), original, config)


def unpack(layout: Layout, rootfs: Path, lock: int) -> None:
    """Unpack every layer to `rootfs` with owners, modes, links and extended attributes as they are in the image."""
    argv = [process.need("umoci"), "raw", "unpack", "--image", f"{layout.directory}:{TAG}"]
    rootless = [] if os.geteuid() == 0 else ["--rootless"]
    try:
        watch([*argv, *rootless, rootfs], lambda line: None, pass_fds=[lock])
    except ToolError as error:
        raise ImageError(
            f"the image cannot be unpacked: {error.what.rpartition('error: ')[2][:300]}", mend="fetch or build it again"
        ) from None


def architecture() -> str:
    """This machine's, as OCI names it."""
    machine = os.uname().machine
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


def _blob(descriptor: Any, media_types: Sequence[str]) -> str:
    """The name of the blob that a descriptor speaks of; ImageError when it is of none of these media types."""
    if not isinstance(descriptor, dict) or not _DIGEST.fullmatch(str(descriptor.get("digest"))):
        raise damaged("manifest", "a blob without a sha256 digest")
    if descriptor.get("mediaType") not in media_types:
        raise ImageError(
            f"a part of the image is of a kind that cannot be used: {str(descriptor.get('mediaType'))[:80]}",
            mend="use an image for Linux whose layers are tars",
        )
    return str(descriptor["digest"]).partition(":")[2]


def _take(source: Path, blobs: Path, lock: int) -> dict[str, Any]:
    """Move a layer among the blobs, uncompressed unless it is gzip's, which umoci reads. Its descriptor."""
    if not source.exists():  # taken already: a manifest may name a layer twice
        source = blobs / source.name
    try:
        compressed = compression.kind(source)
    except FileNotFoundError:
        raise damaged("manifest", f"its blob {source.name[:12]} is missing") from None
    name = source.name
    if compressed not in (None, "gzip"):
        plain = blobs / "plain"
        compression.decompress(source, plain, lock)
        name = file_digest(plain).partition(":")[2]
        source = plain
    blob = source.rename(blobs / name)
    media_type = f"{_OCI}.layer.v1.tar+gzip" if compressed == "gzip" else f"{_OCI}.layer.v1.tar"
    return _descriptor(media_type, f"sha256:{name}", blob.stat().st_size)


def _manifest(config: bytes, layers: Sequence[dict[str, Any]]) -> bytes:
    return _json(
        {
            "schemaVersion": 2,
            "mediaType": f"{_OCI}.manifest.v1+json",
            "config": _descriptor(f"{_OCI}.config.v1+json", digest_of(config), len(config)),
            "layers": list(layers),
        }
    )


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
