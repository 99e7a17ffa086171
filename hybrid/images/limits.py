"""How large an image may be: what a stranger's archive cannot exceed, however small it looks."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from hybrid.errors import ImageError
from hybrid.units import parse_bytes

_Number = TypeVar("_Number", int, float)

MAX_DEPTH = 256
"""Directories below one another in one name."""
MAX_COMPONENT, MAX_NAME = 255, 3072
"""Bytes of a file's name, and of its path in the image: below the store's own path it must stay within PATH_MAX."""
RATIO_FROM = 1024**3
"""Expanded bytes from which the ratio counts: small images of empty files are nobody's harm."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one image, all its layers together."""

    bytes: int = 64 * 1024**3
    """Most bytes of the files it expands to, holes counted."""
    entries: int = 4_000_000
    """Most files, directories and links, in all layers."""
    ratio: float = 200.0
    """Most bytes that one byte of a layer may expand to."""


def limits() -> Limits:
    """The limits set by HYBRID_IMAGE_BYTES (as `64g`), HYBRID_IMAGE_ENTRIES and HYBRID_IMAGE_RATIO, else the usual."""
    default = Limits()
    return Limits(
        bytes=_set("HYBRID_IMAGE_BYTES", parse_bytes, default.bytes),
        entries=_set("HYBRID_IMAGE_ENTRIES", int, default.entries),
        ratio=_set("HYBRID_IMAGE_RATIO", float, default.ratio),
    )


def _set(name: str, read: Callable[[str], _Number], default: _Number) -> _Number:
    text = os.environ.get(name)
    if not text:
        return default
    try:
        value = read(text)
        if value > 0:
            return value
    except ValueError:
        pass
    raise ImageError(f"{name} is no limit: {text[:40]!r}", mend=f"give a number above 0, or unset it ({default})")
