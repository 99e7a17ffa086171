"""Volumes: directories that outlive instances, one each in the home, and what an instance mounts of them.

    volumes/NAME/volume.json   the record: when it was made, and its labels
    volumes/NAME/data/         its files, owned as the instances see them

A directory is made under a hidden name and renamed when it is whole. A volume is held (a shared lock on its
directory) while an instance that uses it is made, and alone by who removes it; later the instance's record
says that it is in use.

Anonymous volumes, those of an image's own `VOLUME` and those of a spec without a name, lie in the instance's
own directory: they go with the instance.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybrid import process
from hybrid.errors import HostError, InstanceError
from hybrid.inroot import open_in
from hybrid.mounts import closing, open_directory
from hybrid.store import InstanceStore, locked, now, write_atomically

if TYPE_CHECKING:
    from hybrid.home import Home
    from hybrid.image import Image
    from hybrid.spec import Spec
    from hybrid.specmounts import Mount as Wanted
NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}")
_UNNAMED = re.compile(r"[0-9a-f]{64}")
"""What a volume is called that nobody gave a name."""


@dataclass(frozen=True, slots=True)
class Volume:
    """A named volume."""

    name: str
    created: float
    """Seconds since the epoch."""
    directory: Path
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def data(self) -> Path:
        """Where its files are."""
        return self.directory / "data"


@dataclass(frozen=True, slots=True)
class Mount:
    """What an instance mounts, resolved on this host. JSON values only: it is kept in the instance's record."""

    target: str
    """Absolute, in the instance."""
    source: str | None = None
    """A directory or a file of the host; None for a tmpfs."""
    read_only: bool = False
    volume: str | None = None
    """The named volume that it is."""
    options: tuple[str, ...] = ()
    """Of a tmpfs, as mount(8) writes them."""

    @property
    def is_anonymous(self) -> bool:
        """Whether it is a volume of the instance's own, its source relative to the instance's directory."""
        return self.source is not None and not self.source.startswith("/")

    @property
    def is_directory(self) -> bool:
        """Whether what is mounted is a directory and not a file."""
        return self.source is None or self.is_anonymous or Path(self.source).is_dir()


