"""The images' store: each source becomes one unpacked tree, named by the digest of its manifest.

    images/sha256/HEX/rootfs         the tree, never written to
    images/sha256/HEX/manifest.json  as the source gave it
    images/sha256/HEX/config.json    likewise
    images/sha256/HEX/image.json     where it came from, its size
    images/names/NAME                the digest that a name stands for ('/' written as '+')
    images/builds/KEY                the digest that a source in a spec was made into
    images/locks/…                   held while a source is fetched or built
    images/.work-…                   one that is being made; swept once nobody holds its lock

A directory gets its name when it is whole. Any process may be killed at any moment.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from hybrid.errors import HybridError, ImageError
from hybrid.home import Home
from hybrid.image import Image
from hybrid.images import config, reference
from hybrid.images.names import Names, candidates
from hybrid.images.progress import Progress, Quiet
from hybrid.images.tools import disk_full_told
from hybrid.store import InstanceStore, locked
from hybrid.usage import disk_bytes

if TYPE_CHECKING:
    from hybrid.images.layout import Layout
    from hybrid.spec import Spec

Make: TypeAlias = "Callable[[Path, int, Progress], Layout]"
"""Fetches or builds in a directory under a lock's descriptor."""

_SHORT = re.compile(r"(?:sha256:)?([0-9a-f]{12,64})")


