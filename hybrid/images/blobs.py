"""The blobs of all images, each once: layers as they were fetched, and configs, named by their digests."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hybrid.store import write_atomically


class Blobs:
    """Files in one directory. Whoever adds some that no image names yet holds `using`."""

    def __init__(self, images: Path) -> None:
        self.shared = images / "blobs"
        """What skopeo calls a shared blob directory."""
        self.directory = self.shared / "sha256"
        self._lock = images / "locks/blobs"

    def path(self, digest: str) -> Path:
        return self.directory / digest.partition(":")[2]

    def has(self, digest: str) -> bool:
        return self.path(digest).exists()

    def add(self, digest: str, data: bytes) -> None:
        if not self.has(digest):
            write_atomically(self.path(digest), data)

    def take(self, source: Path, digest: str) -> None:
        """Move a whole, verified file here."""
        if self.has(digest):
            source.unlink()
        else:
            source.rename(self.path(digest))

    @contextmanager
    def using(self) -> Iterator[None]:
        """While this is held, nothing is swept."""
        self.shared.mkdir(parents=True, mode=0o700, exist_ok=True)
        self.directory.mkdir(mode=0o700, exist_ok=True)
        with self._held(fcntl.LOCK_SH):
            yield

    def unused(self, used: Collection[str]) -> Iterator[Path]:
        """Blobs that are none of the digests `used`."""
        with suppress(FileNotFoundError), os.scandir(self.directory) as entries:
            for entry in entries:
                if f"sha256:{entry.name}" not in used:
                    yield Path(entry.path)

    def sweep(self, used: Collection[str]) -> int:
        """Remove what is not used, and return its bytes; nothing while somebody is adding blobs."""
        freed = 0
        with suppress(BlockingIOError, FileNotFoundError), self._held(fcntl.LOCK_EX | fcntl.LOCK_NB):
            for path in list(self.unused(used)):
                freed += path.stat().st_blocks * 512
                path.unlink()
        return freed

    @contextmanager
    def _held(self, how: int) -> Iterator[None]:
        descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, how)
            yield
        finally:
            os.close(descriptor)