class VolumeStore:
    """The named volumes of one home."""

    def __init__(self, home: Home) -> None:
        self.directory = home.root / "volumes"
        self._home = home

    def create(self, name: str, labels: Mapping[str, str] | None = None) -> Volume:
        """The volume of that name, made if there is none, as Docker does."""
        if not NAME.fullmatch(name):
            raise InstanceError(f"{name!r} is no volume's name", mend="use letters, digits, '_', '.' and '-'")
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)  # setuid programs of strangers
        with locked(self.directory / ".lock"):
            path = self.directory / name
            if not path.exists():
                hidden = self.directory / f".{name}.{os.urandom(4).hex()}"
                hidden.mkdir(mode=0o711)
                (hidden / "data").mkdir(mode=0o755)
                record = {"name": name, "created": now(), "labels": dict(labels or {})}
                write_atomically(hidden / "volume.json", json.dumps(record).encode())
                hidden.rename(path)
        return self.get(name)

    def get(self, name: str) -> Volume:
        """The volume of that name; InstanceError when there is none."""
        try:
            values = json.loads((self.directory / name / "volume.json").read_bytes())
            return Volume(values["name"], float(values["created"]), self.directory / name, values["labels"])
        except (OSError, ValueError, KeyError, TypeError):
            raise InstanceError(f"no volume is named {name!r}", mend="hybrid volume ls lists what there is") from None

    def __iter__(self) -> Iterator[Volume]:
        """Every volume, by name."""
        for path in sorted(self.directory.glob("[!.]*/volume.json")):
            with suppress(InstanceError):
                yield self.get(path.parent.name)

    def users(self, name: str) -> list[str]:
        """The names of the instances that mount the volume, running or not."""
        return [record.name for record in InstanceStore(self._home) if name in record.engine.get("volumes", ())]

    def remove(self, name: str, *, force: bool = False) -> None:
        """Remove a volume with all that is in it; InstanceError names the instances that use it.

        `force`: a volume that is not there is no error. It does not remove one in use, as in Docker.
        """
        try:
            volume = self.get(name)
        except InstanceError:
            if force:
                return
            raise
        with _held(volume.directory, fcntl.LOCK_EX) as there:
            if not there:
                return
            if users := self.users(name):
                raise InstanceError(f"{name} is in use by {', '.join(users)}", mend=f"hybrid rm {users[0]}")
            hidden = self.directory / f".{name}.{os.urandom(4).hex()}"
            volume.directory.rename(hidden)
            _remove_tree(hidden)

    def prune(self, *, everything: bool) -> Iterator[tuple[str, int]]:
        """Remove volumes that no instance uses, and what killed processes left: each name, and bytes freed.

        As in Docker, those that somebody has given a name stay, unless `everything` is to go.
        """
        from hybrid.usage import disk_bytes

        for volume in self:
            if not (everything or _UNNAMED.fullmatch(volume.name)):
                continue
            size = disk_bytes(volume.directory)
            with suppress(InstanceError):
                self.remove(volume.name)
                yield volume.name, size
        self.sweep()

    def sweep(self) -> None:
        """Remove what a killed process left half made or half removed."""
        if self.directory.is_dir():
            with locked(self.directory / ".lock"):
                for path in self.directory.glob(".*.*"):
                    _remove_tree(path)

    def hold(self, name: str, stack: ExitStack) -> Volume:
        """The volume of that name, made at its first use, kept from being removed until `stack` ends."""
        while True:
            volume = self.create(name)
            if stack.enter_context(_held(volume.directory, fcntl.LOCK_SH)):
                return volume

    def fill(self, volume: Volume, tree: Path, path: str) -> None:
        """Give an empty volume what an image has at `path`, with the owner and mode of that directory.

        A volume that an instance uses already is left as it is. A crash leaves it empty or whole.
        """
        if any(volume.data.iterdir()) or self.users(volume.name):
            return
        with locked(volume.directory / "lock"):
            if not any(volume.data.iterdir()):
                copy_from(tree, path, volume.data)


@contextmanager
def prepared(
    spec: Spec, image: Image, home: Home, directory: Path, *, copy: bool = True
) -> Iterator[tuple[Mount, ...]]:
    """What an instance is to mount, its sources made: to be kept in its record before the block ends.

    `directory` is the instance's own, where anonymous volumes go, unless they are not to be copied there
    since they lie in the root that the instance has. HostError when a source cannot be had.
    Later mounts may lie in earlier ones: they are in the order of their paths.
    """
    store = VolumeStore(home)
    with ExitStack() as stack:
        wanted = {mount.target: mount for mount in (*spec.volumes, *spec.tmpfs)}
        found = [_prepare(mount, image, store, stack) for mount in wanted.values() if not _is_anonymous(mount)]
        found += _anonymous(
            spec, image, directory if copy else None, [t for t, m in wanted.items() if not _is_anonymous(m)]
        )
        yield tuple(sorted(found, key=lambda mount: mount.target.split("/")))


def to_record(mounts: Sequence[Mount]) -> dict[str, Any]:
    """What of mounts is kept in `Record.engine`."""
    names = sorted({mount.volume for mount in mounts if mount.volume is not None})
    kept = [{key: value for key, value in asdict(mount).items() if value} for mount in mounts]
    return {"mounts": kept, "volumes": names} if kept else {}


def from_record(engine: Mapping[str, Any], directory: Path | None) -> tuple[Mount, ...]:
    """The mounts in a record; HostError when a source has gone.

    `directory` is the instance's: its anonymous volumes lie there, or with None in its own root.
    """
    found = []
    for values in engine.get("mounts", ()):
        mount = Mount(**{**values, "options": tuple(values.get("options", ()))})
        if directory is not None and mount.is_anonymous:
            mount = replace(mount, source=str(directory / str(mount.source)))
        if mount.source is not None and not mount.is_anonymous and not Path(mount.source).exists():
            raise HostError(f"{mount.source} has gone, and is to be mounted at {mount.target}", mend="make it again")
        found.append(mount)
    return tuple(found)


