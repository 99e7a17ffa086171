"""Images in a file or directory, as `docker save`, `podman save` and `skopeo copy` write them."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from hybrid.errors import ImageError, ToolError
from hybrid.images import compression, skopeo, tarscan
from hybrid.images.layout import Layout
from hybrid.images.progress import Progress

_MEMBERS = 10_000
"""How many members are looked at to tell the forms apart."""


def make(path: Path, work: Path, lock: int, progress: Progress) -> Layout:
    """The image in the archive (compressed or not) or OCI layout at `path`."""
    source = work / "archive"  # without a colon: skopeo takes what follows one for a tag
    if path.is_dir() or compression.kind(path) is None:
        source.symlink_to(path)
    else:
        progress.step(f"decompressing {path.name}")
        _decompress(path, source)
    return skopeo.read(path, f"{_transport(source, path)}:{source}", work, lock, progress)


def _decompress(path: Path, target: Path) -> None:
    try:
        compression.decompress(path, target)
    except ToolError as error:
        mend = "save the image again"
        raise ImageError(f"the archive cannot be decompressed: {error.what}", where=str(path), mend=mend) from None


def _transport(source: Path, path: Path) -> str:
    """Skopeo's name for the form. Docker's own archive is also an OCI one; what it says as Docker's is surer."""
    if source.is_dir():
        if (source / "oci-layout").exists():
            return "oci"
        raise ImageError("this directory is no OCI layout", where=str(path), mend=f"write rootfs: {path.name}")
    try:
        with source.open("rb") as file:
            members = islice(tarscan.entries(tarscan.Stream(file.read)), _MEMBERS)
            names = {member.name.removeprefix(b"./") for member in members}
    except tarscan.Damaged as error:
        mend = "give what docker save or skopeo copy wrote"
        raise ImageError(f"this is no archive: {error}", where=str(path), mend=mend) from None
    if b"manifest.json" in names:
        return "docker-archive"
    if b"oci-layout" in names or b"index.json" in names:
        return "oci-archive"
    mend = f"for a root filesystem write rootfs: {path.name}"
    raise ImageError("this archive holds no image", where=str(path), mend=mend)
