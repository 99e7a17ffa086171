"""Copying images with skopeo: from a registry or an archive into a directory, nothing converted."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from hybrid import process
from hybrid.errors import ImageError, ToolError
from hybrid.images.layout import Layout, from_dir
from hybrid.images.progress import Progress
from hybrid.images.reference import Reference
from hybrid.images.tools import watch

_MESSAGE = re.compile(r'msg="((?:[^"\\]|\\.)*)"')


def fetch(reference: Reference, work: Path, lock: int, progress: Progress) -> Layout:
    """The image that a registry has under `reference`, for this machine's architecture.

    Its digest, where the reference gives one, is verified. ImageError says which of all that can go wrong did.
    """
    progress.step(f"pulling {reference}")
    options = ["--src-tls-verify=false"] if reference.loopback else []
    try:
        return _copy(reference.transport, work, lock, options)
    except ToolError as error:
        raise _explain(reference, error) from None


def read(archive: Path, source: str, work: Path, lock: int, progress: Progress) -> Layout:
    """The image in `archive`, which skopeo finds under `source` (transport and path)."""
    progress.step(f"reading {archive.name}")
    try:
        return _copy(source, work, lock, [])
    except ToolError as error:
        raise ImageError(
            f"the archive cannot be read: {_cause(error)}",
            where=str(archive),
            mend="save one image to it again, with docker save, podman save or skopeo copy",
        ) from None


def _copy(source: str, work: Path, lock: int, options: Sequence[str]) -> Layout:
    policies = (Path.home() / ".config/containers/policy.json", Path("/etc/containers/policy.json"))
    policy = [] if any(path.exists() for path in policies) else ["--insecure-policy"]
    argv = [process.need("skopeo"), *policy, "copy", "--quiet", *options, source, f"dir:{work / 'fetched'}"]
    watch(argv, lambda line: None, pass_fds=[lock], env={"TMPDIR": str(work)})
    return from_dir(work / "layout", work / "fetched", lock)


def _cause(error: ToolError) -> str:
    """Skopeo's last message without its logging."""
    found = _MESSAGE.findall(error.stderr)
    return str(found[-1] if found else error.what).replace('\\"', '"').replace("\\n", " ")[:400]


def _explain(reference: Reference, error: ToolError) -> ImageError:
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
        return ImageError(f"{registry} does not let this user read {reference.path}", mend=mend)
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
    return ImageError(f"{reference} cannot be pulled: {cause}", mend="see what the registry says")


def _which(reference: Reference) -> str:
    return f"@{reference.digest}" if reference.digest else f":{reference.tag}"


def _tail(cause: str) -> str:
    """The innermost part of a chain of Go errors, which is the one that says something."""
    parts = cause.split(": ")
    return ": ".join(parts[-2:]) if len(parts) > 1 else cause
