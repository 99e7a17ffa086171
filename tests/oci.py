"""Images for tests, made entry by entry: tars with anything in them, and OCI layouts of such tars."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
TIME = 1_700_000_000

Entry = tuple[tarfile.TarInfo, bytes]


def entry(
    name: str | bytes,
    kind: bytes = tarfile.REGTYPE,
    link: str = "",
    data: bytes = b"",
    *,
    mode: int | None = None,
    owner: tuple[int, int] = (0, 0),
    device: tuple[int, int] = (0, 0),
    xattrs: Mapping[str, str] | None = None,
    size: int | None = None,
) -> Entry:
    """One member of a tar; names may be any bytes."""
    info = tarfile.TarInfo(name if isinstance(name, str) else name.decode("utf-8", "surrogateescape"))
    info.type, info.linkname, info.size, info.mtime = kind, link, len(data) if size is None else size, TIME
    info.mode = mode if mode is not None else 0o755 if kind == tarfile.DIRTYPE else 0o644
    info.uid, info.gid = owner
    info.devmajor, info.devminor = device
    info.pax_headers = {f"SCHILY.xattr.{key}": value for key, value in (xattrs or {}).items()}
    return info, data


def folder(name: str, mode: int = 0o755, owner: tuple[int, int] = (0, 0)) -> Entry:
    return entry(name, tarfile.DIRTYPE, mode=mode, owner=owner)


def tar(*entries: Entry, root: bool = True) -> bytes:
    """An uncompressed tar of the entries; with `root`, after the tree's own directory."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, errors="surrogateescape") as file:
        for info, data in ((folder("./"),) if root else ()) + entries:
            file.addfile(info, io.BytesIO(data))
    return out.getvalue()


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def config(layers: Sequence[bytes], **values: Any) -> bytes:
    """The config of an image with these layers (uncompressed); `values` are its `config`."""
    document = {
        "created": "2023-11-14T22:13:20Z",
        "architecture": ARCHITECTURE,
        "os": "linux",
        "config": values,
        "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
        "history": [{"created": "2023-11-14T22:13:20Z", "created_by": f"step {n}"} for n, _ in enumerate(layers)],
    }
    return json.dumps(document).encode()


def layout(
    directory: Path,
    layers: Sequence[bytes],
    *,
    compress: bool = False,
    change: Mapping[str, Any] | None = None,
    **values: Any,
) -> Path:
    """An OCI layout; `change` replaces keys of the first layer's descriptor."""
    blobs = directory / "blobs/sha256"
    blobs.mkdir(parents=True)

    def put(data: bytes, kind: str) -> dict[str, Any]:
        (blobs / digest(data)[7:]).write_bytes(data)
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": digest(data), "size": len(data)}

    kind = "layer.v1.tar+gzip" if compress else "layer.v1.tar"
    descriptors = [put(gzip.compress(layer, mtime=0) if compress else layer, kind) for layer in layers]
    descriptors[0] |= change or {}
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": put(config(layers, **values), "config.v1+json"),
        "layers": descriptors,
    }
    described = put(json.dumps(manifest).encode(), "manifest.v1+json")
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [described]}))
    return directory