class ImageStore:
    """All images of one home."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.directory = home.images
        self.names = Names(self.directory / "names")
        self.builds = Names(self.directory / "builds")

    # Getting images

    def ensure(self, spec: Spec, progress: Progress | None = None) -> Image:
        """The image of a spec: the one in the store, else pulled or built now."""
        if isinstance(spec.image, str):
            return self._find(spec.image) or self.pull(spec.image, progress)
        return self._made(spec, progress, again=False)

    def build(self, spec: Spec, name: str | None = None, progress: Progress | None = None) -> Image:
        """Make a spec's image now, even if there is one, and give it `name` (the spec file's, if None)."""
        chosen = name or (spec.source.stem.lower() if spec.source else None)
        whole = reference.local(chosen) if chosen else None
        if isinstance(spec.image, str):
            image = self.pull(spec.image, progress)
        else:
            image = self._made(spec, progress, again=True)
        return self._named(image, str(whole)) if whole else image

    def pull(self, name: str, progress: Progress | None = None) -> Image:
        """Fetch an image from its registry and name it so. A digest in `name` is verified."""
        wanted = reference.parse(name)
        if wanted.registry == reference.LOCAL:
            raise self._unknown(name)

        def fetch(work: Path, lock: int, progress: Progress) -> Layout:
            from hybrid.images import skopeo

            return skopeo.fetch(wanted, work, lock, progress)

        with self._making(str(wanted)):
            image = self._make(fetch, wanted.transport, progress)
            return self._named(image, str(wanted))

    def get(self, name: str) -> Image:
        """The image of that name, digest, or beginning of a digest; ImageError when there is none."""
        image = self._find(name)
        if image is None:
            raise self._unknown(name)
        return image

    def __iter__(self) -> Iterator[Image]:
        """Every image, the last one first."""
        directories = self.directory.glob("sha256/*") if self.directory.exists() else []
        images = []
        for directory in directories:
            try:
                images.append((directory.stat().st_mtime, self._load(f"sha256:{directory.name}")))
            except (HybridError, OSError):
                continue
        return iter(image for _, image in sorted(images, key=lambda pair: -pair[0]))

    def remove(self, name: str) -> None:
        """Forget a name; with its last name, or when `name` is a digest, remove the image.

        ImageError when an instance uses it.
        """
        image = self.get(name)
        given = next((each for each in candidates(name) if each in image.names), None)
        if given and len(image.names) > 1:
            self.names.forget(given)
            return
        users = [record.name for record in InstanceStore(self.home) if record.image == image.digest]
        if users:
            raise ImageError(
                f"image {name} is in use by {', '.join(users)}", mend=f"hybrid rm {' '.join(users)}, then try again"
            )
        for each in image.names:
            self.names.forget(each)
        hidden = self.directory / f".work-{secrets.token_hex(6)}"
        image.directory.rename(hidden)
        _remove(hidden)

    def sweep(self) -> None:
        """Remove what killed processes left half made."""
        if not self.directory.exists():
            return
        with self._locked("work"):
            for leftover in self.directory.glob(".work-*"):
                try:
                    with locked(leftover / "lock", wait=False):
                        shutil.rmtree(leftover)
                except BlockingIOError:
                    continue
                except FileNotFoundError:
                    continue

    # Making them

    def _made(self, spec: Spec, progress: Progress | None, *, again: bool) -> Image:
        from hybrid.images import sources

        key, title = sources.identify(spec.image)
        build = hashlib.sha256(key.encode()).hexdigest()
        with self._making(key):
            digest = None if again else self.builds.get(build)
            if digest and (image := self._existing(digest)):
                return image
            image = self._make(lambda *given: sources.make(spec.image, *given), title, progress)
            self.builds.set(build, image.digest)
            return image

    def _make(self, make: Make, title: str, progress: Progress | None) -> Image:
        """Fetch or build, unpack, and give the result its name in one step. Nothing half made stays."""
        from hybrid.images import layout

        told = progress or Quiet()
        with disk_full_told(self.directory), self._work() as (work, lock):
            made = make(work, lock, told)
            if image := self._existing(made.digest):
                return image
            _check_platform(made.config, layout.architecture())
            final = work / "final"
            final.mkdir(mode=0o711)
            told.step("unpacking")
            layout.unpack(made, final / "rootfs", lock)
            (final / "manifest.json").write_bytes(made.manifest)
            (final / "config.json").write_bytes(made.config)
            values = {"digest": made.digest, "source": title, "tree_bytes": disk_bytes(final / "rootfs")}
            (final / "image.json").write_text(json.dumps(values))
            self._commit(final, made.digest)
            return self._load(made.digest)

    def _commit(self, final: Path, digest: str) -> None:
        target = self._path(digest)
        _directory(target.parent)
        try:
            final.rename(target)
        except OSError:
            if not (target / "image.json").exists():
                raise

    @contextmanager
    def _work(self) -> Iterator[tuple[Path, int]]:
        """A hidden directory and its lock's descriptor, which the programs that work in it inherit.

        It is removed once the last of them has let go of the lock.
        """
        self.sweep()
        work = self.directory / f".work-{secrets.token_hex(6)}"
        with ExitStack() as stack:
            with self._locked("work"):
                work.mkdir(mode=0o711)
                stack.callback(_remove, work)
                lock = stack.enter_context(_held(work / "lock"))
            yield work, lock

    @contextmanager
    def _making(self, key: str) -> Iterator[None]:
        """Alone in making what `key` names: a second process waits, and then finds it made."""
        with disk_full_told(self.directory), self._locked(hashlib.sha256(key.encode()).hexdigest()[:32]):
            yield

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        _directory(self.directory)
        _directory(self.directory / "locks")
        with locked(self.directory / "locks" / name):
            yield

    # Finding them

    def _find(self, name: str) -> Image | None:
        for each in candidates(name):
            if (digest := self.names.get(each)) and (image := self._existing(digest)):
                return image
        if match := _SHORT.fullmatch(name):
            found = list(self.directory.glob(f"sha256/{match[1]}*"))
            return self._existing(f"sha256:{found[0].name}") if len(found) == 1 else None
        return None

    def _named(self, image: Image, name: str) -> Image:
        self.names.set(name, image.digest)
        return self._load(image.digest)

    def _path(self, digest: str) -> Path:
        return self.directory / digest.replace(":", "/")

    def _existing(self, digest: str) -> Image | None:
        return self._load(digest) if (self._path(digest) / "image.json").exists() else None

    def _load(self, digest: str) -> Image:
        directory = self._path(digest)
        try:
            values = json.loads((directory / "image.json").read_bytes())
            image = Image(
                digest=digest,
                directory=directory,
                config=config.parse((directory / "config.json").read_bytes()),
                source=str(values["source"]),
                tree_bytes=int(values["tree_bytes"]),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ImageError(
                f"the image {digest[7:19]} in the store is damaged: {error}",
                where=str(directory),
                mend=f"remove {directory} and make the image again",
            ) from None
        return replace(image, names=tuple(self.names.of(digest)))

    def _unknown(self, name: str) -> ImageError:
        return ImageError(
            f"no image is named {name!r} here",
            mend=f"hybrid image pull {name}, or hybrid image build SPEC; hybrid image ls lists what there is",
        )


@contextmanager
def _held(path: Path) -> Iterator[int]:
    """The lock on `path` and its descriptor."""
    import fcntl

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def _remove(work: Path) -> None:
    """Remove a hidden directory once nobody works in it any more; another process may be quicker."""
    with suppress(FileNotFoundError), locked(work / "lock"):
        shutil.rmtree(work, ignore_errors=True)


def _directory(path: Path) -> None:
    """A directory that an unprivileged container root can pass through, and only that."""
    if not path.is_dir():
        path.mkdir(parents=True, mode=0o711, exist_ok=True)


def _check_platform(data: bytes, architecture: str) -> None:
    found = config.parse(data)
    if (found.os, found.architecture) != ("linux", architecture):
        raise ImageError(
            f"the image is for {found.os}/{found.architecture}, this machine is linux/{architecture}",
            mend="use an image for this machine",
        )
