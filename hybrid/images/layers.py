"""Looking through an image's layers before they are unpacked: digests, sizes, and every entry's name.

Nothing is written but the uncompressed layers, within the limits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from hybrid.errors import ImageError, ToolError
from hybrid.images import compression, tarscan
from hybrid.images.compression import too_large
from hybrid.images.limits import MAX_COMPONENT, MAX_DEPTH, MAX_NAME, Limits
from hybrid.images.manifest import Descriptor
from hybrid.images.unpack import WHITEOUT, is_whiteout

_CHUNK = 1024 * 1024


@dataclass(slots=True)
class Contents:
    """What the layers of one image have in them, so far."""

    limits: Limits
    size: int = 0
    """Bytes of all files."""
    entries: int = 0
    whiteouts: list[bytes] = field(default_factory=list)
    """Names of those of the layer that was looked through last."""


def look(path: Path, layer: Descriptor, diff_id: str, plain: Path, contents: Contents) -> None:
    """Check the layer whose blob is at `path`, and put it, uncompressed, at `plain`.

    ImageError when it is not what its descriptor and `diff_id` say, or no layer that may be unpacked.
    """
    contents.whiteouts = []
    try:
        if path.stat().st_size != layer.size:
            raise lying(layer, f"it has {path.stat().st_size} bytes, not {layer.size}")
    except FileNotFoundError:
        raise lying(layer, "it is missing") from None
    if compression.kind(path) is None:
        plain.hardlink_to(path)
        digest = _read(path, contents, layer, None)
    else:
        if _file_digest(path) != layer.digest:
            path.unlink()  # fetched again, it may be right
            raise lying(layer, "its digest is another")
        with plain.open("wb") as out:
            digest = _read(path, contents, layer, out)
    if compression.kind(path) is None and digest != layer.digest:
        path.unlink()
        raise lying(layer, "its digest is another")
    if digest != diff_id:
        raise lying(layer, "the config names another digest of what is in it")


def lying(layer: Descriptor, why: str) -> ImageError:
    return ImageError(
        f"the image's layer {layer.hex[:12]} is not what its manifest says: {why}", mend="fetch or build it again"
    )


def _read(path: Path, contents: Contents, layer: Descriptor, out: BinaryIO | None) -> str:
    """Go through the tar, copy it to `out`, and return the digest of the whole stream."""
    digest = hashlib.sha256()
    try:
        with ExitStack() as stack:
            read = stack.enter_context(compression.opened(path))
            stream = tarscan.Stream(_tee(read, digest.update, out))
            for entry in tarscan.entries(stream):
                _check(entry, contents)
            stream.drain()
    except tarscan.Damaged as error:
        raise ImageError(
            f"the image's layer {layer.hex[:12]} cannot be unpacked: {error}", mend="fetch or build it again"
        ) from None
    except ToolError as error:
        raise ImageError(
            f"the image's layer {layer.hex[:12]} cannot be decompressed: {error.what}", mend="fetch or build it again"
        ) from None
    return f"sha256:{digest.hexdigest()}"


def _tee(read: compression.Read, update: Callable[[bytes], None], out: BinaryIO | None) -> compression.Read:
    if out is None:

        def hashing(size: int) -> bytes:
            data = read(size)
            update(data)
            return data

        return hashing
    write = out.write

    def copying(size: int) -> bytes:
        data = read(size)
        update(data)
        write(data)
        return data

    return copying


def _check(entry: tarscan.Entry, contents: Contents) -> None:
    """Whether this entry may be unpacked, and the whole with it."""
    contents.entries += 1
    contents.size += entry.size
    if contents.entries > contents.limits.entries:
        raise too_large(f"has more than {contents.limits.entries} entries", "HYBRID_IMAGE_ENTRIES")
    if contents.size > contents.limits.bytes:
        raise too_large(f"expands to more than {contents.limits.bytes} bytes", "HYBRID_IMAGE_BYTES")
    if entry.name or entry.link:
        _check_names(entry)
    if entry.kind == b"S":
        raise tarscan.Damaged(f"{entry.shown} has holes in GNU's own form; make the tar with --format=pax")
    if is_whiteout(entry.name):
        contents.whiteouts.append(entry.name)


def _check_names(entry: tarscan.Entry) -> None:
    parts = _parts(entry.name)
    if b".." in parts or (entry.kind == b"1" and b".." in _parts(entry.link)):
        raise tarscan.Damaged(f"{_told(entry)} leads out of the image")
    if len(entry.name) > MAX_NAME or len(parts) > MAX_DEPTH or any(len(part) > MAX_COMPONENT for part in parts):
        raise tarscan.Damaged(f"{_told(entry)} is too long or too deep a name")
    for part in parts:
        if part.startswith(WHITEOUT) and part.removeprefix(WHITEOUT) in (b"", b".", b".."):
            raise tarscan.Damaged(f"{_told(entry)} would remove what is outside the image")


def _parts(name: bytes) -> Sequence[bytes]:
    return [part for part in name.split(b"/") if part not in (b"", b".")]


def _told(entry: tarscan.Entry) -> str:
    return f"{entry.shown}, a link to {tarscan.shown(entry.link)}," if entry.kind == b"1" else entry.shown


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
