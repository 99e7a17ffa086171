"""The images' store: each source becomes one unpacked tree, named by the digest of its manifest.

    images/sha256/HEX/rootfs         the tree, never written to
    images/sha256/HEX/manifest.json  as the source gave it
    images/sha256/HEX/config.json    likewise
    images/sha256/HEX/mtree          what every file of the tree is, by mtree(5)
    images/sha256/HEX/image.json     where it came from, its size, the digest of mtree
    images/blobs/sha256/HEX          layers and configs of all images, each once, as they were fetched
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
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from hybrid.errors import HybridError, ImageError
from hybrid.home import Home
from hybrid.image import Image, ImageConfig
from hybrid.images import config, manifest, reference
from hybrid.images.blobs import Blobs
from hybrid.images.names import Names, candidates
from hybrid.images.progress import Progress, Quiet
from hybrid.images.tools import disk_full_told, erase
from hybrid.store import InstanceStore, locked

if TYPE_CHECKING:
    from hybrid.images.layout import Layout
    from hybrid.images.manifest import Platform
    from hybrid.images.sources import Made
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
        self.blobs = Blobs(self.directory)

    # Getting images

    def ensure(self, spec: Spec, progress: Progress | None = None) -> Image:
        """The image of a spec, had as its pull policy says: by default the one in the store, else pulled or built."""
        policy = spec.pull_policy or "missing"
        if (source := spec.made_of) is not None:
            image = self._made(source, progress, again=policy in ("always", "build"), never=policy == "never")
            return self._named(image, str(reference.local(spec.image))) if isinstance(spec.image, str) else image
        assert isinstance(spec.image, str)
        wanted = manifest.platform(spec.platform) if spec.platform else None
        found = None if policy == "always" else self._find(spec.image)
        if found and (wanted is None or _is_for(found, wanted)):
            return found
        if policy == "never":
            raise self._unknown(spec.image, "or leave out `pull_policy: never`")
        return self.pull(spec.image, progress, wanted)

    def build(self, spec: Spec, name: str | None = None, progress: Progress | None = None) -> Image:
        """Make a spec's image now, even if there is one, and give it `name`.

        Without one it is the spec's own `image`, if that is the name of what is built, else the spec file's.
        """
        chosen = name or (spec.source.stem.lower() if spec.source else None)
        if (source := spec.made_of) is not None:
            image = self._made(source, progress, again=True)
            chosen = name or (spec.image if isinstance(spec.image, str) else chosen)
        else:
            assert isinstance(spec.image, str)
            wanted = manifest.platform(spec.platform) if spec.platform else None
            image = self.pull(spec.image, progress, wanted)
        return self._named(image, str(reference.local(chosen))) if chosen else image

    def pull(self, name: str, progress: Progress | None = None, wanted: Platform | None = None) -> Image:
        """Fetch an image from its registry and name it so. A digest in `name` is verified.

        Of several for different machines it is the one for `wanted`, this machine's if None.
        """
        whole = reference.parse(name)
        if whole.registry == reference.LOCAL:
            raise self._unknown(name)

        def fetch(work: Path, lock: int, progress: Progress) -> Layout:
            from hybrid.images import skopeo

            return skopeo.fetch(whole, wanted or manifest.here(), self._has, self.blobs, work, lock, progress)

        with self._making(str(whole)):
            image = self._make(fetch, whole.transport, progress)
            return self._named(image, str(whole))

    def push(self, name: str, target: str | None = None, progress: Progress | None = None) -> str:
        """Send an image to a registry as `target` (as its own name, if None). Its name with its digest."""
        from hybrid.images import skopeo

        image = self.get(name)
        wanted = reference.parse(target or next((each for each in candidates(name) if each in image.names), name))
        if wanted.registry == reference.LOCAL or wanted.digest:
            mend = f"say where to: hybrid image push {name} REGISTRY/NAME:TAG"
            raise ImageError(f"{wanted} is no place in a registry", mend=mend)
        given = (image.directory / "manifest.json").read_bytes()
        with self.blobs.using(), self._work() as (work, lock):
            skopeo.push(given, self.blobs, wanted, work, lock, progress or Quiet())
        return f"{wanted.registry}/{wanted.path}@{image.digest}"

    def tag(self, name: str, new: str) -> Image:
        """Give an image one more name; another image that had it loses it."""
        return self._named(self.get(name), str(reference.local(new)))

    def get(self, name: str) -> Image:
        """The image of that name, digest, or beginning of a digest; ImageError when there is none."""
        image = self._find(name)
        if image is None:
            raise self._unknown(name)
        return image

    def has(self, name: str) -> bool:
        """Whether there is an image of that name, or digest, damaged or not."""
        return self._digest(name) is not None

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
        """Forget a name; with its last name, or when `name` is a digest, remove the image, damaged or not.

        ImageError when an instance uses it.
        """
        digest = self._digest(name)
        if digest is None:
            raise self._unknown(name)
        names = tuple(self.names.of(digest))
        given = next((each for each in candidates(name) if each in names), None)
        if given and len(names) > 1:
            self.names.forget(given)
            return
        users = self.users(digest)
        if users:
            raise ImageError(
                f"image {name} is in use by {', '.join(users)}", mend=f"hybrid rm {' '.join(users)}, then try again"
            )
        for each in names:
            self.names.forget(each)
        hidden = self.directory / f".work-{secrets.token_hex(6)}"
        self._path(digest).rename(hidden)
        _remove(hidden)
        self.blobs.sweep(self.used_blobs())

    def users(self, digest: str) -> list[str]:
        """The names of the instances that use an image."""
        return [record.name for record in InstanceStore(self.home) if record.image == digest]

    def used_blobs(self, images: Collection[str] | None = None) -> set[str]:
        """The digests of the blobs that these images, or all, are made of; of a damaged one as far as can be read."""
        used: set[str] = set()
        for path in self.directory.glob("sha256/*/manifest.json"):
            if images is None or f"sha256:{path.parent.name}" in images:
                with suppress(HybridError, OSError):
                    used |= {blob.digest for blob in manifest.parse(path.read_bytes()).blobs}
        return used

    def sweep(self) -> None:
        """Remove what killed processes left half made."""
        if not self.directory.exists():
            return
        with self._locked("work"):
            for leftover in self.directory.glob(".work-*"):
                try:
                    with locked(leftover / "lock", wait=False):
                        erase(leftover)
                except BlockingIOError:
                    continue
                except FileNotFoundError:
                    continue

    # Making them

    def _made(self, source: Made, progress: Progress | None, *, again: bool, never: bool = False) -> Image:
        from hybrid.images import sources

        key, title = sources.identify(source)
        build = hashlib.sha256(key.encode()).hexdigest()
        with self._making(key):
            digest = None if again else self.builds.get(build)
            if digest and (image := self._existing(digest)):
                return image
            if never:
                mend = "hybrid image build SPEC, or leave out `pull_policy: never`"
                raise ImageError(f"the image of {title} is not made yet", mend=mend)
            image = self._make(lambda *given: sources.make(source, self.home, *given), title, progress)
            self.builds.set(build, image.digest)
            return image

    def _make(self, make: Make, title: str, progress: Progress | None) -> Image:
        """Fetch or build, look through, unpack, and give the result its name in one step. Nothing half made stays."""
        from hybrid.images import layout, mtree

        told = progress or Quiet()
        with disk_full_told(self.directory), self.blobs.using(), self._work() as (work, lock):
            made = make(work, lock, told)
            if image := self._existing(made.digest):
                return image
            _check_platform(made.config)
            final = work / "final"
            final.mkdir(mode=0o711)
            told.step("unpacking")
            sizes = layout.unpack(made, final / "rootfs", work)
            recorded = mtree.write(final / "rootfs", final / "mtree")
            (final / "manifest.json").write_bytes(made.manifest)
            (final / "config.json").write_bytes(made.config)
            values = {"digest": made.digest, "source": title, "tree_bytes": recorded.bytes, "mtree": recorded.digest}
            (final / "image.json").write_text(json.dumps(values | {"layers": sizes, "made": time.time()}))
            self._keep_blobs(made)
            self._commit(final, made.digest)
            return self._load(made.digest)

    def _keep_blobs(self, made: Layout) -> None:
        parsed = manifest.parse(made.manifest)
        self.blobs.add(parsed.config.digest, made.config)
        if made.blobs != self.blobs.directory:
            for layer in dict.fromkeys(parsed.layers):
                self.blobs.take(made.blobs / layer.hex, layer.digest)

    def _commit(self, final: Path, digest: str) -> None:
        target = self._path(digest)
        _directory(target.parent)
        try:
            final.rename(target)
        except OSError:  # another process was quicker
            if not self._has(digest):
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
        digest = self._digest(name)
        return self._existing(digest) if digest else None

    def _digest(self, name: str) -> str | None:
        """The digest of the image that `name` stands for."""
        for each in candidates(name):
            if (digest := self.names.get(each)) and self._has(digest):
                return digest
        if match := _SHORT.fullmatch(name):
            found = list(self.directory.glob(f"sha256/{match[1]}*"))
            return f"sha256:{found[0].name}" if len(found) == 1 else None
        return None

    def _has(self, digest: str) -> bool:
        return self._path(digest).is_dir()

    def _named(self, image: Image, name: str) -> Image:
        self.names.set(name, image.digest)
        return self._load(image.digest)

    def _path(self, digest: str) -> Path:
        return self.directory / digest.replace(":", "/")

    def _existing(self, digest: str) -> Image | None:
        return self._load(digest) if self._has(digest) else None

    def details(self, image: Image) -> dict[str, Any]:
        """What the store wrote down of an image when it was made."""
        values: dict[str, Any] = json.loads((image.directory / "image.json").read_bytes())
        return values

    def _load(self, digest: str) -> Image:
        """The image of that digest. That its manifest and config are still what the digest says is checked."""
        directory = self._path(digest)
        try:
            values = json.loads((directory / "image.json").read_bytes())
            told = _verified((directory / "manifest.json").read_bytes(), digest, "manifest")
            expected = manifest.parse(told).config.digest
            image = Image(
                digest=digest,
                directory=directory,
                config=config.parse(_verified((directory / "config.json").read_bytes(), expected, "config")),
                source=str(values["source"]),
                tree_bytes=int(values["tree_bytes"]),
            )
        except (OSError, ValueError, KeyError, TypeError, ImageError) as error:
            raise ImageError(
                f"the image {digest[7:19]} in the store is damaged: {error}",
                where=str(directory),
                mend=f"hybrid image rm {digest[7:19]}, and make the image again",
            ) from None
        return replace(image, names=tuple(self.names.of(digest)))

    def _unknown(self, name: str, more: str = "") -> ImageError:
        mend = f"hybrid image pull {name}, or hybrid image build SPEC; hybrid image ls lists what there is"
        return ImageError(f"no image is named {name!r} here", mend=f"{mend}; {more}" if more else mend)


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
        erase(work)


def _directory(path: Path) -> None:
    """A directory that an unprivileged container root can pass through, and only that."""
    if not path.is_dir():
        path.mkdir(parents=True, mode=0o711, exist_ok=True)


def _verified(data: bytes, digest: str, what: str) -> bytes:
    if f"sha256:{hashlib.sha256(data).hexdigest()}" != digest:
        raise ValueError(f"its {what} was changed")
    return data


def _platform(found: ImageConfig) -> Platform:
    return manifest.Platform(found.os, found.architecture)


def _is_for(image: Image, wanted: Platform) -> bool:
    return (image.config.os, image.config.architecture) == (wanted.os, wanted.architecture)


def _check_platform(data: bytes) -> None:
    found = _platform(config.parse(data))
    if not found.runnable:
        raise ImageError(
            f"the image is for {str(found)[:40]!r}, this machine is {manifest.here()}",
            mend="use an image for this machine",
        )