def _is_anonymous(mount: Wanted) -> bool:
    return mount.type == "volume" and mount.source is None


def _prepare(mount: Wanted, image: Image, store: VolumeStore, stack: ExitStack) -> Mount:
    if mount.type == "tmpfs":
        return Mount(mount.target, None, mount.read_only, options=_tmpfs_options(mount))
    assert mount.source is not None
    if mount.type == "volume":
        volume = store.hold(mount.source, stack)
        if not mount.volume.nocopy:
            store.fill(volume, image.tree, mount.target)
        return Mount(mount.target, str(volume.data), mount.read_only, volume=volume.name)
    return Mount(mount.target, _bind_source(Path(mount.source), mount.bind.create_host_path), mount.read_only)


def _bind_source(path: Path, create: bool) -> str:
    try:
        if create and not path.exists():
            path.mkdir(parents=True)
        kind = path.stat().st_mode
    except OSError as error:
        raise HostError(
            f"{path} cannot be mounted: {error.strerror}", where="volumes", mend="make it, or name another"
        ) from None
    if not (stat.S_ISDIR(kind) or stat.S_ISREG(kind)):
        raise HostError(
            f"{path} is neither a directory nor a file", where="volumes", mend="sockets and devices cannot be shared"
        )
    return str(path.resolve())


def _tmpfs_options(mount: Wanted) -> tuple[str, ...]:
    """As mount(8) writes them. Like Docker's, it holds no devices, no setuid programs, and by default none at all."""
    given = mount.tmpfs
    options = ["nosuid", "nodev", *([] if given.exec else ["noexec"]), f"mode={given.mode or 0o1777:o}"]
    options += [
        f"{name}={value}" for name, value in (("size", given.size), ("uid", given.uid), ("gid", given.gid)) if value
    ]
    return tuple(options)


def _anonymous(spec: Spec, image: Image, directory: Path | None, covered: Collection[str]) -> list[Mount]:
    """The volumes without a name. They are part of the writable layer, unless the root cannot be written to."""
    if not spec.read_only:
        return []
    own = [mount.target for mount in spec.volumes if _is_anonymous(mount)]
    found = []
    for number, target in enumerate(
        path for path in dict.fromkeys([*own, *image.config.volumes]) if path not in covered
    ):
        if directory is not None:
            data = directory / "anonymous" / str(number)
            data.parent.mkdir(mode=0o700, exist_ok=True)
            data.mkdir(mode=0o755)
            copy_from(image.tree, target, data)
        found.append(Mount(target, f"anonymous/{number}"))
    return found


def copy_from(tree: Path, path: str, into: Path) -> None:
    """Give the empty directory `into` what an image's tree has at `path`: files, owners, times, and its own mode.

    Nothing happens when the image has no directory there. Links in the path are followed inside the tree only.
    """
    with ExitStack() as stack:
        root = stack.enter_context(closing(open_directory(tree)))
        try:
            source = stack.enter_context(closing(open_in(root, path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)))
        except (FileNotFoundError, NotADirectoryError):
            return
        fresh = into.with_name(f".{into.name}.{os.urandom(4).hex()}")
        fresh.mkdir(mode=0o755)
        stack.callback(shutil.rmtree, fresh, ignore_errors=True)
        copy = ("cp", "--archive", "--reflink=auto", "--", f"/proc/self/fd/{source}/.", str(fresh))
        process.run(copy, pass_fds=[source])
        seen = os.fstat(source)
        os.chown(fresh, seen.st_uid, seen.st_gid)
        fresh.chmod(stat.S_IMODE(seen.st_mode))
        fresh.rename(into)


def _remove_tree(path: Path) -> None:
    """Remove a tree that instances may have filled with anything."""
    process.run(["rm", "-rf", "--one-file-system", "--", path])


@contextmanager
def _held(directory: Path, how: int) -> Iterator[bool]:
    """Hold a volume; false when it has gone meanwhile."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield False
        return
    try:
        fcntl.flock(descriptor, how)
        opened = os.fstat(descriptor)
        try:
            yield os.path.samestat(opened, directory.stat())
        except FileNotFoundError:
            yield False
    finally:
        os.close(descriptor)
