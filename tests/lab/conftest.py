"""The lab host as a fixture: one for the session, with hybrid inside, built as users get it."""

from __future__ import annotations

import os
import sys
import tarfile
import zipfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from hybrid.process import find, run
from tests.lab.disk import ROOT, disk
from tests.lab.machine import Lab, booted, tail

TOOLS = ("mmdebstrap", "mke2fs", "qemu-system-x86_64", "qemu-img", "apt-get")
SPEC = """\
image: {rootfs: ./tree.tar}
command: [/bin/busybox, sh, -c, "trap 'exit 0' TERM; busybox httpd -f -p 8080 -h /www & wait"]
environment: {PATH: /bin}
healthcheck:
  test: [CMD, /bin/busybox, wget, -q, -O, /dev/null, "http://127.0.0.1:8080/"]
mem_limit: 192m
cpus: 1
vm: {kernel: /vmlinuz}
"""


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A booted Debian machine with real KVM, systemd and cgroup v2; hybrid is in its PATH, /lab/web.yaml a spec."""
    if missing := [tool for tool in TOOLS if find(tool) is None]:
        pytest.skip(f"the lab host needs {', '.join(missing)}")
    if os.getuid() != 0:
        pytest.skip("the lab host's disk is made by root")
    folder = tmp_path_factory.mktemp("lab")
    payload = folder / "payload"
    payload.mkdir()
    unpack_wheel(folder, payload / "site")
    make_image(payload / "tree.tar")
    (payload / "web.yaml").write_text(SPEC)
    with booted(disk(), payload, folder) as machine:
        yield machine


def unpack_wheel(folder: Path, target: Path) -> None:
    """The project's wheel, built here and unpacked as an installer would."""
    run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, ROOT])
    with zipfile.ZipFile(next(folder.glob("hybrid-*.whl"))) as wheel:
        wheel.extractall(target)


def make_image(path: Path) -> None:
    """A root filesystem that holds one static program, and a page to serve."""
    page = path.with_name("index.html")
    page.write_text("ready\n")
    with tarfile.open(path, "w") as tar:
        tar.add("/bin/busybox", "bin/busybox")
        tar.add(page, "www/index.html")
    page.unlink()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    machine = getattr(item, "funcargs", {}).get("lab")
    if report.failed and isinstance(machine, Lab):
        report.sections.append(("the lab host's console", tail(machine.console)))
    return report
