"""The sources that a spec's image may be made from: what identifies each, and who makes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from hybrid.errors import ImageError
from hybrid.images import archive, debian, rootfs
from hybrid.images.layout import Layout, architecture
from hybrid.images.progress import Progress
from hybrid.spec import ArchiveSource, DebianSource, RootfsSource

if TYPE_CHECKING:
    from typing import TypeAlias

Source: TypeAlias = "str | DebianSource | RootfsSource | ArchiveSource"


def identify(source: Source) -> tuple[str, str]:
    """A key that is equal for equal sources, and the words that tell a person what it is."""
    match source:
        case DebianSource():
            packages = sorted(set(source.packages))
            key = ["debian", source.debian, architecture(), packages]
            return json.dumps(key), " ".join([f"debian {source.debian}", *packages])
        case RootfsSource():
            return json.dumps(["rootfs", _fingerprint(source.rootfs)]), f"rootfs {source.rootfs}"
        case ArchiveSource():
            return json.dumps(["archive", _fingerprint(source.archive)]), f"archive {source.archive}"
    raise TypeError(f"{source!r} is not made but pulled")


def make(source: Source, work: Path, lock: int, progress: Progress) -> Layout:
    """Make the image in the directory `work`."""
    match source:
        case DebianSource():
            return debian.make(source.debian, sorted(set(source.packages)), work, lock, progress)
        case RootfsSource():
            return rootfs.make(source.rootfs, work, lock, progress)
        case ArchiveSource():
            return archive.make(source.archive, work, lock, progress)
    raise TypeError(f"{source!r} is not made but pulled")


def _fingerprint(path: Path) -> str:
    try:
        return rootfs.fingerprint(path)
    except OSError as error:
        raise ImageError(
            f"{path} cannot be read: {error.strerror}", mend="check the path and who may read it"
        ) from None
