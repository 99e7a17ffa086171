"""The instances' store: one directory each, made by an atomic rename, read by any process.

    instances/ID/instance.json   the record: what it is, and how to find what runs
    instances/ID/lock            held (flock) by the process that is changing it
    instances/ID/…               the writable layer, logs and the engine's files
    instances/.names/NAME        a link to the ID that has the name
    instances/.ID.…              a directory that was never finished, or that is being removed

A directory of the last form is locked (flock) while its maker lives; one that nobody locks is what a
killed process left, and `prune` removes it. A name whose link leads nowhere is free.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from hybrid import process
from hybrid.driver import Kind
from hybrid.errors import HybridError, InstanceError
from hybrid.home import Home

_NAMES = ".names"
NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}")


@dataclass(frozen=True, slots=True)
class Record:
    """What is saved of an instance. Frozen: a change is a new record, saved in the old one's place."""

    name: str
    id: str
    """Sixteen hex digits, never used again: names cgroups and sockets."""
    kind: Kind
    image: str
    """The image's digest."""
    image_name: str
    command: tuple[str, ...]
    created: float
    """Seconds since the epoch."""
    directory: Path
    stop_signal: int = 15
    stop_timeout: float = 10.0
    spec: dict[str, Any] = field(default_factory=dict)
    """What its spec and the options over that said, as JSON values."""
    engine: dict[str, Any] = field(default_factory=dict)
    """What the driver needs to find what runs: pids with start times, paths. JSON values only."""

    def save(self) -> None:
        """Write the record in one atomic step."""
        values = asdict(self) | {"kind": self.kind.value}
        del values["directory"]
        write_atomically(self.directory / "instance.json", json.dumps(values, indent=1).encode())

    @classmethod
    def load(cls, directory: Path) -> Record:
        """Read the record in `directory`; InstanceError when there is none that can be read."""
        try:
            values = json.loads((directory / "instance.json").read_bytes())
            values["kind"] = Kind(values["kind"])
            values["command"] = tuple(values["command"])
            return cls(directory=directory, **values)
        except FileNotFoundError:
            raise _unknown(directory.name) from None
        except (ValueError, TypeError, KeyError) as error:
            raise InstanceError(
                f"the record of instance {directory.name} is damaged: {error}",
                where=str(directory / "instance.json"),
                mend=f"hybrid rm --force {directory.name}",
            ) from None


