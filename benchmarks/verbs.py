"""What a command costs from its start to its end, beside Docker's and podman's of the same image.

    python -m benchmarks.verbs [--runs N]

Two questions. `exec`: `exec NAME true` in a container that runs (hybrid, podman, docker) and in a VM (hybrid), after
the first. `run`: `run --rm` without a network, `echo READY`, as a container. The image is one static busybox. Whole
processes are timed, in random order in one run. dockerd is started for this alone, with its own directories, and
stopped at the end; an engine that is not installed is left out and named. Writes benchmarks/results/verbs.md and
verbs.json.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TypeAlias

from benchmarks.images.run import RESULTS
from hybrid import process, stats
from hybrid.home import default_home

NAME = f"verbs-{os.getpid()}"
IMAGE = "localhost/verbs:1"
SPEC = """\
image: {rootfs: ./tree}
command: [sleep, "86400"]
network_mode: none
mem_limit: 128m
"""
BARS = {
    ("exec", "hybrid container", "podman"): 1.0,
    ("exec", "hybrid vm", "podman"): 2.0,
    ("run", "hybrid container", "podman"): 0.75,
    ("run", "hybrid container", "docker"): 0.4,
}

QUIET = ("--network", "none", "--ulimit", "nofile=1024:4096", "--ulimit", "nproc=4096:4096")
"""No network, and no more open files than a host without CAP_SYS_RESOURCE may give."""

Argv: TypeAlias = Sequence[str]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=25)
    asked = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory(prefix="hybrid-verbs-", dir=default_home().root) as folder, ExitStack() as stack:
        work = Path(folder)
        work.chmod(0o711)
        _tree(work / "tree")
        (work / "spec.yaml").write_text(SPEC)
        made: dict[str, _Hybrid | _Engine] = {"hybrid": _Hybrid(work), "podman": _Podman(work), "docker": _Docker(work)}
        missing = [name for name, engine in made.items() if not engine.here()]
        engines = [engine for name, engine in made.items() if name not in missing]
        for engine in engines:
            stack.enter_context(engine.ready())
        questions = {verb: _commands(engines, verb) for verb in ("exec", "run")}
        found = {verb: _times(commands, asked.runs) for verb, commands in questions.items()}
        versions = [engine.version() for engine in engines]
    _write(found, versions, missing, asked.runs)
    return 0


def _tree(tree: Path) -> None:
    """A root filesystem of one program with all its names."""
    (tree / "bin").mkdir(parents=True)
    busybox = process.need("busybox", "busybox-static")
    process.run(["cp", busybox, tree / "bin/busybox"])
    for name in ("sh", "sleep", "echo", "true"):
        (tree / "bin" / name).symlink_to("busybox")
    for name in ("dev", "etc", "proc", "sys", "tmp"):
        (tree / name).mkdir()


# The engines


class _Hybrid:
    name = "hybrid"

    def __init__(self, work: Path) -> None:
        self.work = work
        self.program = str(Path(sys.executable).with_name("hybrid"))
        self.kinds = ("container", "vm")

    def here(self) -> bool:
        return True

    def version(self) -> str:
        return process.run([self.program, "--version"]).decode().strip()

    @contextmanager
    def ready(self) -> Iterator[None]:
        spec = str(self.work / "spec.yaml")
        try:
            process.run([self.program, "image", "build", "-t", IMAGE, spec])
            for kind in self.kinds:
                process.run([self.program, "run", "-d", "--as", kind, "--name", f"{NAME}-{kind}", spec])
            yield
        finally:
            for kind in self.kinds:
                with suppress(Exception):
                    process.run([self.program, "rm", "-f", f"{NAME}-{kind}"])
            process.run([self.program, "image", "rm", IMAGE])

    def commands(self, verb: str) -> Mapping[str, Argv]:
        if verb == "exec":
            return {f"hybrid {kind}": [self.program, "exec", f"{NAME}-{kind}", "true"] for kind in self.kinds}
        options = ["--rm", "--as", "container", "--network", "none"]
        return {"hybrid container": [self.program, "run", *options, IMAGE, "--", "echo", "READY"]}


class _Engine:
    """Docker, or what takes its command line."""

    name = ""

    def __init__(self, work: Path) -> None:
        self.work = work

    @property
    def argv(self) -> list[str]:
        raise NotImplementedError

    def here(self) -> bool:
        return process.find(self.name) is not None

    def version(self) -> str:
        return process.run([self.name, "--version"]).decode().strip()

    @contextmanager
    def ready(self) -> Iterator[None]:
        archive = self.work / "tree.tar"
        process.run(["tar", "-C", self.work / "tree", "-cf", archive, "."])
        process.run([*self.argv, "import", archive, IMAGE])
        process.run([*self.argv, "run", "-d", *QUIET, "--name", NAME, IMAGE, "sleep", "86400"])
        try:
            yield
        finally:
            with suppress(Exception):
                process.run([*self.argv, "rm", "-f", NAME])

    def commands(self, verb: str) -> Mapping[str, Argv]:
        if verb == "exec":
            return {self.name: [*self.argv, "exec", NAME, "true"]}
        return {self.name: [*self.argv, "run", "--rm", *QUIET, IMAGE, "echo", "READY"]}


class _Podman(_Engine):
    name = "podman"

    @property
    def argv(self) -> list[str]:
        stores = ["--root", str(self.work / "podman"), "--runroot", f"/run/{NAME}"]
        return ["podman", *stores, "--cgroup-manager", "cgroupfs", "--runtime", "crun", "--events-backend", "none"]

    @contextmanager
    def ready(self) -> Iterator[None]:
        try:
            with super().ready():
                yield
        finally:
            process.run(
                ["sh", "-c", 'umount -q "$1"/overlay; rm -rf "$1" "$2"', "sh", self.work / "podman", f"/run/{NAME}"]
            )


class _Docker(_Engine):
    name = "docker"

    @property
    def argv(self) -> list[str]:
        return ["docker", "--host", f"unix://{self.work}/docker.sock"]

    def here(self) -> bool:
        return super().here() and process.find("dockerd") is not None

    @contextmanager
    def ready(self) -> Iterator[None]:
        with _daemon(self.work), super().ready():
            yield


@contextmanager
def _daemon(work: Path) -> Iterator[None]:
    """dockerd without networks of its own; it says on its log when it listens."""
    argv: list[str | Path] = [
        *(process.need("dockerd", "docker.io"), "--host", f"unix://{work}/docker.sock", "--data-root", work / "docker"),
        *("--exec-root", f"/run/{NAME}-docker", "--pidfile", work / "docker.pid", "--config-file", work / "none.json"),
        *("--bridge", "none", "--iptables=false", "--ip-forward=false"),
    ]
    (work / "none.json").write_text("{}")
    log = work / "docker.log"
    with log.open("wb") as out, process.spawn(argv, stdout=out, stderr=out):
        deadline = time.monotonic() + 60
        while b"API listen on" not in log.read_bytes():
            if time.monotonic() > deadline:
                raise SystemExit(f"dockerd does not start: {log.read_text()[-2000:]}")
            time.sleep(0.1)
        yield
    process.run(["rm", "-rf", f"/run/{NAME}-docker"])


# The times


def _commands(engines: Sequence[_Hybrid | _Engine], verb: str) -> dict[str, Argv]:
    return {name: argv for engine in engines for name, argv in engine.commands(verb).items()}


def _times(commands: Mapping[str, Argv], runs: int) -> dict[str, list[float]]:
    """Milliseconds of each command's runs; the first warms up."""
    taken: dict[str, list[float]] = {name: [] for name in commands}
    rng = random.Random(1)
    for number in range(-1, runs):
        for name in rng.sample(list(commands), len(commands)):
            start = time.monotonic()
            process.run(commands[name])
            if number >= 0:
                taken[name].append((time.monotonic() - start) * 1000)
    return taken


