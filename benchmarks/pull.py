"""From a registry to something that can be started, beside `podman pull` of the same image.

    python -m benchmarks.pull [--runs N] [NAME …]

NAME is one of benchmarks/images (nginx and python unless given). Each run pulls into stores that hold nothing, in
random order: podman, hybrid until a container is made, hybrid until a VM is made, its disk included. Whole processes
are timed, from their start until the thing is there. The registry is Debian's docker-registry on loopback, the
layers are gzip's, and what was written before is on the disk before the next begins. The guest's kernel belongs to no
image, and is not fetched here. Writes benchmarks/results/pull.md and pull.json.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.images import parity
from benchmarks.images.run import RESULTS, image_of
from hybrid import process, stats
from hybrid.home import Home, default_home

BARS = {"container": 1.2, "vm": 1.5}


def main() -> int:
    if sys.argv[1:2] == ["--make"]:
        return _make(*sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=["nginx", "python"])
    parser.add_argument("--runs", type=int, default=7)
    asked = parser.parse_args()
    home = default_home()
    work = parity.prepare(home.cache / "benchmarks-images")
    rows = []
    with tempfile.TemporaryDirectory(prefix="hybrid-pull-", dir=home.cache) as folder, _registry(Path(folder)) as host:
        Path(folder).chmod(0o711)
        for name in asked.names:
            reference, size = _push(name, work, home, host, Path(folder))
            rows.append(_compare(name, reference, size, asked.runs, Path(folder)))
            print(_line(rows[-1]), flush=True)
    _write(rows, asked.runs)
    return 0


# One process that is timed


def _make(kind: str, reference: str) -> int:
    """Pull the image, make an instance of it, say so, and remove it once that was heard."""
    from hybrid import drivers, launch
    from hybrid.driver import Kind
    from hybrid.images import ImageStore

    home = default_home()
    asked = launch.load(reference)
    image = ImageStore(home).ensure(asked)
    driver = drivers.driver(Kind(kind), home)
    instance = launch.create(asked, image, driver, home, command=["/bin/sh"], name="pulled")
    print("made", flush=True)
    sys.stdin.readline()
    instance.destroy()
    return 0


def _hybrid(kind: str, reference: str, folder: Path) -> tuple[float, float]:
    """Seconds until it was made, and CPU seconds."""
    fresh = folder / "home"
    fresh.mkdir(mode=0o711)
    argv = [sys.executable, "-m", "benchmarks.pull", "--make", kind, reference]
    env = {**os.environ, "HYBRID_HOME": str(fresh)}
    before, start = _cpu(), time.monotonic()
    with process.spawn(argv, stdin=process.PIPE, stdout=process.PIPE, env=env) as child:
        assert child.stdout is not None
        told = child.stdout.readline()
        took = time.monotonic() - start
        child.communicate(b"heard\n")
    if told != b"made\n" or child.returncode != 0:
        raise SystemExit(f"hybrid failed as {kind}")
    return took, _cpu() - before


def _podman(reference: str, folder: Path) -> tuple[float, float]:
    with tempfile.TemporaryDirectory(prefix="pull-") as state:  # it must be short
        stores = ["--root", str(folder / "podman"), "--runroot", state]
        argv = [process.need("podman"), *stores, "pull", "--quiet", "--tls-verify=false", reference]
        before, start = _cpu(), time.monotonic()
        process.run(argv)
        return time.monotonic() - start, _cpu() - before


def _cpu() -> float:
    """CPU seconds of the children that have ended."""
    times = os.times()
    return times.children_user + times.children_system


# Many of them


def _compare(name: str, reference: str, size: int, runs: int, folder: Path) -> dict[str, Any]:
    taken: dict[str, list[tuple[float, float]]] = {"podman": [], "container": [], "vm": []}
    rng = random.Random(1)
    for number in range(-1, runs):  # the first warms up
        for kind in rng.sample(list(taken), len(taken)):
            with tempfile.TemporaryDirectory(dir=folder) as place:
                Path(place).chmod(0o711)
                os.sync()
                each = _podman(reference, Path(place)) if kind == "podman" else _hybrid(kind, reference, Path(place))
                if number >= 0:
                    taken[kind].append(each)
                _erase(Path(place))
    return {"name": name, "layers bytes": size, "samples": taken} | _summary(taken)


def _erase(place: Path) -> None:
    """Remove a store, mounts of podman's included."""
    process.run(["sh", "-c", 'umount -q "$1"/podman/overlay; rm -rf "$1"/*', "sh", str(place)])


