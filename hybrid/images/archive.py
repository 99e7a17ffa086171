"""Images in a file or directory, as `docker save`, `podman save` and `skopeo copy` write them."""

from __future__ import annotations

import tarfile
from itertools import islice
from pathlib import Path

from hybrid.errors import ImageError
from hybrid.images import skopeo
from hybrid.images.layout import Layout
from hybrid.images.progress import Progress

_MEMBERS = 10_000
"""How many members are looked at to tell the forms apart."""


def make(path: Path, work: Path, lock: int, progress: Progress) -> Layout:
    """The image in the archive at `path`."""
    return skopeo.read(path, _transport(path), work, lock, progress)


def _transport(path: Path) -> str:
    """Skopeo's name for the form. Docker's own archive is also an OCI one; what it says as Docker's is surer."""
    if path.is_dir():
        if (path / "oci-layout").exists():
            return "oci"
        raise ImageError("this directory is no OCI layout", where=str(path), mend=f"write rootfs: {path.name}")
    try:
        with tarfile.open(path, "r:*") as tar:
            names = {member.name.removeprefix("./") for member in islice(tar, _MEMBERS)}
    except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError) as error:
        raise ImageError(
            f"this is no archive: {error}", where=str(path), mend="give what docker save or skopeo copy wrote"
        ) from None
    if "manifest.json" in names:
        return "docker-archive"
    if "oci-layout" in names or "index.json" in names:
        return "oci-archive"
    raise ImageError(
        "this archive holds no image", where=str(path), mend=f"for a root filesystem write rootfs: {path.name}"
    )
