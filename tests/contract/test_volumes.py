"""Volumes, directories of the host and file systems in memory: the same for every kind, and shared between kinds."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hybrid import process, usage
from hybrid.errors import InstanceError
from hybrid.home import Home
from hybrid.image import Image, ImageConfig
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


def test_both_kinds_write_one_volume_at_the_same_time(
    make_bench: Callable[..., Iterator[Bench]], shared_home: Home, tiny_image: Image, tmp_path: Path
) -> None:
    """Each sees what the other writes while both run; a read-only mount stays one; nothing is left of the server."""
    script = "echo {0} >/data/{0}; chown 1000:1000 /data/{0}; until [ -e /data/{1} ]; do sleep 0.1; done; cat /data/{1}"
    with ExitStack() as stack:
        benches = {
            kind: stack.enter_context(contextmanager(make_bench)(kind, shared_home, tiny_image, tmp_path))
            for kind in ("container", "vm")
        }
        made = {}
        for kind, other in (("container", "vm"), ("vm", "container")):
            volumes = ["both:/data", f"{tmp_path}:/seen:ro"]
            command = f"{script.format(kind, other)} >/data/{kind}.saw; stat -c %u:%g /data/{other} >>/data/{kind}.saw"
            made[kind] = benches[kind].make("sh", "-c", f"{command}; sleep 1000", volumes=volumes)
            made[kind].start(None)
        data = VolumeStore(shared_home).get("both").data
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not all(_lines(data / f"{kind}.saw") == 2 for kind in made):
            time.sleep(0.1)
        assert (data / "vm.saw").read_text() == "container\n1000:1000\n"
        assert (data / "container.saw").read_text() == "vm\n1000:1000\n"
        assert sorted(VolumeStore(shared_home).users("both")) == sorted(each.record.name for each in made.values())
        pid = made["vm"].status().pid
        assert pid is not None
        process.send_signal(pid, process.start_time(pid))  # what serves the volume ends with QEMU, whoever kills that
        deadline = time.monotonic() + 60
        while made["vm"].record.id in _commands() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert made["vm"].record.id not in _commands()
        for instance in made.values():  # both, before anybody looks for what is left
            instance.destroy()
    VolumeStore(shared_home).remove("both")


def _lines(path: Path) -> int:
    return path.read_text().count("\n") if path.exists() else 0


def _commands() -> str:
    """The command lines of all processes that serve files to VMs."""
    found = []
    for pid in usage.processes():
        with suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
            found += [words.decode(errors="replace")] if b"virtiofsd" in words else []
    return "\n".join(found)


def test_an_image_fills_an_empty_volume_and_its_own_volumes_stay_writable(real: Bench) -> None:
    config = ImageConfig(volumes=("/home/app",))
    image = replace(real.image, config=config)
    script = "stat -c '%u %a' /etc/plain /home/app /home/app/last; cat /etc/plain; touch /home/app/new && echo new"
    spec: dict[str, Any] = {"volumes": [f"filled-{real.kind}:/etc", "/tmp/anonymous"], "read_only": True}
    result = real.run(
        "sh", "-c", f"{script}; touch /tmp/anonymous/x && echo x; touch /root/x || echo no", image=image, **spec
    )
    assert result.out.decode().splitlines() == [
        *("0 644", "1000 755", "65534 644", "not a program", "new", "x", "no"),
    ]
    assert not (real.image.tree / "home/app/new").exists()
    store = VolumeStore(real.home)
    assert (store.get(f"filled-{real.kind}").data / "plain").read_text() == "not a program\n"
    real.made[-1].destroy()
    store.remove(f"filled-{real.kind}")
