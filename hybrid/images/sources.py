"""The sources that a spec's image may be made from: what identifies each, and who makes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeAlias

from hybrid.errors import ImageError
from hybrid.home import Home
from hybrid.images import archive, buildah, debian, manifest, rootfs
from hybrid.images.layout import Layout
from hybrid.images.progress import Progress
from hybrid.spec import ArchiveSource, BuildSource, DebianSource, RootfsSource

Made: TypeAlias = "DebianSource | RootfsSource | ArchiveSource | BuildSource"


def identify(source: Made) -> tuple[str, str]:
    """A key that is equal for equal sources, and the words that tell a person what it is."""
    match source:
        case DebianSource():
            packages = sorted(set(source.packages))
            key = ["debian", source.debian, manifest.here().architecture, packages]
            return json.dumps(key), " ".join([f"debian {source.debian}", *packages])
        case RootfsSource():
            return json.dumps(["rootfs", _fingerprint(source.rootfs)]), f"rootfs {source.rootfs}"
        case ArchiveSource():
            return json.dumps(["archive", _fingerprint(source.archive)]), f"archive {source.archive}"
        case BuildSource():
            files = [_fingerprint(source.context), _fingerprint(source.file)]
            return json.dumps(["build", *files, sorted(source.args.items()), source.target]), f"build {source.context}"


def make(source: Made, home: Home, work: Path, lock: int, progress: Progress) -> Layout:
    """Make the image in the directory `work`."""
    match source:
        case DebianSource():
            return debian.make(source.debian, sorted(set(source.packages)), work, lock, progress)
        case RootfsSource():
            return rootfs.make(source.rootfs, work, lock, progress)
        case ArchiveSource():
            return archive.make(source.archive, work, lock, progress)
        case BuildSource():
            return buildah.make(source, home, work, lock, progress)


def _fingerprint(path: Path) -> str:
    try:
        return rootfs.fingerprint(path)
    except OSError as error:
        raise ImageError(
            f"{path} cannot be read: {error.strerror}", mend="check the path and who may read it"
        ) from None
