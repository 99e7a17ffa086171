"""An image looks the same from inside in every kind: three small ones here; benchmarks/images has eight real ones."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.images import parity
from hybrid import drivers, process, spec
from hybrid.driver import Kind
from hybrid.home import Home, default_home
from hybrid.images import ImageStore

pytestmark = [
    pytest.mark.usefixtures("nothing_left"),
    pytest.mark.skipif(os.geteuid() != 0, reason="every kind needs root"),
]

CAPABILITY = b"\1\0\0\2\0\x20\0\0" + bytes(12)
"""CAP_NET_RAW, permitted and effective."""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return parity.prepare(tmp_path_factory.mktemp("images"))


@pytest.fixture
def seen(home: Path, work: Path, able: Callable[[str], None]) -> Callable[[Path], dict[Kind, parity.Seen]]:
    """What the probe says of a spec's image in each kind."""
    for kind in Kind:
        able(kind)
    place = Home(home, default_home().run)

    def look(path: Path) -> dict[Kind, parity.Seen]:
        asked = spec.load(path)
        image = ImageStore(place).ensure(asked)
        made = {kind: drivers.driver(kind, place) for kind in Kind}
        return {kind: parity.look(asked, image, made[kind], place, work / "static/probe") for kind in Kind}

    return look


@pytest.mark.parametrize("name", ["busybox", "static"])
def test_a_built_image_is_the_same_in_every_kind(
    seen: Callable[[Path], dict[Kind, parity.Seen]], work: Path, name: str
) -> None:
    if process.find("buildah") is None and not os.environ.get("CI"):
        pytest.skip("buildah is not installed")
    found = seen(work / f"{name}.yaml")
    assert parity.differences(found) == []
    assert len(found[Kind.VM].tree) >= 3
    ids = {line.partition(" ")[0]: line for line in found[Kind.VM].identity}
    assert ids["groups"] == ("groups 2000" if name == "busybox" else "groups")
    assert ids["hostname"] == f"hostname {parity.NAME}"


def test_files_of_every_sort_are_the_same_in_every_kind(
    seen: Callable[[Path], dict[Kind, parity.Seen]], work: Path, tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    _every_sort(tree, work / "busybox/busybox")
    (tmp_path / "all.yaml").write_text(
        "image: {rootfs: ./tree}\nuser: '1000:1000'\nworking_dir: /home/me\ncommand: [sh]\nmem_limit: 256m\n"
    )
    found = seen(tmp_path / "all.yaml")
    assert parity.differences(found) == []
    lines = {line.split()[0]: line for line in found[Kind.VM].tree}
    assert f"xattr.security.capability={CAPABILITY.hex()}" in lines["/bin/ping"]
    assert "mode=104755" in lines["/bin/setuid"]
    assert "same=/bin/busybox" in lines["/bin/cat"]
    assert "device=1,3" in lines["/data/null"]
    assert "mtime=1700000000.123456789" in lines["/data/fine"]
    assert "mtime=-6.500000000" in lines["/data/old"]
    assert "mtime=4400000000.000000001" in lines["/data/late"]
    assert "size=16777217" in lines["/data/sparse"]
    assert "uid=65534 gid=65534" in lines["/data/last"]
    assert "/data/\\377\\040\\012" in lines
    assert "/lost+found" not in lines


def _every_sort(tree: Path, busybox: Path) -> None:
    for name in ("bin", "data", "etc", "home/me", "tmp"):
        (tree / name).mkdir(parents=True)
    (tree / "tmp").chmod(0o1777)
    for name in ("busybox", "ping", "setuid"):
        shutil.copy(busybox, tree / "bin" / name)
    for name in ("sh", "chmod"):
        (tree / "bin" / name).symlink_to("busybox")
    (tree / "bin/cat").hardlink_to(tree / "bin/busybox")
    (tree / "bin/setuid").chmod(stat.S_ISUID | 0o755)
    os.setxattr(tree / "bin/ping", "security.capability", CAPABILITY)
    data = tree / "data"
    os.mkfifo(data / "pipe", 0o640)
    os.mknod(data / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(data / "disk", stat.S_IFBLK | 0o660, os.makedev(259, 300))
    (data / "sub").mkdir(mode=0o3770)
    os.setxattr(data / "sub", "user.note", b"\0any bytes\xff")
    (data / "far").symlink_to("/no" * 60)
    for name, time in (
        ("fine", 1_700_000_000_123_456_789),
        ("old", -5_500_000_000),
        ("late", 4_400_000_000_000_000_001),
        (os.fsdecode(b"\xff \n"), 0),
    ):
        (data / name).write_text(name.encode(errors="replace").decode())
        os.utime(data / name, ns=(time, time))
    os.utime(data / "far", ns=(7, 1_600_000_000_000_000_007), follow_symlinks=False)
    (data / "last").write_bytes(b"x" * 100_000)
    os.chown(data / "last", 65534, 65534)
    with (data / "sparse").open("wb") as sparse:
        sparse.truncate(2**24 + 1)
