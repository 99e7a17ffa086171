"""An image whose blobs are on this disk: made of a single tar, taken over from skopeo's `dir:`, unpacked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybrid.images import layers, manifest
from hybrid.images.config import MAX_BYTES, damaged, load_json
from hybrid.images.limits import limits
from hybrid.images.manifest import OCI, Descriptor
from hybrid.images.unpack import Unpacker

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


def unpack(layout: Layout, rootfs: Path, work: Path) -> list[int]:
    """Unpack every layer to `rootfs` with owners, modes, links and extended attributes as they are in the image.

    Before that every layer is looked through: ImageError when it is not what it says, or not to be trusted.
    Returns each layer's bytes, uncompressed.
    """
    plain = work / "plain"
    plain.mkdir()
    contents = layers.Contents(limits())
    parsed = manifest.parse(layout.manifest)
    if digest_of(layout.config) != parsed.config.digest:
        raise damaged("config", "its digest is another")
    diff_ids = _diff_ids(layout.config, len(parsed.layers))
    whiteouts = []
    for number, (layer, diff_id) in enumerate(zip(parsed.layers, diff_ids, strict=True)):
        layers.look(layout.blobs / layer.hex, layer, diff_id, plain / str(number), contents)
        whiteouts.append(contents.whiteouts)
    with Unpacker(rootfs, work / "trash") as unpacker:
        for number, names in enumerate(whiteouts):
            unpacker.layer(plain / str(number), names, parsed.layers[number].digest)
        unpacker.finish()
    return [(plain / str(number)).stat().st_size for number in range(len(diff_ids))]


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
