"""Copying images with skopeo: from a registry or an archive to this disk and back, nothing converted."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from hybrid import process
from hybrid.errors import ImageError, ToolError
from hybrid.images import manifest
from hybrid.images.blobs import Blobs
from hybrid.images.compression import too_large
from hybrid.images.config import MAX_BYTES
from hybrid.images.layout import Layout, bounded, digest_of, from_dir
from hybrid.images.limits import limits
from hybrid.images.manifest import Descriptor, Manifest, Platform
from hybrid.images.progress import Progress
from hybrid.images.reference import Reference
from hybrid.images.tools import watch

_MESSAGE = re.compile(r'msg="((?:[^"\\]|\\.)*)"')
_MAX_LISTS = 4
"""How many manifest lists may lead to one another."""
_DIR_VERSION = "Directory Transport Version: 1.1\n"


def fetch(
    reference: Reference,
    wanted: Platform,
    have: Callable[[str], bool],
    blobs: Blobs,
    work: Path,
    lock: int,
    progress: Progress,
) -> Layout:
    """The image that a registry has under `reference` for a platform; its blobs come among `blobs`.

    What is there already is not fetched: nothing at all when `have` says so of the image's digest. Every
    digest is verified. ImageError says which of all that can go wrong did.
    """
    progress.step(f"pulling {reference}")
    try:
        found, given = _resolve(reference, wanted)
        if have(digest_of(given)):
            return Layout(given, b"", blobs.directory)
        parsed = manifest.parse(given)
        _check_sizes(parsed)
        _fetch_blobs(found, parsed, blobs, work, lock, progress)
        return Layout(given, _config(found, parsed.config, blobs), blobs.directory)
    except ToolError as error:
        raise _explain(reference, error) from None


def read(archive: Path, source: str, work: Path, lock: int, progress: Progress) -> Layout:
    """The image in `archive`, which skopeo finds under `source` (transport and path)."""
    progress.step(f"reading {archive.name}")
    try:
        _copy([source, f"dir:{work / 'fetched'}"], work, lock)
    except ToolError as error:
        raise ImageError(
            f"the archive cannot be read: {_cause(error)}",
            where=str(archive),
            mend="save one image to it again, with docker save, podman save or skopeo copy",
        ) from None
    return from_dir(work / "fetched")


def push(given: bytes, blobs: Blobs, reference: Reference, work: Path, lock: int, progress: Progress) -> None:
    """Send an image, whose manifest is `given`, to a registry as it is: its digest stays the same."""
    progress.step(f"pushing {reference}")
    source = as_dir(given, blobs, work / "pushed")
    options = ["--dest-tls-verify=false"] if plain(reference) else []
    try:
        _copy([*options, "--preserve-digests", f"dir:{source}", reference.transport], work, lock)
    except ToolError as error:
        raise _explain(reference, error, "push") from None


def write(source: str, destination: str, work: Path) -> None:
    """Copy between files, named from the directory `work`, as skopeo's transports name them."""
    try:
        argv = [process.need("skopeo"), *_policy(), "copy", "--quiet", source, destination]
        watch(argv, lambda line: None, cwd=work, env={"TMPDIR": str(work)})
    except ToolError as error:
        mend = "hybrid image verify says whether the image is whole"
        raise ImageError(f"the archive cannot be written: {_cause(error)}", mend=mend) from None


def as_dir(given: bytes, blobs: Blobs, directory: Path) -> Path:
    """A directory that skopeo reads as `dir:DIRECTORY`: the manifest, and links to the blobs."""
    directory.mkdir()
    (directory / "version").write_text(_DIR_VERSION)
    (directory / "manifest.json").write_bytes(given)
    for blob in manifest.parse(given).blobs:
        path = blobs.path(blob.digest)
        if not path.exists():
            raise ImageError(f"the image's blob {blob.hex[:12]} is missing", mend="fetch or build the image again")
        (directory / blob.hex).symlink_to(path)
    return directory


def plain(reference: Reference) -> bool:
    """Whether a registry may be spoken to without TLS, or with a certificate that nobody vouches for.

    As in Docker that is one on this machine; but not when its authority's certificate is installed.
    """
    homes = (Path.home() / ".config/containers/certs.d", Path("/etc/containers/certs.d"), Path("/etc/docker/certs.d"))
    return reference.loopback and not any((home / reference.registry).is_dir() for home in homes)


def _resolve(reference: Reference, wanted: Platform) -> tuple[Reference, bytes]:
    """The manifest for this platform, and the reference that names it by digest."""
    found = reference
    for _ in range(_MAX_LISTS):
        given = _inspect(found, "--raw")
        digest = digest_of(given)
        if found.digest not in (None, digest):
            raise ImageError(
                f"{reference.registry} gave other bytes than {reference} names: {digest}", mend="check the digest"
            )
        found = Reference(reference.registry, reference.path, None, digest)
        if not manifest.is_list(given):
            return found, given
        chosen = manifest.choose(given, wanted, str(reference))
        found = Reference(reference.registry, reference.path, None, chosen.digest)
    raise ImageError(
        f"{reference} is a list of lists of images, more than {_MAX_LISTS} deep", mend="name an image in it by digest"
    )


