"""What a killed process leaves beside its instances: the root of its libvirt, and QEMUs that it was asking."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from hybrid.home import Home
from hybrid.process import send_signal, start_time
from hybrid.store import is_held, locked


def sweep(home: Home) -> None:
    """Remove every root of this home whose owner has ended and in which no VM lives on, and unfinished kernels."""
    for root in home.run.glob("libvirt-*"):
        if _is_ours(root, home) and not is_held(root) and not _lives_on(root):
            for pid in _asked(root):
                send_signal(pid, start_time(pid))
            shutil.rmtree(root, ignore_errors=True)
    for folder, scratch in ((home.cache / "kernels", ".fetch-*"), (home.cache / "init", "tmp*")):
        with contextlib.suppress(FileNotFoundError, BlockingIOError), locked(folder / "lock", wait=False):
            for path in folder.glob(scratch):
                shutil.rmtree(path, ignore_errors=True)


def _is_ours(root: Path, home: Home) -> bool:
    """Whether it belongs to this home: others may share the place for sockets. A root gets this link first."""
    try:
        return (root / "cache").readlink() == home.cache / "libvirt"
    except OSError:
        return False


def _lives_on(root: Path) -> bool:
    """Whether a VM that was started from this root runs; its record knows the way to it."""
    for file in (root / "run/qemu").glob("hybrid-*.pid"):
        with contextlib.suppress(OSError, ValueError):
            if start_time(int(file.read_text())) is not None:
                return True
    return False


def _asked(root: Path) -> Iterator[int]:
    """QEMUs without a machine that listen in the root: libvirt starts them to learn what they can do."""
    inside = os.fsencode(root) + b"/"
    for proc in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (proc / "cmdline").read_bytes().split(b"\0")
            if b"none,accel=kvm:tcg" in words and any(inside in word for word in words):
                yield int(proc.name)
