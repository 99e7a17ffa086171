"""Telling how a file is compressed by its first bytes, and undoing it in bounded steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hybrid import process
from hybrid.errors import ImageError, ToolError
from hybrid.images.limits import RATIO_FROM, Limits, limits

_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"\xfd7zXZ\0": "xz",
    b"BZh": "bzip2",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
}
_PACKAGES = {"xz": "xz-utils"}
_CHUNK = 1024 * 1024

Read = Callable[[int], bytes]


def kind(path: Path) -> str | None:
    """How the file is compressed; None when it is not."""
    with path.open("rb") as file:
        start = file.read(6)
    return next((name for magic, name in _MAGIC.items() if start.startswith(magic)), None)


@contextmanager
def opened(path: Path) -> Iterator[Read]:
    """Reads what `path` holds, decompressed; ToolError from the reads when it is damaged.

    ImageError from them when it expands to more than the limits allow.
    """
    bound = limits()
    size = path.stat().st_size
    tool = kind(path)
    match tool:
        case None:
            with path.open("rb") as file:
                yield file.read
        case "gzip":
            from isal import igzip_threaded  # three times as fast as zlib, and beside us

            with igzip_threaded.open(path, "rb", threads=1) as unzipped:  # type: ignore[no-untyped-call]
                yield _bounded(_told(unzipped.read), size, bound)
        case _:
            with (
                path.open("rb") as file,
                process.spawn(
                    [process.need(tool, _PACKAGES.get(tool)), "-dc"],
                    stdin=file,
                    stdout=process.PIPE,
                    stderr=process.PIPE,
                ) as child,
            ):
                yield _bounded(_of_program(child, tool), size, bound)


def decompress(path: Path, target: Path) -> None:
    """Write what `path` holds, decompressed if it is compressed, to `target`. Errors as `opened` has them."""
    with opened(path) as read, target.open("wb") as out:
        while data := read(_CHUNK):
            out.write(data)


def _told(read: Read) -> Read:
    """The many errors for a damaged gzip as the one that a program would be."""
    from gzip import BadGzipFile

    from isal import igzip_lib

    damaged: Any = (EOFError, igzip_lib.IsalError, BadGzipFile)  # its stub calls the class an instance

    def reading(size: int) -> bytes:
        try:
            return read(size)
        except damaged as error:
            raise ToolError(f"gzip: {error}", returncode=1) from None

    return reading


def _of_program(child: process.Child, tool: str) -> Read:
    assert child.stdout is not None and child.stderr is not None
    out, err = child.stdout, child.stderr

    def reading(size: int) -> bytes:
        data = out.read(size)
        if not data and (code := child.wait()) != 0:
            raise process.failed([tool], code, err.read(4000))
        return data

    return reading


def _bounded(read: Read, size: int, bound: Limits) -> Read:
    """`read`, until the bytes read are too many, or too many for the `size` that they came from."""
    total = 0

    def reading(amount: int) -> bytes:
        nonlocal total
        data = read(amount)
        total += len(data)
        if total > bound.bytes:
            raise too_large(f"expands to more than {bound.bytes} bytes", "HYBRID_IMAGE_BYTES")
        if total > RATIO_FROM and total > bound.ratio * size:
            raise too_large(f"expands to more than {bound.ratio:g} times its size", "HYBRID_IMAGE_RATIO")
        return data

    return reading


def too_large(why: str, variable: str) -> ImageError:
    return ImageError(f"the image {why}", mend=f"if you trust it, set {variable} to more")