def _inspect(reference: Reference, *what: str) -> bytes:
    options = ["--tls-verify=false"] if plain(reference) else []
    data = process.run([process.need("skopeo"), *_policy(), "inspect", *options, *what, reference.transport])
    if len(data) > MAX_BYTES:
        raise ImageError(f"the manifest of {reference} is too large", mend="use another image")
    return data


def _check_sizes(parsed: Manifest) -> None:
    bound = limits().bytes
    if sum(layer.size for layer in parsed.layers) > bound:
        raise too_large(f"has layers of more than {bound} bytes", "HYBRID_IMAGE_BYTES")


def _fetch_blobs(
    reference: Reference, parsed: Manifest, blobs: Blobs, work: Path, lock: int, progress: Progress
) -> None:
    """Fetch the missing layers, several at once; each is among the blobs when it is whole."""
    for blob in parsed.blobs:
        path = blobs.path(blob.digest)
        if path.exists() and path.stat().st_size != blob.size:
            path.unlink()
    missing = [layer for layer in dict.fromkeys(parsed.layers) if not blobs.has(layer.digest)]
    layout = work / "fetched"
    options = ["--src-tls-verify=false"] if plain(reference) else []
    options += ["--dest-oci-accept-uncompressed-layers", f"--dest-shared-blob-dir={blobs.shared}"]
    progress.amount(f"pulling {reference.path}", sum(layer.size for layer in missing), _arrived(missing, blobs, layout))
    _copy([*options, reference.transport, f"oci:{layout}:image"], work, lock, max((b.size for b in missing), default=0))


def _arrived(missing: Sequence[Descriptor], blobs: Blobs, layout: Path) -> Callable[[], int]:
    """How many bytes of the missing layers have come so far."""

    def count() -> int:
        whole = sum(layer.size for layer in missing if blobs.has(layer.digest))
        parts = 0
        for path in layout.glob("oci-put-blob*"):
            try:
                parts += path.stat().st_size
            except FileNotFoundError:
                continue
        return whole + parts

    return count


def _config(reference: Reference, config: Descriptor, blobs: Blobs) -> bytes:
    """The registry's own config; skopeo's copy of one of Docker's leaves some keys out."""
    path = blobs.path(config.digest)
    data = bounded(path) if path.exists() else _inspect(reference, "--config", "--raw")
    if digest_of(data) != config.digest:
        path.unlink(missing_ok=True)
        raise ImageError(f"{reference.registry} gave another config than the manifest names", mend="try again")
    blobs.add(config.digest, data)
    return data


def _copy(words: Sequence[str], work: Path, lock: int, largest: int = 0) -> None:
    """`skopeo copy`, no file of it larger than an image may be."""
    argv = [process.need("skopeo"), *_policy(), "copy", "--quiet", *words]
    bound = max(limits().bytes, MAX_BYTES)
    most = min(max(largest, MAX_BYTES), bound) if largest else bound
    watch(argv, lambda line: None, pass_fds=[lock], env={"TMPDIR": str(work)}, largest=most)


def _policy() -> list[str]:
    policies = (Path.home() / ".config/containers/policy.json", Path("/etc/containers/policy.json"))
    return [] if any(path.exists() for path in policies) else ["--insecure-policy"]


def _cause(error: ToolError) -> str:
    """Skopeo's last message without its logging."""
    found = _MESSAGE.findall(error.stderr)
    return str(found[-1] if found else error.what).replace('\\"', '"').replace("\\n", " ")[:400]


def _explain(reference: Reference, error: ToolError, deed: str = "pull") -> ImageError:
    cause = _cause(error)
    low = cause.lower()
    registry = reference.registry

    def told(*words: str) -> bool:
        return any(word in low for word in words)

    if told("does not match", "digest mismatch", "didn't match"):
        return ImageError(
            f"{registry} gave other bytes than {reference} names: {_tail(cause)}", mend="check the digest"
        )
    if told("unauthorized", "authentication required", "access to the resource is denied", "access denied", "403"):
        mend = f"skopeo login {registry}, and check the name"
        return ImageError(
            f"{registry} does not let this user {'read' if deed == 'pull' else 'write'} {reference.path}", mend=mend
        )
    if told("manifest unknown", "name unknown", "not found", "404", "repository name not known"):
        return ImageError(
            f"{registry} has no image {reference.path}{_which(reference)}", mend="check name, tag and digest"
        )
    if told("no image found in", "choosing an image from manifest list", "unsupported manifest"):
        return ImageError(f"{reference} has no image for this machine: {_tail(cause)}", mend="use an image for it")
    if told("x509", "certificate"):
        mend = f"install its authority's certificate in /etc/containers/certs.d/{registry}"
        return ImageError(f"the certificate of {registry} is not trusted: {_tail(cause)}", mend=mend)
    if told("pinging container registry", "dial tcp", "no such host", "connection refused", "timeout", "eof"):
        mend = "check the name, the network and that the registry runs; write REGISTRY/NAME for another one"
        return ImageError(f"the registry {registry} cannot be reached: {_tail(cause)}", mend=mend)
    return ImageError(f"{reference} cannot be {deed}ed: {cause}", mend="see what the registry says")


def _which(reference: Reference) -> str:
    return f"@{reference.digest}" if reference.digest else f":{reference.tag}"


def _tail(cause: str) -> str:
    """The innermost part of a chain of Go errors, which is the one that says something."""
    parts = cause.split(": ")
    return ": ".join(parts[-2:]) if len(parts) > 1 else cause
