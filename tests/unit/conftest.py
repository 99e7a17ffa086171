"""What the unit tests of measuring share: a driver that follows a script, and an image for it. No clock, no process."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import pytest

from hybrid import machine
from hybrid.compare import Settings, compare
from hybrid.driver import Evidence, Instance, Kind, Problem, Request, State, Status, Stdio, Usage
from hybrid.errors import HybridError, InstanceError, NotReadyError
from hybrid.home import Home
from hybrid.image import Image, ImageConfig
from hybrid.marks import Mark, Marks
from hybrid.result import Result
from hybrid.spec import Spec
from hybrid.store import Record

MS = 1_000_000

LENGTHS: Mapping[Kind, Mapping[Mark, int]] = {
    Kind.HOST: {Mark.CREATE: 1, Mark.SPAWN: 2, Mark.ENTRYPOINT: 3, Mark.READY: 10, Mark.STOP: 4, Mark.GONE: 2},
    Kind.CONTAINER: {Mark.CREATE: 5, Mark.SPAWN: 10, Mark.ENTRYPOINT: 15, Mark.READY: 12, Mark.STOP: 6, Mark.GONE: 9},
    Kind.VM: {
        Mark.CREATE: 300, Mark.SPAWN: 200, Mark.KERNEL: 900, Mark.INIT: 400, Mark.ENTRYPOINT: 50, Mark.READY: 40,
        Mark.STOP: 80, Mark.GONE: 120,
    },
}  # fmt: skip


@dataclass
class Script:
    """What the instances of a scripted driver do, and what became of them."""

    fail: Mapping[str, BaseException] = field(default_factory=dict)
    """Step name (create, start, entrypoint, ready, usage, evidence, stop, destroy) to what it raises."""
    ends: int | None = None
    """The exit code with which the command ends as soon as it is executed; None: it runs until it is stopped."""
    exit_code: int = 0
    """With which it ends when it is stopped."""
    problems: Sequence[Problem] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    extra: Callable[[int], int] = lambda trial: 0
    """Milliseconds that a trial's entrypoint takes longer, by its number."""
    digest: str | None = None
    created: list[str] = field(default_factory=list)
    alive: set[str] = field(default_factory=set)
    prepared: int = 0
    stderr: int = -1
    """The descriptor of the running instance's standard error."""
    at: Callable[[str], None] = lambda step: None
    """Called at every step with its name."""

    def step(self, name: str) -> None:
        self.at(name)
        if name in self.fail:
            raise self.fail[name]


class ScriptedInstance:
    kind: ClassVar[Kind] = Kind.HOST

    def __init__(self, driver: ScriptedDriver, request: Request, record: Record, number: int) -> None:
        self.driver, self.request, self.record, self.number = driver, request, record, number
        self.script = driver.script
        self.running = False

    @property
    def marks(self) -> Marks:
        return self.request.marks

    def stamp(self, *marks: Mark) -> None:
        lengths = LENGTHS[self.driver.kind]
        for mark in marks:
            if mark in lengths:
                more = self.script.extra(self.number) if mark is Mark.ENTRYPOINT else 0
                self.marks.stamp(mark, max(self.marks.values()) + (lengths[mark] + more) * MS)

    def start(self, stdio: Stdio | None) -> None:
        self.script.step("start")
        assert stdio is not None and stdio.stdin < 0
        os.write(stdio.stdout, b"started\n")
        self.script.stderr = stdio.stderr
        self.running = True
        self.stamp(Mark.SPAWN)

    def wait_entrypoint(self, timeout: float) -> None:
        self.script.step("entrypoint")
        self.stamp(Mark.KERNEL, Mark.INIT, Mark.ENTRYPOINT)
        if self.script.ends is not None:
            self.running = False

    def wait_ready(self, timeout: float) -> None:
        self.script.step("ready")
        if self.request.process.healthcheck is None:
            self.marks.stamp(Mark.READY, self.marks[Mark.ENTRYPOINT])
        self.stamp(Mark.READY)

    def wait(self, timeout: float | None = None) -> int:
        if self.script.ends is None:
            raise NotReadyError("it runs on", phase="stop")
        self.marks.stamp(Mark.STOP, max(self.marks.values()) + MS)
        return self.script.ends

    def stop(self, timeout: float) -> int | None:
        self.script.step("stop")
        self.marks.stamp(Mark.STOPPING, max(self.marks.values()) + 1000 * MS)
        self.stamp(Mark.STOP)
        self.running = False
        return self.script.exit_code

    def signal(self, number: int) -> None:
        raise AssertionError("a comparison sends no signals of its own")

    def status(self) -> Status:
        return Status(State.RUNNING if self.running else State.EXITED, self.script.ends)

    def usage(self) -> Usage:
        self.script.step("usage")
        self.look()
        scale = {Kind.HOST: 1, Kind.CONTAINER: 2, Kind.VM: 50}[self.driver.kind]
        return Usage(0.01 * scale + self.number * 1e-5, (scale << 20) + self.number, scale << 19, scale, 4096 * scale)

    def evidence(self) -> Evidence:
        self.script.step("evidence")
        self.look()
        return evidence(self.driver.kind)

    def look(self) -> None:
        if not self.running:
            raise InstanceError("it does not run")

    def logs(self) -> tuple[Path, Path]:
        raise AssertionError("a comparison's instances are not detached")

    def destroy(self) -> None:
        self.script.step("destroy")
        self.script.alive.discard(self.record.name)
        self.running = False
        if max(self.marks.values()) > self.marks[Mark.REQUEST]:
            self.stamp(Mark.GONE)


