"""Removing instances: whole ones by their driver, the wreckage of others by what their directory shows."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from hybrid import process
from hybrid.driver import State
from hybrid.drivers import open_instance, sweep
from hybrid.errors import HybridError, InstanceError
from hybrid.home import Home
from hybrid.images import ImageStore
from hybrid.store import NAME, InstanceStore, Record


def remove(name: str, home: Home, *, force: bool) -> None:
    """Remove the instance of that name and all that it left on the host.

    InstanceError when it runs, or when its record cannot be read, unless `force`.
    """
    store = InstanceStore(home)
    try:
        record = store.get(name)
    except InstanceError:
        if not (force and NAME.fullmatch(name) and store.path(name).is_dir()):
            raise
        salvage(store.path(name))
        return
    instance = open_instance(record, home)
    if not force and instance.status().state is State.RUNNING:
        raise InstanceError(
            f"{record.name} is running", mend=f"hybrid stop {record.name}, or hybrid rm --force {record.name}"
        )
    instance.destroy()


def prune(home: Home) -> Iterator[str]:
    """Remove what has ended and what was never finished, yielding each name as it is gone."""
    store = InstanceStore(home)
    for record in store:
        with suppress(FileNotFoundError):
            instance = open_instance(record, home)
            if instance.status().state is State.EXITED:
                instance.destroy()
                yield record.name
    for directory in store.abandoned():
        _remove_unfinished(directory, home)
        yield directory.name
    sweep(home)
    ImageStore(home).sweep()


def _remove_unfinished(directory: Path, home: Home) -> None:
    """What a killed `create` left: by its driver when the record was written, then by what is seen."""
    with suppress(HybridError):
        open_instance(Record.load(directory), home).destroy()
    if directory.exists():
        salvage(directory)


def salvage(directory: Path) -> None:
    """End the processes that use an instance's directory, unmount what is mounted in it, and remove it.

    For when nothing tells what kind it was. Processes are known by what the kernel shows of them: their
    root lies in the directory or is an overlay made there, or they run without a terminal and a word
    of their command line names a file in it.
    """
    for pid in _users(directory):
        process.send_signal(pid, process.start_time(pid))
    for mount in _mounts(directory):
        process.run([process.need("umount", "mount"), "--lazy", mount])
    shutil.rmtree(directory)


def _users(directory: Path) -> Iterator[int]:
    """Processes that use the directory; this one and its parents are not among them."""
    ours = set(_ancestry(os.getpid()))
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) not in ours and _uses(entry, directory):
            yield int(entry.name)


def _uses(proc: Path, directory: Path) -> bool:
    inside = os.fsencode(directory) + b"/"
    with suppress(OSError):
        if os.fsencode((proc / "root").readlink()).startswith(inside):
            return True
        if any(line.split()[4] == b"/" and inside in line for line in (proc / "mountinfo").read_bytes().splitlines()):
            return True
        words = (proc / "cmdline").read_bytes().split(b"\0")
        return _has_no_terminal(proc) and any(inside in word for word in words)
    return False


def _has_no_terminal(proc: Path) -> bool:
    """Engines run without one; a pager that a person has opened on a log does not."""
    return (proc / "stat").read_text().rpartition(")")[2].split()[4] == "0"


def _ancestry(pid: int) -> Iterator[int]:
    """A process and those above it."""
    while pid > 0:
        yield pid
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _mounts(directory: Path) -> list[str]:
    """What is mounted in the directory, the innermost first."""
    text = Path("/proc/self/mountinfo").read_bytes()
    points = [_unescape(line.split()[4]) for line in text.splitlines()]
    inside = os.fsencode(directory)
    return [os.fsdecode(point) for point in reversed(points) if point == inside or point.startswith(inside + b"/")]


def _unescape(field: bytes) -> bytes:
    """A field of mountinfo, in which blanks are written in octal."""
    return field.decode("unicode_escape").encode("latin-1") if b"\\" in field else field