def write_atomically(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Put `data` at `path` so that a reader sees either the old file or the whole new one."""
    temporary = path.with_name(f".{path.name}.{_token(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _token(length: int) -> str:
    """Random hex digits for `length` bytes; the module secrets does the same and costs 4 ms to import."""
    return os.urandom(length).hex()


def new_id() -> str:
    """A fresh identifier for an instance."""
    return _token(8)


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the exclusive lock on `path`; BlockingIOError when another has it and `wait` is false."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(descriptor)


class InstanceStore:
    """All instances of one home."""

    def __init__(self, home: Home) -> None:
        self.directory = home.instances
        self._names = home.instances / _NAMES

    # ---- make, rename, remove ------------------------------------------------------------

    @contextmanager
    def making(self, name: str, id: str) -> Iterator[tuple[Path, Callable[[Record], Record]]]:
        """A fresh hidden directory, and the function that puts it in its place once its record is whole.

        The name is taken from the start. If the block ends without that, directory and name are given up.
        """
        hidden, lock = self._begin(name, id)
        try:

            def commit(record: Record) -> Record:
                record.save()
                hidden.rename(self.path(id))
                return Record.load(self.path(id))

            yield hidden, commit
        except BaseException:
            shutil.rmtree(hidden, ignore_errors=True)
            if not self.path(id).exists():
                self._link(name).unlink(missing_ok=True)
            raise
        finally:
            os.close(lock)

    def _begin(self, name: str, id: str) -> tuple[Path, int]:
        """Take the name and make the hidden directory; the descriptor locks it."""
        hidden = self.directory / f".{id}.{_token(4)}"
        with self._locked():
            self._claim(name, id)
            hidden.mkdir(mode=0o711)
            return hidden, hold(hidden)

    def rename(self, record: Record, name: str) -> Record:
        """Give an instance another name; InstanceError when that is taken. A name it has already changes nothing."""
        with self._locked():
            if name != record.name:
                self._claim(name, record.id)
                record = replace(Record.load(record.directory), name=name)
                record.save()
            for link in _links(self._names, record.id):
                if link.name != name:
                    link.unlink()
        return record

    def _claim(self, name: str, id: str) -> None:
        if not NAME.fullmatch(name):
            raise InstanceError(f"{name!r} is no instance name", mend="use letters, digits, '_', '.' and '-'")
        link = self._link(name)
        with suppress(FileNotFoundError):
            if self._lives(str(link.readlink())):
                raise InstanceError(f"the name {name!r} is in use", mend=f"hybrid rm {name}, or another --name")
            link.unlink()
        link.symlink_to(id)

    def sweep(self) -> None:
        """Give up names that nothing has, after what a killed process left is removed."""
        if self._names.exists():
            with self._locked():
                for link in self._names.iterdir():
                    if not self._lives(str(link.readlink())) or self._renamed(link):
                        link.unlink()

    def _renamed(self, link: Path) -> bool:
        """Whether the instance at a link has another name: a rename was cut short."""
        try:
            return Record.load(self.path(str(link.readlink()))).name != link.name
        except InstanceError:
            return False

    # ---- find ----------------------------------------------------------------------------

    def path(self, id: str) -> Path:
        """Where the instance of that id is, or will be."""
        return self.directory / id

    def find(self, name: str) -> Path:
        """The directory of the instance of that name, or of the only one whose id starts so; else InstanceError."""
        if NAME.fullmatch(name):
            with suppress(OSError):
                directory = self.path(str(self._link(name).readlink()))
                if directory.is_dir():
                    return directory
            found = [directory for directory in self._directories() if directory.name.startswith(name)]
            if len(found) == 1:
                return found[0]
            if found:
                raise InstanceError(f"{len(found)} instances have an id that starts with {name}", mend="say more of it")
        raise _unknown(name)

    def get(self, name: str) -> Record:
        """The record of the instance of that name, or of the only one whose id starts so."""
        directory = self.find(name)
        try:
            return Record.load(directory)
        except InstanceError:
            if not directory.exists():
                raise _unknown(name) from None
            raise

    def __iter__(self) -> Iterator[Record]:
        """Every readable record, oldest first."""
        records = []
        for directory in self._directories():
            try:
                records.append(Record.load(directory))
            except InstanceError:
                continue
        return iter(sorted(records, key=lambda record: record.created))

    def damaged(self) -> Iterator[str]:
        """The names of instances whose record cannot be read; the id of one that has no name either."""
        for directory in self._directories():
            try:
                Record.load(directory)
            except InstanceError:
                if directory.exists():
                    yield next((link.name for link in _links(self._names, directory.name)), directory.name)

    def abandoned(self) -> Iterator[Path]:
        """Hidden directories whose maker, or remover, was killed."""
        if not self.directory.exists():
            return
        with self._locked():
            found = [path for path in self.directory.glob(".*.*") if path.is_dir() and not is_held(path)]
        yield from found

    def free_name(self, stem: str) -> str:
        """A name that starts with `stem` and is not taken."""
        return f"{stem}-{_token(3)}"

    # ---- odds and ends -------------------------------------------------------------------

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._names.mkdir(parents=True, exist_ok=True)
        with locked(self.directory / ".lock"):
            yield

    def _directories(self) -> Iterator[Path]:
        with suppress(FileNotFoundError):
            yield from (path for path in sorted(self.directory.iterdir()) if path.name[0] != "." and path.is_dir())

    def _link(self, name: str) -> Path:
        return self._names / name

    def _lives(self, id: str) -> bool:
        """Whether there is an instance of that id, or one that is being made."""
        return self.path(id).exists() or any(is_held(path) for path in self.directory.glob(f".{id}.*"))


def _unknown(name: str) -> InstanceError:
    return InstanceError(f"no instance is named {name!r}", mend="hybrid ps -a lists what there is")


def discard(directory: Path) -> None:
    """Remove an instance's directory, of which nothing runs: out of sight in one step, then its name and files."""
    id = directory.name.lstrip(".").partition(".")[0]
    hidden = directory.with_name(f".{id}.{_token(4)}")
    lock = hold(directory)
    try:
        directory.rename(hidden)
        for link in _links(directory.parent / _NAMES, id):
            link.unlink(missing_ok=True)
        remove_tree(hidden)
    finally:
        os.close(lock)


def _links(names: Path, id: str) -> list[Path]:
    """The names of an id: one, but for a rename that was cut short."""
    found = []
    with suppress(FileNotFoundError):
        for link in names.iterdir():
            with suppress(FileNotFoundError):
                if str(link.readlink()) == id:
                    found.append(link)
    return found


def remove_tree(path: Path) -> None:
    """Remove a tree that an instance may have filled with anything: deep, immutable, of any owner."""
    with suppress(OSError, RecursionError):
        shutil.rmtree(path)
    if path.exists():
        with suppress(HybridError):
            process.run(["chattr", "-R", "-f", "-i", "-a", path])
        process.run(["rm", "-rf", "--one-file-system", path])


def hold(directory: Path) -> int:
    """Lock a directory as its owner; the descriptor says so until it is closed or this process has ended."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


def is_held(directory: Path) -> bool:
    """Whether a living process holds `directory`; one that has gone is nobody else's to take, and counts as held."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def now() -> float:
    """Seconds since the epoch, for records that people read; never for measuring."""
    return time.time()
