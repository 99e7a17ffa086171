"""Telling how a file is compressed by its first bytes, and undoing it."""

from __future__ import annotations

from pathlib import Path

from hybrid import process
from hybrid.images.tools import watch

_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"\xfd7zXZ\0": "xz",
    b"BZh": "bzip2",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
}
_PACKAGES = {"xz": "xz-utils"}


def kind(path: Path) -> str | None:
    """The program that decompresses the file; None when it is not compressed."""
    with path.open("rb") as file:
        start = file.read(6)
    return next((name for magic, name in _MAGIC.items() if start.startswith(magic)), None)


def decompress(path: Path, target: Path, lock: int) -> None:
    """Write what `path` holds, decompressed if it is compressed, to `target`. ToolError when it is damaged."""
    tool = kind(path)
    argv = [process.need(tool, _PACKAGES.get(tool)), "-dc"] if tool else [process.need("cat", "coreutils")]
    with path.open("rb") as file, target.open("wb") as out:
        watch(argv, lambda line: None, stdin=file, stdout=out, pass_fds=[lock])
