"""Images of a root filesystem that exists: a directory or a tar. Nothing is extracted here; it becomes a layer."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from hybrid import process
from hybrid.errors import ImageError, ToolError
from hybrid.images import tarscan
from hybrid.images.compression import decompress
from hybrid.images.layout import Layout, from_tar
from hybrid.images.progress import Progress
from hybrid.images.tools import watch

_CREATED = "1970-01-01T00:00:00Z"
"""The same bytes are the same image, whenever it is made."""


def fingerprint(path: Path) -> str:
    """A digest that changes when anything at `path` does: of names, sizes, times and inodes, not of contents."""
    found = path.stat()
    digest = hashlib.sha256(_identity(b"", found))
    if stat.S_ISDIR(found.st_mode):
        for name, each in _walk(os.fsencode(path), found.st_dev):
            digest.update(_identity(name, each))
    return digest.hexdigest()


def _identity(name: bytes, found: os.stat_result) -> bytes:
    values = (found.st_dev, found.st_ino, found.st_mode, found.st_uid, found.st_gid)
    return b"%b\0%r\n" % (name, (*values, found.st_size, found.st_mtime_ns, found.st_ctime_ns))


def _walk(directory: bytes, device: int) -> Iterator[tuple[bytes, os.stat_result]]:
    with os.scandir(directory) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        each = entry.stat(follow_symlinks=False)
        yield entry.path, each
        if entry.is_dir(follow_symlinks=False) and each.st_dev == device:
            yield from _walk(entry.path, device)


def make(path: Path, work: Path, lock: int, progress: Progress) -> Layout:
    """The image whose tree is the directory or tar at `path`."""
    layer = work / "layer.tar"
    if path.is_dir():
        progress.step(f"packing {path}")
        pack(path, layer, [lock])
    else:
        progress.step(f"reading {path.name}")
        _plain(path, layer)
        _check(layer, path)
    return from_tar(work / "layout", layer, created=_CREATED)


def pack(tree: Path, layer: Path, pass_fds: Sequence[int] = ()) -> None:
    """A tar of the tree in a fixed order, with owners, extended attributes and nothing of other mounts."""
    options = ["--sort=name", "--format=pax", "--sparse", "--numeric-owner", "--one-file-system"]
    options += ["--xattrs", "--xattrs-include=*"]
    headers = "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime"
    argv: list[process.Argument] = [process.need("tar"), "-C", tree, *options, headers, "-cf", layer, "."]
    try:
        watch(argv, lambda line: None, pass_fds=pass_fds)
    except ToolError as error:
        mend = "let nothing write to it while it is read, and read it as root"
        raise ImageError(f"the tree cannot be packed: {error.what}", where=str(tree), mend=mend) from None


def _plain(path: Path, layer: Path) -> None:
    """The tar at `path`, uncompressed, in `layer`."""
    try:
        decompress(path, layer)
    except ToolError as error:
        raise ImageError(
            f"the tar cannot be decompressed: {error.what}", where=str(path), mend="make it again"
        ) from None


def _check(layer: Path, path: Path) -> None:
    """Whether it is a tar at all, and not an image's archive given under the wrong key."""
    mend = "give a tar of a root filesystem, or the directory itself"
    try:
        with layer.open("rb") as file:
            first = next((each for each in tarscan.entries(tarscan.Stream(file.read)) if each.name), None)
    except tarscan.Damaged as error:
        raise ImageError(f"this is no tar: {error}", where=str(path), mend=mend) from None
    if first is None:
        raise ImageError("the tar is empty", where=str(path), mend=mend)
    if first.name.rstrip(b"/") in (b"oci-layout", b"index.json", b"manifest.json", b"blobs"):
        raise ImageError(
            "this is an image's archive, not a root filesystem", where=str(path), mend=f"write archive: {path.name}"
        )
