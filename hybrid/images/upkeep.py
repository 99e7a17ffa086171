"""What a store holds, what of it is still right, and what nobody needs: history, verify, disk usage, prune."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybrid.errors import HybridError
from hybrid.image import Image
from hybrid.images import buildah, config, manifest, mtree
from hybrid.images.manifest import Descriptor
from hybrid.images.store import ImageStore
from hybrid.usage import disk_bytes

_ZERO_TIME = "1970-01-01T00:00:00Z"


@dataclass(frozen=True, slots=True)
class Step:
    """One step in the making of an image."""

    id: str
    """The image's digest, at its last step only; what came before it is not here by itself."""
    created: str
    created_by: str
    size: int
    """Bytes of the layer it made, unpacked; 0 when it made none."""
    comment: str


def history(store: ImageStore, image: Image) -> list[Step]:
    """How the image was made, the latest step first, as far as its config tells."""
    document = config.load_json((image.directory / "config.json").read_bytes(), "config")
    said = document.get("history")
    told = [each for each in said if isinstance(each, dict)] if isinstance(said, list) else []
    sizes = [int(size) for size in store.details(image)["layers"]]
    steps: list[Step] = []
    for entry in told:
        size = 0 if entry.get("empty_layer") or not sizes else sizes.pop(0)
        words = [str(entry.get(key) or "") for key in ("created", "created_by", "comment")]
        steps.append(Step("", words[0] or _ZERO_TIME, words[1], size, words[2]))
    steps += [Step("", image.config.created or _ZERO_TIME, "", size, "") for size in sizes]
    steps.reverse()
    if steps:
        first = steps[0]
        steps[0] = Step(image.digest, first.created, first.created_by, first.size, first.comment)
    return steps


def layers(image: Image) -> list[str]:
    """The digests of the layers, uncompressed, the lowest first."""
    document = config.load_json((image.directory / "config.json").read_bytes(), "config")
    return [str(each) for each in document["rootfs"]["diff_ids"]]


def verify(store: ImageStore, name: str) -> Iterator[str]:
    """What is wrong with an image, one line a finding: every blob and every file of its tree is read anew."""
    try:
        image = store.get(name)
        parsed = manifest.parse((image.directory / "manifest.json").read_bytes())
    except HybridError as error:
        if not store.has(name):
            raise
        yield error.what
        return
    for blob in parsed.blobs:
        yield from _wrong(store.blobs.path(blob.digest), blob)
    recorded = str(store.details(image).get("mtree"))
    yield from mtree.differences(image.tree, image.directory / "mtree", recorded)


def _wrong(path: Path, blob: Descriptor) -> Iterator[str]:
    try:
        with path.open("rb") as file:
            digest = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    except OSError as error:
        yield f"blob {blob.hex[:12]}: {error.strerror}"
        return
    if digest != blob.digest:
        yield f"blob {blob.hex[:12]}: its digest is {digest[7:19]}"


@dataclass(frozen=True, slots=True)
class Usage:
    """The room that one sort of things takes."""

    kind: str
    total: int
    active: int
    size: int
    """Bytes on disk."""
    reclaimable: int
    """Bytes that `prune --all` would free."""


def disk_usage(store: ImageStore) -> list[Usage]:
    """The room that images (with what drivers made of them), blobs and earlier builds take."""
    sizes = {image.digest: disk_bytes(image.directory) for image in store}
    busy = {digest for digest in sizes if store.users(digest)}
    free = sum(size for digest, size in sizes.items() if digest not in busy)
    images = Usage("Images", len(sizes), len(busy), sum(sizes.values()), free)
    blobs = {path: disk_bytes(path) for path in store.blobs.unused(())}
    needed = {store.blobs.path(digest) for digest in store.used_blobs(busy)}
    spare = sum(size for path, size in blobs.items() if path not in needed)
    cache = buildah.storage(store.home)
    built = disk_bytes(cache) if cache.exists() else 0
    steps = len(list(cache.glob("*-layers/*.tar-split.gz"))) if built else 0
    return [
        images,
        Usage("Blobs", len(blobs), len(needed & blobs.keys()), sum(blobs.values()), spare),
        Usage("Build Cache", steps, 0, built, built),
    ]


def prune(store: ImageStore, *, everything: bool) -> Iterator[tuple[str, int]]:
    """Remove images without a name, or `everything` that no instance uses, builds' layers too; each with its bytes.

    And what killed processes left, and blobs that no image is made of.
    """
    store.sweep()
    for image in list(store):
        if (everything or not image.names) and not store.users(image.digest):
            size = disk_bytes(image.directory)
            with suppress(HybridError):  # an instance came, or another process was quicker
                store.remove(image.digest)
                yield image.digest, size
    freed = store.blobs.sweep(store.used_blobs())
    cache = buildah.storage(store.home)
    if everything and cache.exists():
        freed += disk_bytes(cache)
        buildah.erase_cache(store.home)
    if freed:
        yield "", freed


def describe(store: ImageStore, image: Image) -> dict[str, Any]:
    """What is known of an image beside its config."""
    parsed = manifest.parse((image.directory / "manifest.json").read_bytes())
    return {
        "created": image.config.created,
        "os": image.config.os,
        "architecture": image.config.architecture,
        "layers": layers(image),
        "blobs": [blob.values() for blob in parsed.blobs],
        "made": store.details(image)["made"],
    }
