"""A VM that does not run, booted without its command, only so that its files can be reached."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

from vm import guest

if TYPE_CHECKING:
    from hybrid.store import Record
    from vm.instance import VmInstance

BOOTING = 120.0
"""Seconds within which it must be up."""
ENDING = 60.0
FOLDER = "visit"


@contextlib.contextmanager
def visit(instance: VmInstance) -> Iterator[None]:
    """Have the guest up within the block, on the instance's own disk; the caller holds the instance's lock.

    It has no network, and nothing of the host's that the spec mounts.
    """
    from vm.instance import VmInstance

    folder = instance.record.directory / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o711)
    visitor = VmInstance(instance.home, _record(instance.record))
    try:
        _lay_out(instance.record, visitor.record)
        visitor.start(None)
        visitor.wait_entrypoint(BOOTING)
        yield
        visitor.signal(signal.SIGKILL)
        visitor.wait(ENDING)  # it has written to the disk all that there was to write
    finally:
        visitor.end()
        shutil.rmtree(folder, ignore_errors=True)


def _record(record: Record) -> Record:
    engine = {
        key: value for key, value in record.engine.items() if key not in ("pid", "started", "root", "network", "mounts")
    }
    engine["settings"] = [[key, value] for key, value in record.engine["settings"] if key in ("shm",)]
    engine["settings"].append(["idle", "1"])
    engine["probed"] = False
    return dataclasses.replace(record, directory=record.directory / FOLDER, engine=engine)


def _lay_out(record: Record, visitor: Record) -> None:
    (visitor.directory / "disk.qcow2").symlink_to(record.directory / "disk.qcow2")
    process = dataclasses.replace(
        guest.load_process(record.directory),
        argv=("idle",),
        executable="/",
        env={},
        cwd="/",
        uid=0,
        gid=0,
        groups=(),
        healthcheck=None,
        tty=False,
        stdin_open=False,
    )
    guest.save_process(visitor.directory, process)
