"""An image whose blobs are on this disk: made of a single tar, taken over from skopeo's `dir:`, unpacked by umoci."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybrid import process
from hybrid.errors import ImageError, ToolError
from hybrid.images import layers, manifest
from hybrid.images.config import MAX_BYTES, damaged, load_json
from hybrid.images.limits import limits
from hybrid.images.manifest import OCI, Descriptor
from hybrid.images.tools import watch
from hybrid.inroot import open_in

TAG = "image"


@dataclass(frozen=True, slots=True)
class Layout:
    """An image whose blobs are all on this disk, ready to be looked through and unpacked."""

    manifest: bytes
    """As its source gave it: its digest names the image."""
    config: bytes
    blobs: Path
    """The directory that has each blob under the digits of its digest."""

    @property
    def digest(self) -> str:
        return digest_of(self.manifest)


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def from_tar(directory: Path, tar: Path, *, created: str, config: Mapping[str, Any] | None = None) -> Layout:
    """An OCI layout whose one layer is `tar` (uncompressed; moved).

    Its config is `config` with this layer for those that it names; without one it says nothing else. Equal
    bytes and `created` give equal digests.
    """
    blobs = directory / "blobs/sha256"
    blobs.mkdir(parents=True)
    layer = Descriptor(f"{OCI}.layer.v1.tar", file_digest(tar), tar.stat().st_size)
    tar.rename(blobs / layer.hex)
    given = config or {
        "architecture": manifest.here().architecture,
        "os": "linux",
        "config": {},
        "history": [{"created": created, "created_by": "hybrid image build"}],
    }
    rootfs = {"type": "layers", "diff_ids": [layer.digest]}
    written = _json({**({"created": created} if created else {}), **given, "rootfs": rootfs})
    return Layout(_write(directory, written, [layer]), written, blobs)


def from_dir(fetched: Path) -> Layout:
    """What skopeo put in `dir:fetched`."""
    given = bounded(fetched / "manifest.json")
    config = bounded(fetched / manifest.parse(given).config.hex)
    return Layout(given, config, fetched)


def unpack(layout: Layout, rootfs: Path, work: Path, lock: int) -> list[int]:
    """Unpack every layer to `rootfs` with owners, modes, links and extended attributes as they are in the image.

    Before that every layer is looked through: ImageError when it is not what it says, or not to be trusted.
    Returns each layer's bytes, uncompressed.
    """
    oci = work / "plain"
    contents = layers.Contents(limits())
    plain = []
    blobs = oci / "blobs/sha256"
    blobs.mkdir(parents=True)
    parsed = manifest.parse(layout.manifest)
    if digest_of(layout.config) != parsed.config.digest:
        raise damaged("config", "its digest is another")
    for layer, diff_id in zip(parsed.layers, _diff_ids(layout.config, len(parsed.layers)), strict=True):
        target = blobs / diff_id.partition(":")[2]
        if target.exists():  # an image may have the same layer twice
            layers.look(layout.blobs / layer.hex, layer, diff_id, work / "again", contents)
            (work / "again").unlink()
        else:
            layers.look(layout.blobs / layer.hex, layer, diff_id, target, contents)
        plain.append(Descriptor(f"{OCI}.layer.v1.tar", diff_id, target.stat().st_size))
    _write(oci, layout.config, plain)
    _umoci(oci, rootfs, lock)
    _dig_holes(rootfs, contents.sparse)
    return [layer.size for layer in plain]


def _umoci(oci: Path, rootfs: Path, lock: int) -> None:
    argv = [process.need("umoci"), "raw", "unpack", "--image", f"{oci}:{TAG}"]
    rootless = [] if os.geteuid() == 0 else ["--rootless"]
    try:
        watch([*argv, *rootless, rootfs], lambda line: None, pass_fds=[lock], largest=limits().bytes)
    except ToolError as error:
        raise ImageError(
            f"the image cannot be unpacked: {error.what.rpartition('error: ')[2][:300]}", mend="fetch or build it again"
        ) from None


def _dig_holes(rootfs: Path, names: Iterable[bytes]) -> None:
    """Give the files that had holes in the layer their holes back: umoci writes them out as zeros."""
    root = os.open(rootfs, os.O_PATH | os.O_DIRECTORY)
    try:
        for name in names:
            with suppress(OSError):
                _dig(root, os.fsdecode(name))
    finally:
        os.close(root)


def _dig(root: int, name: str) -> None:
    file = open_in(root, name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        before = os.fstat(file)
        process.run([process.need("fallocate", "util-linux"), "--dig-holes", f"/proc/self/fd/{file}"], pass_fds=[file])
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    except ToolError:
        return  # the file system has no holes: it takes more room, no more
    finally:
        os.close(file)


def bounded(path: Path) -> bytes:
    """A small blob; ImageError when it is missing. What is too large does not parse."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise damaged("manifest", f"{path.name[:12]} is missing") from None


def _diff_ids(config: bytes, count: int) -> list[str]:
    rootfs = load_json(config, "config").get("rootfs")
    found = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(found, list) or len(found) != count or not all(manifest.is_digest(each) for each in found):
        raise damaged("config", "its layers are not the manifest's")
    return [str(each) for each in found]


def _write(oci: Path, config: bytes, found: list[Descriptor]) -> bytes:
    """What makes an OCI layout of a directory of layers; returns its manifest."""
    blobs = oci / "blobs/sha256"
    made = _manifest(config, found)
    for data in (config, made):
        (blobs / digest_of(data).partition(":")[2]).write_bytes(data)
    entry = Descriptor(f"{OCI}.manifest.v1+json", digest_of(made), len(made)).values()
    entry["annotations"] = {"org.opencontainers.image.ref.name": TAG}
    (oci / "oci-layout").write_bytes(_json({"imageLayoutVersion": "1.0.0"}))
    (oci / "index.json").write_bytes(_json({"schemaVersion": 2, "manifests": [entry]}))
    return made


def _manifest(config: bytes, found: list[Descriptor]) -> bytes:
    return _json(
        {
            "schemaVersion": 2,
            "mediaType": f"{OCI}.manifest.v1+json",
            "config": Descriptor(f"{OCI}.config.v1+json", digest_of(config), len(config)).values(),
            "layers": [layer.values() for layer in found],
        }
    )


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
