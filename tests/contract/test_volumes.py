"""Volumes, directories of the host and file systems in memory: the same for every kind, and shared between kinds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hybrid.errors import InstanceError
from hybrid.volumes import VolumeStore

if TYPE_CHECKING:
    from tests.contract.conftest import Bench

OWNERS = """
set -e
echo hello >/data/root; chmod 640 /data/root
mkdir /data/dir; chown 1000:2000 /data/dir; chmod 2750 /data/dir
ln -s root /data/link
stat -c '%u %g %a %n' /data/root /data/dir /data/link
cat /conf/app.conf /one
(echo x >/conf/app.conf) 2>/dev/null && exit 9
(echo x >/one) 2>/dev/null && exit 10
stat -c '%a' /scratch; grep ' /scratch ' /proc/mounts | cut -d' ' -f3
echo big >/scratch/file
echo shared >>/data/log
"""


@pytest.fixture
def real(bench: Bench) -> Bench:
    if bench.kind == "fake":
        pytest.skip("what is scripted mounts nothing")
    return bench


@pytest.mark.daemon
def test_mounts(real: Bench, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    conf = tmp_path / "conf"
    conf.mkdir()
    (conf / "app.conf").write_text("setting\n")
    (tmp_path / "one").write_text("a file\n")
    spec: dict[str, Any] = {
        "volumes": [
            f"mounts-{real.kind}:/data",
            f"{conf}:/conf:ro",
            {"type": "bind", "source": str(tmp_path / "one"), "target": "/one", "read_only": True},
        ],
        "tmpfs": ["/scratch:size=1m,mode=0751"],
    }
    result = real.run("sh", "-c", OWNERS, **spec)
    assert result.code == 0, result
    lines = "0 0 640 /data/root\n1000 2000 2750 /data/dir\n0 0 777 /data/link\nsetting\na file\n751\ntmpfs\n"
    assert result.out.decode() == lines
    store = VolumeStore(real.home)
    volume = store.get(f"mounts-{real.kind}")
    seen = (volume.data / "dir").stat()
    assert (seen.st_uid, seen.st_gid, seen.st_mode & 0o7777) == (1000, 2000, 0o2750)
    assert (volume.data / "log").read_text() == "shared\n"
    assert (conf / "app.conf").read_text() == "setting\n"
    assert not any((real.image.tree / name).exists() for name in ("data", "conf", "one", "scratch"))
    user = real.made[-1]
    with pytest.raises(InstanceError, match=user.record.name):
        store.remove(volume.name)
    user.destroy()
    store.remove(volume.name)
    assert not volume.directory.exists()
    assert os.listdir(store.directory) in ([], [".lock"])  # noqa: PTH208
