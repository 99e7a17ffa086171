"""Names of images: small files, each holding a digest."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from hybrid.errors import ImageError
from hybrid.images import reference
from hybrid.store import write_atomically

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class Names:
    """Names to digests, in one directory. A name's '/' is written as '+', which no name has."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def get(self, name: str) -> str | None:
        """The digest of a whole name; None when it has none, or none that can be read."""
        try:
            digest = self._file(name).read_text().strip()
        except (OSError, ValueError):
            return None
        return digest if _DIGEST.fullmatch(digest) else None

    def set(self, name: str, digest: str) -> None:
        self.directory.mkdir(parents=True, mode=0o711, exist_ok=True)
        write_atomically(self._file(name), digest.encode(), 0o644)

    def forget(self, name: str) -> None:
        self._file(name).unlink(missing_ok=True)

    def of(self, digest: str) -> Iterator[str]:
        """The names of a digest, in order."""
        files = sorted(self.directory.iterdir()) if self.directory.exists() else ()
        for name in (file.name.replace("+", "/") for file in files if not file.name.startswith(".")):
            if self.get(name) == digest:
                yield name

    def _file(self, name: str) -> Path:
        return self.directory / name.replace("/", "+")


def candidates(name: str) -> list[str]:
    """The whole names that `name` may stand for; what was made here comes before what a registry has."""
    try:
        wanted = reference.parse(name)
        names = [str(wanted)] if wanted.digest else [str(reference.local(name)), str(wanted)]
    except ImageError:
        return []
    return list(dict.fromkeys(names))
