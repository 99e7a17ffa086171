"""A VM's disk: one ext4 file per image, made from the tree without mounting, and a qcow2 layer per instance."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from hybrid.errors import HostError, ToolError
from hybrid.home import Home
from hybrid.image import Image
from hybrid.process import PIPE, STDOUT, need, run, spawn
from hybrid.store import locked
from vm import times

RECIPE = 2
"""Counts the ways in which a tree was made into a disk: what an earlier way made is not used."""
SIZE = 10 << 30
"""Bytes that the guest sees; the file is sparse and takes only what is written."""


def image_disk(home: Home, image: Image) -> Path:
    """The ext4 file of an image, made when it is missing. Atomic, and safe in parallel."""
    folder = home.cache / "disks"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{image.digest.removeprefix('sha256:')}-{RECIPE}.ext4"
    if path.exists():
        return path
    with locked(folder / f"{path.name}.lock"):
        if not path.exists():
            temporary = path.with_suffix(".tmp")
            try:
                make_ext4(image.tree, temporary)
                temporary.rename(path)
            finally:
                temporary.unlink(missing_ok=True)
    return path


def make_ext4(tree: Path, path: Path) -> None:
    """Write `tree`, with owners, links, devices and extended attributes, to a new ext4 file system.

    The journal is kept small: a guest's writes must survive its being killed, and no more.
    """
    with path.open("wb") as file:
        file.truncate(SIZE)
    write_ext4(tree, path, size=SIZE)


def write_ext4(
    tree: Path, path: Path, *, size: int, offset: int = 0, identity: str | None = None, epoch: int | None = None
) -> None:
    """Write `tree` to a new ext4 file system of `size` bytes, `offset` bytes into an existing file.

    `identity`, a UUID, and `epoch`, in seconds, take the place of what would be random and of the time now.
    """
    options = f"lazy_itable_init=1,lazy_journal_init=1,root_owner=0:0,offset={offset}"
    fixed = [] if identity is None else ["-U", identity]
    env = None if epoch is None else {**os.environ, "E2FSPROGS_FAKE_TIME": str(epoch)}
    try:
        run(
            [
                need("mke2fs", "e2fsprogs"),
                *("-q", "-F", "-t", "ext4", "-m", "0", "-J", "size=8", *fixed),
                *("-E", options if identity is None else f"{options},hash_seed={identity}"),
                *("-d", tree, path, f"{size >> 10}k"),
            ],
            env=env,
        )
        times.mend(tree, path, offset)
        if not os.path.lexists(tree / "lost+found"):
            _edit(path, offset, ["rmdir lost+found"], env)  # mke2fs makes one: the image does not know it
        elif epoch is not None:
            _edit(path, offset, ["set_super_value mnt_count 0"], env)  # and with it the time of the last write
    except ToolError as error:
        if "No space left" in error.stderr or "short write" in error.stderr:
            raise HostError("the disk is full", where=str(path), mend="free some space, or set HYBRID_HOME") from None
        raise HostError(f"the VM's disk cannot be made: {error.what}", where=str(path), mend="hybrid doctor") from None


def _edit(path: Path, offset: int, commands: Sequence[str], env: Mapping[str, str] | None) -> None:
    """Change a file system by debugfs(8). ToolError when it says anything: its exit code does not tell."""
    with path.open("r+b") as file:  # its name may hold a character that debugfs takes for its own
        disk = f"/proc/self/fd/{file.fileno()}?offset={offset}"
        argv = [need("debugfs", "e2fsprogs"), "-w", "-f", "-", disk]
        with spawn(argv, stdin=PIPE, stdout=PIPE, stderr=STDOUT, pass_fds=[file.fileno()], env=env) as child:
            said = child.communicate("".join(f"{each}\n" for each in commands).encode())[0].decode(errors="replace")
    errors = [line for line in said.splitlines() if line.strip() and not line.startswith("debugfs")]
    if errors or child.returncode != 0:
        raise ToolError(f"debugfs: {(errors or ['failed'])[0]}", returncode=1, stderr=said)


def instance_disk(base: Path, path: Path) -> None:
    """A copy-on-write layer over the image's disk."""
    try:
        run([need("qemu-img", "qemu-utils"), "create", "-q", "-f", "qcow2", "-F", "raw", "-b", base, path])
    except ToolError as error:
        raise HostError(
            f"the writable layer cannot be made: {error.what}", where=str(path), mend="hybrid doctor"
        ) from None