def _write(
    found: Mapping[str, Mapping[str, list[float]]], versions: Sequence[str], missing: Sequence[str], runs: int
) -> None:
    rows = [row for verb, times in found.items() for row in _rows(verb, times)]
    RESULTS.mkdir(exist_ok=True)
    data = {"milliseconds": found, "versions": list(versions), "missing": list(missing)}
    (RESULTS / "verbs.json").write_text(json.dumps(data, indent=1) + "\n")
    lines = [
        "# `exec` and `run` beside podman and Docker",
        "",
        f"Made by `python -m benchmarks.verbs --runs {runs}`: medians of whole processes in milliseconds, in random",
        "order in one run; ratios of the medians with 95 % bootstrap intervals.",
        f"{'; '.join(versions)}; {os.cpu_count()} CPUs.",
        *([f"Not installed here: {', '.join(missing)}."] if missing else []),
        "",
        "| verb | command | ms | to podman | to docker |",
        "| --- | --- | ---: | ---: | ---: |",
        *rows,
    ]
    (RESULTS / "verbs.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def _rows(verb: str, times: Mapping[str, list[float]]) -> Iterator[str]:
    for name, values in times.items():
        cells = [verb, name, f"{statistics.median(values):.0f}"]
        cells += [_ratio(verb, name, values, peer, times.get(peer)) for peer in ("podman", "docker")]
        yield f"| {' | '.join(cells)} |"


def _ratio(verb: str, name: str, values: list[float], peer: str, theirs: list[float] | None) -> str:
    if theirs is None or name == peer or not name.startswith("hybrid"):
        return ""
    found = stats.ratio(values, theirs)
    if found is None or found.interval is None:
        raise SystemExit("more runs are needed: --runs 3")
    bar = BARS.get((verb, name, peer))
    text = f"{found.value:.2f} [{found.interval.low:.2f}, {found.interval.high:.2f}]"
    return text if bar is None else f"{text}, bar {bar}"


if __name__ == "__main__":
    sys.exit(main())
