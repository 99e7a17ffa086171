"""What an instance looks like from inside, and in what two of them differ.

The probe is one static program, static/probe.c, which says what counts. It gets into an image that has a shell
through the shell's standard input, so that the image is the one that was run to readiness, byte for byte; the
image without a shell has it for its own program.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hybrid import launch
from hybrid.driver import Kind, Request, Stdio
from hybrid.errors import HybridError
from hybrid.image import merge
from hybrid.marks import Marks
from hybrid.process import need, run

if TYPE_CHECKING:
    from hybrid.driver import Driver
    from hybrid.home import Home
    from hybrid.image import Image
    from hybrid.spec import Spec

HERE = Path(__file__).parent
TIMEOUT = 300.0
_INJECT = 'cat >/tmp/.probe && chmod 755 /tmp/.probe && exec /tmp/.probe "$@"'
_WORDS = ("sh", "cat", "python", "redis-server", "nginx", "ping", "systemctl", "probe")
NAME = "parity"
"""Of every instance looked at: it is the host name."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What the probe said, line by line."""

    identity: tuple[str, ...]
    """Of the command's user: ids, directory, names, environment, limits, where programs are found."""
    tree: tuple[str, ...]
    """Of root: every file."""

    @property
    def digest(self) -> str:
        """Of the tree."""
        return hashlib.sha256("\n".join(self.tree).encode()).hexdigest()


def build_probe(path: Path) -> Path:
    """Compile the probe to `path`, static, so that it runs in any image."""
    source = HERE / "static/probe.c"
    if not path.exists() or path.stat().st_mtime < source.stat().st_mtime:
        made = path.with_name(f".{path.name}")
        run([need("gcc"), "-static", "-O2", "-Wall", "-Wextra", "-o", made, source])
        made.rename(path)
    return path


def prepare(work: Path) -> Path:
    """The specs, in `work`, with what their Containerfiles copy: the probe, this machine's busybox."""
    for path in HERE.rglob("*"):
        target = work / path.relative_to(HERE)
        if (path.suffix in (".py", ".pyc") and path.parent != HERE / "python") or path.is_dir():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        _copy(path, target)
    build_probe(work / "static/probe")
    _copy(Path(need("busybox", "busybox-static")), work / "busybox/busybox")
    return work


def _copy(source: Path, target: Path) -> None:
    """Copy what has changed: a build is made again when a time in its context is another."""
    if not target.exists() or target.read_bytes() != source.read_bytes():
        shutil.copy(source, target)


def look(spec: Spec, image: Image, driver: Driver, home: Home, probe: Path) -> Seen:
    """Run the probe in two instances of an image: one as the spec's user, one as root."""
    shell = "probe" not in (image.config.entrypoint or (" ",))[0]
    identity = _probe(spec, image, driver, home, probe, ["identity", *_WORDS], shell=shell)
    root = spec.model_copy(update={"user": "0"})
    return Seen(identity, _probe(root, image, driver, home, probe, ["tree"], shell=shell))


def _probe(
    spec: Spec, image: Image, driver: Driver, home: Home, probe: Path, words: Sequence[str], *, shell: bool
) -> tuple[str, ...]:
    argv = ["sh", "-c", _INJECT, "sh", *words] if shell else [*image.config.entrypoint, *words]
    changed = spec.model_copy(update={"entrypoint": (), "command": tuple(argv)})
    process = replace(merge(changed, image, (), NAME), healthcheck=None)
    instance = driver.create(Request(NAME, changed, image, process, Marks()))
    try:
        with _streams(probe if shell else Path(os.devnull)) as (stdio, out, err):
            instance.start(stdio)
            instance.wait_entrypoint(TIMEOUT)
            code = instance.wait(TIMEOUT)
            if code != 0:
                raise HybridError(f"the probe ended with {code} in a {driver.kind}: {err.read_text()[-500:]}")
            return tuple(out.read_text().splitlines())
    finally:
        instance.destroy()


@contextmanager
def _streams(source: Path) -> Iterator[tuple[Stdio, Path, Path]]:
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        with source.open("rb") as given, out.open("wb") as output, err.open("wb") as errors:
            yield Stdio(given.fileno(), output.fileno(), errors.fileno()), out, err


def differences(seen: Mapping[Kind, Seen]) -> list[str]:
    """In what the kinds differ, a line each; the host's own tree is compared too, its names and limits are its own."""
    found = []
    container, vm = seen[Kind.CONTAINER], seen[Kind.VM]
    found += _diff("identity", container.identity, vm.identity)
    found += _diff("tree", container.tree, vm.tree)
    if Kind.HOST in seen:
        found += _diff("tree of the host kind", seen[Kind.HOST].tree, container.tree)
    return found


def _diff(what: str, one: Sequence[str], two: Sequence[str]) -> list[str]:
    if one == two:
        return []
    lines = difflib.unified_diff(sorted(one), sorted(two), lineterm="", n=0)
    return [f"{what}: {line}" for line in lines if line[:2] not in ("--", "++", "@@")]


def check(driver: Driver) -> None:
    """HostError when this machine cannot run the driver's kind."""
    launch.check(driver)
