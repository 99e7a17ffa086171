"""Images in files for others to use. Archives are made here, bootable disks by the drivers.

A file appears whole, with its checksum beside it, or not at all.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybrid.errors import ImageError, ToolError
from hybrid.images.tools import watch
from hybrid.process import need

if TYPE_CHECKING:
    from hybrid.image import Image
    from hybrid.images.blobs import Blobs
    from hybrid.images.progress import Progress
    from hybrid.spec import Spec


class Format(StrEnum):
    """The forms of an exported image."""

    OCI_ARCHIVE = "oci-archive"
    DOCKER_ARCHIVE = "docker-archive"
    ROOTFS_TAR = "rootfs-tar"
    QCOW2 = "qcow2"
    RAW = "raw"
    VMDK = "vmdk"
    VDI = "vdi"
    VHDX = "vhdx"
    OVA = "ova"

    @property
    def bootable(self) -> bool:
        """Whether it is a disk rather than an archive."""
        return self not in (Format.OCI_ARCHIVE, Format.DOCKER_ARCHIVE, Format.ROOTFS_TAR)


# The file


def epoch() -> int:
    """The time, in seconds, that exported files say they were made at: SOURCE_DATE_EPOCH, else FAT's first."""
    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    return int(given) if given.isascii() and given.isdigit() and len(given) < 12 else 315532800


def checksum_file(target: Path) -> Path:
    """Where the checksum of an exported file is, in the form that `sha256sum -c` reads."""
    return target.with_name(f"{target.name}.sha256")


@contextmanager
def exported(target: Path, *, force: bool) -> Iterator[tuple[Path, Path]]:
    """Where to put what is to become `target` (of the same name), and a directory for what is needed on the way.

    When the block ends the file and its checksum take their places; if it fails, nothing is left. What is
    there already is replaced only with `force`.
    """
    check(target, force=force)
    with _told(target), tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name[:200]}.") as work:
        made, scratch = Path(work) / "made" / target.name, Path(work) / "scratch"
        made.parent.mkdir()
        scratch.mkdir()
        yield made, scratch
        with made.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
        line = Path(work) / "checksum"
        line.write_bytes(f"{digest}  ".encode() + os.fsencode(target.name) + b"\n")
        checksum_file(target).unlink(missing_ok=True)  # no moment in which it is that of another file
        _take_name(made, target, force=force)
        line.rename(checksum_file(target))


def check(target: Path, *, force: bool) -> None:
    """ImageError when `target` cannot be written, or is there and may not be replaced."""
    if target.is_dir() or not target.name:
        raise ImageError("the output is a directory", where=str(target), mend="name a file")
    if not target.parent.is_dir():
        raise ImageError("the output's directory does not exist", where=str(target.parent), mend="make it first")
    taken = [path for path in (target, checksum_file(target)) if path.exists() or path.is_symlink()]
    if taken and not force:
        raise _taken(taken[0])


def _take_name(made: Path, target: Path, *, force: bool) -> None:
    """Give the file its name; without `force` not even in the place of one that has come meanwhile."""
    if force:
        made.rename(target)
        return
    try:
        target.hardlink_to(made)
    except FileExistsError:
        raise _taken(target) from None
    except OSError:  # a file system without links
        made.rename(target)


def _taken(path: Path) -> ImageError:
    return ImageError("there is a file of that name already", where=str(path), mend="another --output, or --force")


@contextmanager
def _told(target: Path) -> Iterator[None]:
    """What goes wrong with the disk, in words."""
    mend = "free some, or write to a larger disk"
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ImageError("no space is left for the export", where=str(target.parent), mend=mend) from None
        if isinstance(error, PermissionError) or error.errno == errno.EROFS:
            raise ImageError(
                f"the output cannot be written: {error.strerror}", where=str(target), mend="choose another place"
            ) from None
        raise
    except ToolError as error:
        if os.strerror(errno.ENOSPC).lower() not in error.stderr.lower():
            raise
        raise ImageError("no space is left for the export", where=str(target.parent), mend=mend) from None


# Archives


