"""The installed command line as a subprocess over a home of its own, and the proof that it leaves nothing."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

HYBRID = Path(sys.executable).with_name("hybrid")
KINDS = ("host", "container", "vm")

LOOP = r"""
#include <stdio.h>
#include <unistd.h>
int main(int argc, char **argv) { printf("static %s %d\n", argc > 1 ? argv[1] : "-", getuid()); return 9; }
"""


@dataclass
class Cli:
    """Runs `hybrid` as a user does."""

    home: Path
    env: dict[str, str] = field(default_factory=dict)
    prefix: tuple[str, ...] = ()

    def argv(self, *words: str | Path) -> list[str]:
        return [*self.prefix, str(HYBRID), *map(str, words)]

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "HYBRID_HOME": str(self.home), **self.env}

    def __call__(
        self, *words: str | Path, input: bytes = b"", timeout: float = 300
    ) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            self.argv(*words), input=input, capture_output=True, env=self.environment, timeout=timeout, check=False
        )

    def start(self, *words: str | Path, **streams: Any) -> subprocess.Popen[bytes]:
        """The command, running, with pipes for its streams."""
        pipes: dict[str, Any] = {
            "stdin": subprocess.PIPE,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
        } | streams
        running: subprocess.Popen[bytes] = subprocess.Popen(self.argv(*words), env=self.environment, **pipes)
        return running

    def ps(self) -> dict[str, dict[str, Any]]:
        """All instances by name."""
        return {row["name"]: row for row in json.loads(self("ps", "-a", "--format", "json").stdout)}


@dataclass(frozen=True)
class Traces:
    """What instances of one home leave on the host while they exist."""

    mounts: frozenset[str]
    processes: Mapping[int, str]
    cgroups: frozenset[str]
    sockets: frozenset[str]
    directories: frozenset[str]

    def since(self, before: Traces) -> list[str]:
        """What is there now and was not before, in words."""
        processes = {pid: name for pid, name in self.processes.items() if pid not in before.processes}
        return [
            *(f"mount {item}" for item in self.mounts - before.mounts),
            *(f"process {pid} {name}" for pid, name in processes.items()),
            *(f"cgroup {item}" for item in self.cgroups - before.cgroups),
            *(f"socket {item}" for item in self.sockets - before.sockets),
            *(f"directory {item}" for item in self.directories - before.directories),
        ]


def traces(home: Path) -> Traces:
    instances = home / "instances"
    mounts = (line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(home) in line)
    return Traces(
        frozenset(mounts),
        dict(_processes(home)),
        frozenset(_empty_cgroups()),
        frozenset(_idle_sockets()),
        frozenset(path.name for path in instances.iterdir() if path.is_dir()) if instances.exists() else frozenset(),
    )


def _empty_cgroups() -> Iterator[str]:
    """Control groups of ours without a process: those of living instances, of this home or another, have some."""
    for directory, _, _ in os.walk("/sys/fs/cgroup"):
        if "hybrid-" in directory:
            with contextlib.suppress(OSError):
                if not Path(directory, "cgroup.procs").read_text():
                    yield directory


def _idle_sockets() -> Iterator[str]:
    """Directories of sockets that no process has on its command line, those of living instances left out."""
    commands = b"".join(_read(path) for path in Path("/proc").glob("[0-9]*/cmdline"))
    for path in Path("/run/hybrid").glob("*"):
        if path.name != "oci" and os.fsencode(path) not in commands and not _is_owned(path):
            yield str(path)


def _is_owned(root: Path) -> bool:
    """Whether the process lives whose libvirt works in `root`."""
    pid = _read(root / "run/qemu/driver.pid").strip().decode()
    return pid.isdigit() and Path("/proc", pid).exists()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _processes(home: Path) -> Iterator[tuple[int, str]]:
    """Those that were started for this home: their environment, command line or root says so."""
    for proc in Path("/proc").iterdir():
        if not proc.name.isdigit() or int(proc.name) == os.getpid():
            continue
        try:
            command = (proc / "cmdline").read_bytes()
            roots = b"\n".join(
                line for line in (proc / "mountinfo").read_bytes().splitlines() if line.split()[4] == b"/"
            )
            said = command + (proc / "environ").read_bytes() + roots + os.fsencode((proc / "root").readlink())
            if os.fsencode(home) in said and b" Z " not in (proc / "stat").read_bytes():
                yield int(proc.name), command.replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue


@pytest.fixture(scope="session")
def home() -> Iterator[Path]:
    """One home for all: images and kernels are made once."""
    path = Path(tempfile.mkdtemp(prefix="hybrid-test-"))
    path.chmod(0o711)  # a container's root user passes through
    yield path / "home"
    shutil.rmtree(path)


@pytest.fixture
def cli(home: Path) -> Cli:
    return Cli(home)


@pytest.fixture
def another_cli(home: Path) -> Callable[..., Cli]:
    """Another command line: with its own home, environment, or a program in front of it."""

    def make(root: Path = home, env: Mapping[str, str] | None = None, prefix: Sequence[str] = ()) -> Cli:
        return Cli(root, dict(env or {}), tuple(prefix))

    return make


@pytest.fixture
def nothing_left(home: Path) -> Iterator[Callable[[], list[str]]]:
    """At its end a test has left nothing; the function says what there is until then."""
    before = traces(home)
    yield lambda: traces(home).since(before)
    left = traces(home).since(before)
    for _ in range(50):  # another home's instances, of which some traces may be these, come and go
        if not left or {item.split()[0] for item in left} - {"cgroup", "socket"}:
            break
        time.sleep(0.1)
        left = traces(home).since(before)
    for name in Cli(home).ps():
        Cli(home)("rm", "-f", name)
    assert left == []


@pytest.fixture(scope="session")
def able(home: Path) -> Callable[[str], None]:
    """Skips the test unless this host can run the kind; where nothing may be skipped, fails it."""
    report = json.loads(Cli(home)("doctor", "--json").stdout)

    def check(kind: str) -> None:
        problems = report["kinds"][kind]["problems"]
        if problems and os.environ.get("CI"):
            pytest.fail(f"this host cannot run a {kind}: {problems[0]['what']}")
        if problems:
            pytest.skip(f"this host cannot run a {kind}: {problems[0]['what']}")

    return check


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, able: Callable[[str], None]) -> str:
    able(request.param)
    return str(request.param)


@pytest.fixture(scope="session")
def specs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two images' trees and their specs: `tools.yaml` (busybox), `static.yaml` (one static program)."""
    folder = tmp_path_factory.mktemp("specs")
    busybox = shutil.which("busybox")
    assert busybox is not None, "busybox-static is needed"
    programs = folder / "tools/bin"
    programs.mkdir(parents=True)
    shutil.copy(busybox, programs / "busybox")
    for applet in subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split():
        if applet != "busybox":
            (programs / applet).symlink_to("busybox")
    (programs / "data").write_text("no program\n")
    for name in ("tmp", "proc", "sys", "dev", "etc"):
        (folder / "tools" / name).mkdir()
    (folder / "tools.yaml").write_text("image: {rootfs: ./tools}\nmem_limit: 256m\ncommand: [sh, -c, 'echo hello']\n")
    (folder / "static").mkdir()
    subprocess.run(["gcc", "-static", "-x", "c", "-", "-o", folder / "static/app"], input=LOOP.encode(), check=True)
    (folder / "static.yaml").write_text("image: {rootfs: ./static}\nentrypoint: [/app]\ncommand: [from-spec]\n")
    return folder


@pytest.fixture
def tools(specs: Path) -> Path:
    return specs / "tools.yaml"
