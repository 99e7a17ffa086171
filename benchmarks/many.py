"""Many instances up at once: how long their verbs take, whether they tell the truth, and what is left afterwards.

    python -m benchmarks.many [--containers 50] [--vms 10] [--runs 5]

Starts them, asks `ps` and `stats --no-stream` for all of them, and removes them. Before and after, mounts, network
links, rules, control groups, processes and files are counted: the numbers must be equal. Writes
benchmarks/results/many.md; exits with 1 when something was told wrong or left behind.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.images.run import RESULTS
from hybrid import process, usage
from hybrid.home import Home, default_home

HYBRID = str(Path(sys.executable).with_name("hybrid"))
SPEC = """\
image: {rootfs: ./tree}
command: [sleep, "86400"]
mem_limit: 128m
"""
VERBS = {"ps": ("ps", "--format", "json"), "stats": ("stats", "--no-stream", "--format", "json")}
BAR = 1.0
"""Seconds that `ps` and `stats` may take."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--containers", type=int, default=50)
    parser.add_argument("--vms", type=int, default=10)
    parser.add_argument("--runs", type=int, default=5)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hybrid-many-", dir=default_home().root) as folder:
        Path(folder).chmod(0o711)
        found, wrong = _measure(Path(folder), asked.containers, asked.vms, asked.runs)
    lines = list(_report(found, wrong, asked.containers, asked.vms, asked.runs))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "many.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    return int(bool(wrong))


def _measure(work: Path, containers: int, vms: int, runs: int) -> tuple[dict[str, Any], list[str]]:
    home = Home(work / "home", default_home().run)
    home.root.mkdir(mode=0o711)
    spec = _spec(work)
    for kind in ("container", "vm"):  # what all of a kind share is made, and is no instance's
        _hybrid(home, "run", "--rm", "--as", kind, spec, "true")
    before = _counts(home)
    names = [f"c{number}" for number in range(containers)] + [f"v{number}" for number in range(vms)]
    found: dict[str, Any] = {"up": _timed(partial(_start, home, spec, names))}
    wrong = list(_lies(home, names))
    for verb, words in VERBS.items():
        found[verb] = statistics.median(_timed(partial(_hybrid, home, *words)) for _ in range(runs))
    found["down"] = _timed(partial(_hybrid, home, "rm", "-f", *names))
    _hybrid(home, "prune")
    after = _counts(home)
    found["counts"] = {name: (before[name], after[name]) for name in before}
    wrong += [f"{name}: {before[name]} before, {after[name]} after" for name in before if before[name] != after[name]]
    wrong += [f"{verb} took {found[verb]:.2f} s" for verb in ("ps", "stats") if found[verb] > BAR]
    return found, wrong


def _spec(work: Path) -> str:
    (work / "tree/bin").mkdir(parents=True)
    process.run(["cp", process.need("busybox", "busybox-static"), work / "tree/bin/busybox"])
    for name in ("sh", "sleep", "true"):
        (work / "tree/bin" / name).symlink_to("busybox")
    (work / "spec.yaml").write_text(SPEC)
    return str(work / "spec.yaml")


def _hybrid(home: Home, *words: str) -> bytes:
    return process.run([HYBRID, *words], env={**os.environ, "HYBRID_HOME": str(home.root)})


def _timed(deed: Callable[[], object]) -> float:
    start = time.monotonic()
    deed()
    return time.monotonic() - start


def _start(home: Home, spec: str, names: Sequence[str]) -> None:
    """All of them, as many at once as there are CPUs."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda name: _hybrid(home, "run", "-d", "--as", _kind(name), "--name", name, spec), names))


def _kind(name: str) -> str:
    return {"c": "container", "v": "vm"}[name[0]]


def _lies(home: Home, names: Sequence[str]) -> Iterator[str]:
    """What `ps` and `stats` say that is not so."""
    rows = {row["name"]: row for row in json.loads(_hybrid(home, "ps", "-a", "--format", "json"))}
    if sorted(rows) != sorted(names):
        yield f"ps shows {len(rows)} of {len(names)}"
    for name, row in rows.items():
        if row["state"] != "running" or row["kind"] != _kind(name) or not Path(f"/proc/{row['pid']}").exists():
            yield f"ps says of {name}: {row}"
    stats = json.loads(_hybrid(home, "stats", "--no-stream", "--format", "json"))
    if sorted(row["name"] for row in stats) != sorted(names):
        yield f"stats shows {len(stats)} of {len(names)}"


def _counts(home: Home) -> Mapping[str, int]:
    """What is on this host, by sort."""
    tables = [process.run(["nft", "list", "ruleset"])] if process.find("nft") else []
    return {
        "mounts": len(Path("/proc/self/mounts").read_text().splitlines()),
        "links": len(list(Path("/sys/class/net").iterdir())),
        "rules": sum(len(table.splitlines()) for table in tables),
        "control groups": sum("hybrid-" in name for name, _, _ in os.walk("/sys/fs/cgroup")),
        "processes": sum(_ours(pid, home) for pid in usage.processes()),
        "files": sum(len(files) for name, _, files in os.walk(home.instances)),
        "run files": sum(1 for _ in home.run.glob("*")),
    }


def _ours(pid: int, home: Home) -> bool:
    try:
        return os.fsencode(home.root) in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _report(found: Mapping[str, Any], wrong: Sequence[str], containers: int, vms: int, runs: int) -> Iterator[str]:
    yield from (
        "# Many instances at once",
        "",
        f"Made by `python -m benchmarks.many --containers {containers} --vms {vms} --runs {runs}`, whole processes,",
        f"`ps` and `stats` as the median of {runs}; {os.cpu_count()} CPUs.",
        "",
        "| what | seconds |",
        "| --- | ---: |",
        f"| all up and executed ({containers} containers, {vms} VMs) | {found['up']:.1f} |",
        f"| `ps` | {found['ps']:.2f} |",
        f"| `stats --no-stream` | {found['stats']:.2f} |",
        f"| all removed by one `rm -f` | {found['down']:.1f} |",
        "",
        "| on the host | before | after |",
        "| --- | ---: | ---: |",
    )
    yield from (f"| {name} | {before} | {after} |" for name, (before, after) in found["counts"].items())
    yield ""
    yield f"Wrong: {'; '.join(wrong)}" if wrong else "Nothing was told wrong, and nothing was left."


if __name__ == "__main__":
    sys.exit(main())
