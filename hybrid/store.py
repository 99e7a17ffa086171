"""The instances' store: one directory each, made by an atomic rename, read by any process.

    instances/NAME/instance.json   the record: what it is, and how to find what runs
    instances/NAME/lock            held (flock) by the process that is changing it
    instances/NAME/…               the writable layer, logs and the engine's files

A directory whose name starts with a dot is one that was never finished. It is locked (flock) while its
maker lives; one that nobody locks is what a killed maker left, and `prune` removes it.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hybrid.driver import Kind
from hybrid.errors import HybridError, InstanceError
from hybrid.home import Home

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
            raise InstanceError(
                f"no instance is named {directory.name!r}", mend="hybrid ps -a lists what there is"
            ) from None
        except (ValueError, TypeError, KeyError) as error:
            raise InstanceError(
                f"the record of {directory.name!r} is damaged: {error}",
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

    @contextmanager
    def making(self, name: str) -> Iterator[tuple[Path, Callable[[Record], Record]]]:
        """A fresh hidden directory, and the function that gives it its name once its record is whole.

        If the block ends without that, the directory is removed.
        """
        if not NAME.fullmatch(name):
            raise InstanceError(f"{name!r} is no instance name", mend="use letters, digits, '_', '.' and '-'")
        if self.path(name).exists():
            raise self._taken(name)
        hidden, lock = self._hidden(name)

        def commit(record: Record) -> Record:
            record.save()
            try:
                hidden.rename(self.path(name))
            except OSError:
                raise self._taken(name) from None
            return Record.load(self.path(name))

        try:
            yield hidden, commit
        except BaseException:
            shutil.rmtree(hidden, ignore_errors=True)
            raise
        finally:
            os.close(lock)

    def _hidden(self, name: str) -> tuple[Path, int]:
        """A new hidden directory and the descriptor that locks it."""
        hidden = self.directory / f".{name}.{_token(4)}"
        self.directory.mkdir(parents=True, exist_ok=True)
        with locked(self.directory / ".lock"):
            hidden.mkdir(mode=0o711)
            return hidden, hold(hidden)

    def abandoned(self) -> Iterator[Path]:
        """Hidden directories whose maker was killed."""
        if not self.directory.exists():
            return
        with locked(self.directory / ".lock"):
            found = [path for path in self.directory.glob(".*.*") if path.is_dir() and not is_held(path)]
        yield from found

    def damaged(self) -> Iterator[str]:
        """The names of instances whose record cannot be read."""
        if not self.directory.exists():
            return
        for directory in sorted(self.directory.iterdir()):
            if directory.name.startswith(".") or not directory.is_dir():
                continue
            try:
                Record.load(directory)
            except HybridError:
                if directory.exists():
                    yield directory.name

    def path(self, name: str) -> Path:
        return self.directory / name

    def get(self, name: str) -> Record:
        """The record of the instance of that name, or of the only one whose id starts so."""
        if NAME.fullmatch(name) and (self.path(name) / "instance.json").exists():
            return Record.load(self.path(name))
        by_id = [record for record in self if record.id.startswith(name)] if len(name) >= 4 else []
        if len(by_id) == 1:
            return by_id[0]
        if not NAME.fullmatch(name):
            raise InstanceError(f"no instance is named {name!r}", mend="hybrid ps -a lists what there is")
        return Record.load(self.path(name))

    def __iter__(self) -> Iterator[Record]:
        """Every readable record, oldest first."""
        records = []
        if self.directory.exists():
            for directory in self.directory.iterdir():
                if not directory.name.startswith("."):
                    try:
                        records.append(Record.load(directory))
                    except HybridError:
                        continue
        return iter(sorted(records, key=lambda record: record.created))

    def free_name(self, stem: str) -> str:
        """A name that starts with `stem` and is not taken."""
        return f"{stem}-{_token(3)}"

    @staticmethod
    def _taken(name: str) -> InstanceError:
        return InstanceError(f"the name {name!r} is in use", mend=f"hybrid rm {name}, or another --name")


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
