"""One bench for every driver: it makes instances of a tiny image, and checks that nothing of them is left."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from hybrid import drivers, usage
from hybrid.cgroups import Cgroup
from hybrid.driver import Driver, Instance, Kind, Request, Stdio
from hybrid.home import Home
from hybrid.image import Image, merge
from hybrid.marks import Mark, Marks
from hybrid.spec import Spec
from hybrid.store import InstanceStore
from tests.fakes import Behaviour, FakeDriver

KINDS = ("fake", *(kind.value for kind in Kind))
TIMEOUT = 120.0
"""Seconds for any one step: a bound against hanging, never a measure."""


@dataclass(frozen=True)
class Result:
    """What a command left when it ended."""

    code: int
    out: bytes
    err: bytes


@dataclass
class Bench:
    """Makes instances of one kind and remembers them."""

    driver: Driver
    home: Home
    image: Image
    directory: Path
    made: list[Instance] = field(default_factory=list)
    kind: str = ""

    def request(
        self,
        *argv: str,
        image: Image | None = None,
        fake: Behaviour | None = None,
        change: Mapping[str, Any] | None = None,
        name: str | None = None,
        **spec: Any,
    ) -> Request:
        """A request to run argv; `spec` holds the spec's keys, `change` overrides fields of the merged process."""
        image = image or self.image
        if isinstance(self.driver, FakeDriver):
            self.driver.behaviours[argv] = fake or Behaviour()
        what = Spec(image="test/tiny", **spec)
        name = name or InstanceStore(self.home).free_name("contract")
        marks = Marks()
        marks.stamp(Mark.REQUEST, 0 if self.kind == "fake" else None)
        if change is None:
            merged = merge(what, image, argv, name)
        else:
            harmless = ("/bin/true",) if (image.tree / "bin").exists() else ("/busybox",)
            merged = replace(merge(what, image, harmless, name), argv=argv, **change)
        return Request(name, what, image, merged, marks)

    def make(self, *argv: str, **keys: Any) -> Instance:
        instance = self.driver.create(self.request(*argv, **keys))
        self.made.append(instance)
        return instance

    def run(self, *argv: str, stdin: bytes | None = None, **keys: Any) -> Result:
        """Run a command to its end, attached; CommandError as the driver raises it."""
        with self.attached(*argv, stdin=stdin, **keys) as (instance, result):
            return result(instance)

    def attached(self, *argv: str, stdin: bytes | None = None, **keys: Any) -> Attached:
        return Attached(self.make(*argv, **keys), self.directory, stdin)

    def again(self, instance: Instance) -> Instance:
        """The instance as another process would open it."""
        return self.driver.open(InstanceStore(self.home).get(instance.record.name))


class Attached:
    """An instance started with streams: files for its output, a pipe for its input."""

    def __init__(self, instance: Instance, directory: Path, stdin: bytes | None) -> None:
        self.instance = instance
        self.stdin = stdin
        self.paths = [directory / f"{instance.record.name}.{name}" for name in ("out", "err")]

    def __enter__(self) -> tuple[Instance, Callable[[Instance], Result]]:
        self.out, self.err = (os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600) for path in self.paths)
        self.reads, writes = (-1, -1) if self.stdin is None else os.pipe()
        self.feeder = threading.Thread(target=self._feed, args=(writes,), daemon=True)
        self.feeder.start()
        try:
            self.instance.start(Stdio(self.reads, self.out, self.err))
        except BaseException:
            self.__exit__()
            raise
        return self.instance, self._result

    def __exit__(self, *failure: object) -> None:
        for descriptor in (self.out, self.err, self.reads):
            if descriptor >= 0:
                os.close(descriptor)
        self.feeder.join(10)  # a driver that keeps the pipe open and does not read it must not hang the suite

    def _feed(self, writes: int) -> None:
        if self.stdin is not None:
            with open(writes, "wb", buffering=0) as pipe:
                try:
                    left = memoryview(self.stdin)
                    while left:
                        left = left[pipe.write(left) :]
                except BrokenPipeError:
                    pass

    def _result(self, instance: Instance) -> Result:
        code = instance.wait(TIMEOUT)
        return Result(code, *(path.read_bytes() for path in self.paths))


@pytest.fixture(params=KINDS)
def bench(request: pytest.FixtureRequest, shared_home: Home, tiny_image: Image, tmp_path: Path) -> Iterator[Bench]:
    yield from make_bench(request.param, shared_home, tiny_image, tmp_path)


@pytest.fixture
def container(shared_home: Home, tiny_image: Image, tmp_path: Path) -> Iterator[Bench]:
    yield from make_bench("container", shared_home, tiny_image, tmp_path)


def make_bench(kind: str, home: Home, image: Image, directory: Path) -> Iterator[Bench]:
    driver: Driver = FakeDriver(home) if kind == "fake" else drivers.driver(Kind(kind), home)
    if problems := driver.problems():
        words = f"this host cannot run a {kind}: {problems[0].what}"
        if os.environ.get("CI") == "true":
            pytest.fail(words)
        pytest.skip(words)
    driver.prepare(image)
    bench = Bench(driver, home, image, directory, kind=kind)
    before = snapshot(home)
    yield bench
    for instance in bench.made:
        instance.destroy()
    ids = [instance.record.id for instance in bench.made]
    assert left(home, before, ids) == {}


def snapshot(home: Home) -> dict[str, set[str]]:
    """What of instances is on the host: mounts, processes of ours, files."""
    base = str(home.root.parent)
    return {
        "mounts": {line for line in Path("/proc/self/mounts").read_text().splitlines() if base in line},
        "processes": {_words(pid) for pid in usage.processes() if base in _words(pid)},
        "files": {
            str(path)
            for root in (home.instances, home.run, home.run / "oci/crun", home.run / "oci/runc")
            if root.is_dir()
            for path in root.iterdir()
        },
    }


def left(home: Home, before: Mapping[str, set[str]], ids: list[str]) -> dict[str, set[str]]:
    """What is on the host now that was not before, and the control groups and processes of these instances."""
    found = {name: now - before[name] for name, now in snapshot(home).items()}
    found["files"] -= {str(home.run / name) for name in ("oci", "oci/crun", "oci/runc")}
    found["files"] -= {str(home.instances / ".lock")}
    found["files"] = {path for path in found["files"] if not Path(path).name.startswith("libvirt-")}  # a process's own
    found["cgroups"] = {str(path) for id in ids for path in Cgroup(id).directories if path.exists()}
    found["of an id"] = {_words(pid) for pid in usage.processes() if any(id in _words(pid) for id in ids)}
    return {name: what for name, what in found.items() if what}


def _words(pid: int) -> str:
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
    return f"{pid}: {arguments}" if arguments else ""