def archive(
    spec: Spec, image: Image, blobs: Blobs, form: Format, name: str, target: Path, scratch: Path, progress: Progress
) -> None:
    """Write the image, as `spec` would have it run, to `target`. `name` is what it is called where it is loaded.

    Where the spec says nothing it is the image as it came, layer for layer.
    """
    from hybrid.images import rootfs, skopeo

    progress.step(f"writing the {form}")
    if form is Format.ROOTFS_TAR:
        rootfs.pack(image.tree, target)
        return
    with blobs.using():
        source = _source(spec, image, blobs, scratch / "image")
        if form is Format.DOCKER_ARCHIVE:
            skopeo.write(f"dir:{source.name}", f"{form}:archive:{name}", scratch)
            (scratch / "archive").rename(target)
        else:  # skopeo's own archive would hold the time at which it was made
            skopeo.write(f"dir:{source.name}", f"oci:layout:{name}", scratch)
            _pack(scratch / "layout", target)


def _pack(layout: Path, target: Path) -> None:
    """A tar of an OCI layout: equal ones give equal bytes."""
    fixed = ["--sort=name", "--format=ustar", f"--mtime=@{epoch()}", "--owner=0", "--group=0", "--numeric-owner"]
    members = sorted(path.name for path in layout.iterdir())
    watch([need("tar"), *fixed, "--mode=u=rwX,go=rX", "-C", layout, "-cf", target, *members], lambda line: None)


def _source(spec: Spec, image: Image, blobs: Blobs, directory: Path) -> Path:
    """A directory that skopeo reads: the image's layers under a config that says what the spec says."""
    from hybrid.images import config, skopeo

    given = (image.directory / "manifest.json").read_bytes()
    source = skopeo.as_dir(given, blobs, directory)
    document = config.load_json((image.directory / "config.json").read_bytes(), "config")
    told = configured(document, spec, image)
    if told != document:
        data = json.dumps(told, sort_keys=True, separators=(",", ":")).encode()
        digest = hashlib.sha256(data).hexdigest()
        (source / digest).write_bytes(data)
        listed = config.load_json(given, "manifest")
        listed["config"] |= {"digest": f"sha256:{digest}", "size": len(data)}
        (source / "manifest.json").write_text(json.dumps(listed))
    return source


def configured(document: Mapping[str, Any], spec: Spec, image: Image) -> dict[str, Any]:
    """An image's config with what the spec says over it, by Docker's rules. What it says nothing of is kept."""
    config = dict(document.get("config") or {})
    if spec.entrypoint is not None:
        config["Entrypoint"] = list(spec.entrypoint)
        config.pop("Cmd", None)
    if spec.command is not None:
        config["Cmd"] = list(spec.command)
    if spec.environment:
        merged = {**image.config.env, **spec.environment}
        config["Env"] = [f"{name}={value}" for name, value in merged.items()]
    if spec.labels:
        config["Labels"] = {**image.config.labels, **spec.labels}
    given = {"WorkingDir": spec.working_dir, "User": spec.user}
    config |= {key: value for key, value in given.items() if value is not None}
    if spec.stop_signal is not None:
        config["StopSignal"] = str(spec.stop_signal)
    if spec.healthcheck is not None:
        config["Healthcheck"] = _healthcheck(spec, image)
    return {**document, "config": config}


def _healthcheck(spec: Spec, image: Image) -> dict[str, Any]:
    """Docker's form of the spec's healthcheck; times in nanoseconds."""
    assert spec.healthcheck is not None
    check = spec.healthcheck.resolve(image.config.healthcheck)
    if check is None:
        return {"Test": ["NONE"]}
    times = {"Interval": check.interval, "Timeout": check.timeout, "StartPeriod": check.start_period}
    return {
        "Test": ["CMD", *check.test],
        **{name: round(seconds * 1e9) for name, seconds in times.items() if seconds},
        "Retries": check.retries,
    }


def archive_name(spec: Spec, image: Image, target: str) -> str:
    """What an exported image is called: as it was asked for if that is one of its names, else as it is named here."""
    from hybrid.images import reference
    from hybrid.images.names import candidates

    names = [name for name in image.names if "@" not in name]
    if asked := [name for name in candidates(target) if name in names]:
        return asked[0]
    if names:
        return names[0]
    try:
        return str(reference.local(spec.source.stem.lower() if spec.source else "image"))
    except ImageError:
        return str(reference.local("image"))
