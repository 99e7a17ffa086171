"""A libvirt daemon for tests: as its package configures it, with every file that it keeps in places of its own."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hybrid.cgroups import tree
from hybrid.process import find

_START = """
mount --make-rprivate /
mount -t tmpfs -o mode=755 none "$1/hidden"
cd "$1/hidden"
for each in etc var run; do
    mkdir "$each" "$each.work"
    mount -t overlay -o "lowerdir=/$each,upperdir=$each,workdir=$each.work" none "/$each"
done
for each in /etc /run /var/lib /var/cache /var/log; do
    mkdir -p "$each/libvirt"
    mount -t tmpfs -o mode=755 none "$each/libvirt"
done
if [ -c /dev/kvm ]; then
    # whoever QEMU runs as may open it: else libvirt asks QEMU anew what it can do, at every start, for seconds
    mknod -m 666 kvm c 10 232
    mount --bind kvm /dev/kvm
fi
cat > /etc/libvirt/libvirtd.conf <<END
unix_sock_dir = "$1"
auth_unix_rw = "none"
auth_unix_ro = "none"
END
virtlogd -p "$1/virtlogd.pid" &
exec libvirtd -f /etc/libvirt/libvirtd.conf -p "$1/libvirtd.pid"
"""


@contextmanager
def running_libvirtd() -> Iterator[str]:
    """libvirtd and virtlogd, which see this machine but for the places of another libvirt; yields the URI."""
    if find("libvirtd") is None or find("virtlogd") is None:
        words = "libvirtd is not installed (Debian: libvirt-daemon)"
        if os.environ.get("CI") == "true":
            pytest.fail(words)
        pytest.skip(words)
    directory = Path(tempfile.mkdtemp(prefix="hybrid-libvirtd-", dir="/tmp"))
    before = set(_groups())
    try:
        (directory / "hidden").mkdir()
        with _serving(directory):
            yield f"qemu:///system?socket={directory}/libvirt-sock"
    finally:
        for group in set(_groups()) - before:
            _remove_group(group)
        shutil.rmtree(directory)


@contextmanager
def _serving(directory: Path) -> Iterator[None]:
    """The daemons, from the moment they are ready until they have ended."""
    log = directory / "log"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready, log.open("wb") as output:
        ready.bind(str(directory / "ready"))
        ready.settimeout(60)
        path = f"/usr/sbin:/sbin:{os.environ['PATH']}"
        with subprocess.Popen(
            ["unshare", "--mount", "sh", "-euc", _START, "start", directory],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=os.environ | {"NOTIFY_SOCKET": str(directory / "ready"), "PATH": path},
        ) as daemon:
            try:
                try:
                    while b"READY=1" not in ready.recv(4096):
                        pass
                except TimeoutError:
                    pytest.fail(f"libvirtd did not start: {log.read_text(errors='replace')[-2000:]}")
                yield
            finally:
                daemon.terminate()
                daemon.wait(30)
                with contextlib.suppress(FileNotFoundError):
                    _end(int((directory / "virtlogd.pid").read_text()))


def _end(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        handle = os.pidfd_open(pid)
        os.kill(pid, signal.SIGTERM)
        select.select([handle], [], [], 30)
        os.close(handle)


def _groups() -> Iterator[Path]:
    """libvirt's own control groups, which it never removes."""
    where = tree()
    for root in {*where.v1.values(), *filter(None, (where.unified, where.idle))}:
        if (root / "machine").is_dir():
            yield root / "machine"


def _remove_group(group: Path) -> None:
    for folder, _, _ in os.walk(group, topdown=False):
        Path(folder).rmdir()