def _summary(taken: Mapping[str, list[tuple[float, float]]]) -> dict[str, Any]:
    walls = {kind: [wall for wall, _ in samples] for kind, samples in taken.items()}
    ratios = {}
    for kind, bar in BARS.items():
        found = stats.ratio(walls[kind], walls["podman"])
        if found is None or found.interval is None:
            raise SystemExit("more runs are needed: --runs 3")
        ratios[kind] = {"ratio": found.value, "low": found.interval.low, "high": found.interval.high, "bar": bar}
    return {
        "seconds": {kind: statistics.median(values) for kind, values in walls.items()},
        "cpu": {kind: statistics.median(cpu for _, cpu in samples) for kind, samples in taken.items()},
        "ratios": ratios,
    }


# The registry


@contextmanager
def _registry(folder: Path) -> Iterator[str]:
    """docker-registry on a free port of loopback."""
    (folder / "config.yml").write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {folder}/registry}}}}\n"
        "http: {addr: '127.0.0.1:0', secret: benchmark}\n"
    )
    argv = [process.need("docker-registry"), "serve", str(folder / "config.yml")]
    with process.spawn(argv, stdout=process.DEVNULL, stderr=process.PIPE) as child:
        assert child.stderr is not None
        for line in child.stderr:
            if match := re.search(rb"listening on (127\.0\.0\.1:\d+)", line):
                threading.Thread(target=child.stderr.read, daemon=True).start()
                yield match[1].decode()
                return
        raise SystemExit("the registry did not start")


def _push(name: str, work: Path, home: Home, host: str, folder: Path) -> tuple[str, int]:
    """Send an image to the registry with gzip's layers; its name there, and the bytes of its layers."""
    from hybrid.images import ImageStore, skopeo

    store = ImageStore(home)
    image = image_of(name, work, store)[1]
    given = (image.directory / "manifest.json").read_bytes()
    source = skopeo.as_dir(given, store.blobs, folder / f"{name}.dir")
    target = f"{host}/{name}:1"
    copy = ["copy", "--quiet", "--dest-tls-verify=false", "--dest-compress", "--dest-compress-format=gzip"]
    run = [process.need("skopeo"), "--insecure-policy"]
    process.run([*run, *copy, f"dir:{source}", f"docker://{target}"])
    found = json.loads(process.run([*run, "inspect", "--raw", "--tls-verify=false", f"docker://{target}"]))
    return target, sum(layer["size"] for layer in found["layers"])


# What was found


def _line(row: Mapping[str, Any]) -> str:
    seconds, cpu, ratios = row["seconds"], row["cpu"], row["ratios"]
    cells = [row["name"], f"{row['layers bytes'] / 1e6:.0f}"]
    cells += [f"{seconds[kind]:.2f} ({cpu[kind]:.1f})" for kind in ("podman", "container", "vm")]
    cells += [f"{each['ratio']:.2f} [{each['low']:.2f}, {each['high']:.2f}]" for each in ratios.values()]
    return f"| {' | '.join(cells)} |"


def _write(rows: list[dict[str, Any]], runs: int) -> None:
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "pull.json").write_text(json.dumps(rows, indent=1) + "\n")
    lines = [
        "# From a registry to something that can be started",
        "",
        f"Made by `python -m benchmarks.pull --runs {runs}`: medians of whole processes with empty stores, in random",
        "order in one run, seconds until it was there, CPU seconds in brackets; ratios of the medians to podman's with",
        f"95 % bootstrap intervals. The bars are {BARS['container']} for a container and {BARS['vm']} for a VM.",
        f"{process.run([process.need('podman'), '--version']).decode().strip()}, {os.cpu_count()} CPUs.",
        "",
        "| image | MB, gzip | podman pull | to a container | to a VM | container : podman | VM : podman |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        *map(_line, rows),
    ]
    (RESULTS / "pull.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