class ScriptedDriver:
    kind: ClassVar[Kind] = Kind.HOST

    def __init__(self, kind: Kind, script: Script) -> None:
        self.kind = kind  # type: ignore[misc]
        self.script = script

    def problems(self) -> Sequence[Problem]:
        return self.script.problems

    def warnings(self) -> Sequence[Problem]:
        return ()

    def facts(self) -> Mapping[str, str]:
        default = {
            Kind.HOST: {"engine": "chroot"},
            Kind.CONTAINER: {"engine": "runc 1.1.5"},
            Kind.VM: {"engine": "QEMU 7.2.15", "libvirt": "9.0.0", "accelerator": "tcg", "kernel": "6.1.0-31-cloud"},
        }
        return self.script.facts or default[self.kind]

    def prepare(self, image: Image) -> int:
        self.script.step("prepare")
        self.script.prepared += 1
        return 64 << 20 if self.kind is Kind.VM else 0

    def create(self, request: Request) -> ScriptedInstance:
        self.script.step("create")
        self.script.created.append(request.name)
        self.script.alive.add(request.name)
        record = Record(
            request.name, "0" * 16, self.kind, self.script.digest or request.image.digest, "",
            request.process.argv, 0.0, Path("/nowhere"),
        )  # fmt: skip
        instance = ScriptedInstance(self, request, record, len(self.script.created))
        instance.stamp(Mark.CREATE)
        return instance

    def open(self, record: Record) -> Instance:
        raise InstanceError("a scripted instance lives in one process")


def evidence(kind: Kind) -> Evidence:
    """What an instance of each kind would show."""
    namespaces = {name: f"{name}:[4026531840]" for name in ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")}
    if kind is Kind.HOST:
        return Evidence("6.1.0-host", BOOT_ID, "Debian 12", "0 0 4294967295", namespaces, (1 << 41) - 1, 0, False)
    if kind is Kind.CONTAINER:
        own = {name: f"{name}:[4026532{number}00]" for number, name in enumerate(namespaces)}
        return Evidence("6.1.0-host", BOOT_ID, "Debian 12", "0 100000 65536", own, 0xA80425FB, 2, True)
    return Evidence(
        "6.1.0-31-cloud", "9" * 36, "Debian 12", "0 0 4294967295", namespaces, (1 << 41) - 1, 0, False,
        {"qemu": {"Uid": "107", "CapEff": "0000000000000000", "NoNewPrivs": "1", "Seccomp": "2"}},
    )  # fmt: skip


BOOT_ID = "5f2d4b0e-0000-4000-8000-000000000001"

HOST = machine.Machine(
    cpu="A CPU", cores=2, memory_bytes=24 << 30, kernel="6.1.0-host", os_name="Debian 12", boot_id=BOOT_ID,
    virtual="", governor="", cgroups="v1-hybrid",
    namespaces={name: f"{name}:[4026531840]" for name in ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")},
    capabilities=(1 << 41) - 1, python="3.11.2", hybrid="0.1.0",
)  # fmt: skip


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[ScriptedDriver, Script]]:
    """Makes a driver that does what its script says, on a machine that always looks the same."""
    monkeypatch.setattr(machine, "describe", lambda: HOST)
    monkeypatch.setattr(machine, "load", lambda: machine.Load(1_700_000_000.0, 0.1, 0.0, 0.0))

    def make(kind: Kind = Kind.CONTAINER, **script: object) -> tuple[ScriptedDriver, Script]:
        written = Script(**script)  # type: ignore[arg-type]
        return ScriptedDriver(kind, written), written

    return make


@pytest.fixture
def image(tmp_path: Path) -> Image:
    """An image with one command, /bin/true."""
    tree = tmp_path / "image/rootfs"
    (tree / "bin").mkdir(parents=True)
    (tree / "bin/true").write_bytes(b"\x7fELF")
    (tree / "bin/true").chmod(0o755)
    config = ImageConfig(cmd=("/bin/true",))
    return Image("sha256:" + "ab" * 32, tmp_path / "image", config, ("test",), "here", 10 << 20)


@pytest.fixture
def host() -> machine.Machine:
    return HOST


@pytest.fixture
def seen() -> Callable[[Kind], Evidence]:
    return evidence


@pytest.fixture
def broken() -> HybridError:
    return HybridError("it broke", mend="mend it")


@pytest.fixture
def result(scripted: Callable[..., tuple[ScriptedDriver, Script]], image: Image, tmp_path: Path) -> Result:
    """A comparison of all kinds whose every figure is known; what a clock or a path gave is pinned."""
    spec = Spec(image="test", healthcheck={"test": ["CMD", "/bin/true"]})  # type: ignore[arg-type]
    drivers = {kind: scripted(kind)[0] for kind in Kind}
    home = Home(tmp_path / "home", tmp_path / "run")
    found, _ = compare(spec, image, 12.3, drivers, home, tmp_path / "out", Settings(runs=6, warmup=1, seed=1))
    kinds = {kind: replace(each, prepare_seconds=1.5 if kind is Kind.VM else 0.0) for kind, each in found.kinds.items()}
    times = {"started": "2026-01-02T03:04:05+00:00", "ended": "2026-01-02T03:05:06+00:00"}
    return replace(found, kinds=kinds, **times)  # type: ignore[arg-type]
