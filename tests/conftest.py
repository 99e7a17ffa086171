"""What all tests share: a home of their own, tiny images, and a check that nothing is left on the host."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hybrid import process
from hybrid.home import Home
from hybrid.image import Image, ImageConfig
from tests.fakes import FakeDriver

LINKS = (
    "cat chmod cut dd df echo env false free grep head hostname id ip kill ls md5sum mkdir mknod mount nproc ping ps "
    "pwd rm sed seq sh sleep stat tail test touch true ulimit unshare wc wget yes"
)


def pytest_configure() -> None:
    """Programs that the tests interrupt hear it, also when this run was started with signals ignored (nohup, `&`)."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture(scope="session")
def shared_home() -> Iterator[Home]:
    """A home for all tests of a session, below directories that containers can pass."""
    base = Path(tempfile.mkdtemp(prefix="hybrid-contract-", dir="/tmp"))
    base.chmod(0o755)
    yield Home(base / "home", base / "run")
    shutil.rmtree(base)


@pytest.fixture(scope="session")
def tiny_image(shared_home: Home) -> Image:
    """Busybox, two users and a few files of all sorts."""
    image = _image(shared_home, "1" * 64)
    tree = image.tree
    for name in ("bin", "etc", "proc", "sys", "dev", "root", "home/app", "tmp"):
        (tree / name).mkdir(parents=True)
    (tree / "tmp").chmod(0o1777)
    _busybox(tree / "bin/busybox")
    for link in LINKS.split():
        (tree / "bin" / link).symlink_to("busybox")
    (tree / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n")
    (tree / "etc/group").write_text("root:x:0:\napp:x:1000:\nextra:x:2000:app\n")
    (tree / "etc/os-release").write_text('PRETTY_NAME="Tiny 1"\n')
    (tree / "etc/plain").write_text("not a program\n")
    (tree / "bin/broken").write_bytes(b"\x7fELF and nothing else")
    (tree / "bin/broken").chmod(0o755)
    os.chown(tree / "home/app", 1000, 1000)
    _busybox(tree / "bin/setuid")
    (tree / "bin/setuid").chmod(stat.S_ISUID | 0o755)
    (tree / "home/app/last").write_text("of the last user")
    os.chown(tree / "home/app/last", 65534, 65534)
    return image


@pytest.fixture(scope="session")
def scratch_image(shared_home: Home) -> Image:
    """One static binary and nothing else: no shell, no /etc, no directory to mount on."""
    image = _image(shared_home, "2" * 64)
    _busybox(image.tree / "busybox")
    return image


@pytest.fixture
def fake_driver(tmp_path: Path) -> FakeDriver:
    """A driver without engine and clock; give it `behaviours` by argv."""
    return FakeDriver(Home(tmp_path / "home", tmp_path / "run"))


def _image(home: Home, digest: str) -> Image:
    directory = home.images / digest
    (directory / "rootfs").mkdir(parents=True)
    return Image(f"sha256:{digest}", directory, ImageConfig(), names=(f"test/{digest[0]}:latest",))


def _busybox(path: Path) -> None:
    shutil.copy(process.need("busybox", "busybox-static"), path)
    path.chmod(0o755)
