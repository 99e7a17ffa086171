"""The same bundle started by hand with the bare runtime, beside the driver's own figures.

    python -m benchmarks.by_hand SPEC [RUNS]

Each run makes one instance, and either starts it through the driver (marks CREATE to ENTRYPOINT and READY)
or by hand: its root mounted, `runtime run --detach` of its bundle, then its healthcheck by `runtime exec`
until it passes. The two take turns in random order. Prints the medians in milliseconds and their ratios.
"""

from __future__ import annotations

import os
import random
import statistics
import sys
import time
from pathlib import Path

from container import mounts
from container.instance import ContainerInstance
from container.records import saved_process
from hybrid import cgroups, process
from hybrid.driver import Kind, Stdio
from hybrid.drivers import driver
from hybrid.errors import ToolError
from hybrid.home import default_home
from hybrid.images import ImageStore
from hybrid.launch import create, load
from hybrid.marks import Mark


def by_hand(instance: ContainerInstance, test: tuple[str, ...], pause: float) -> tuple[float, float]:
    """Milliseconds from the first step until the runtime has executed the command, and until the check passes."""
    engine, name = instance.record.engine, instance.record.id
    ids = None if engine["ids"] is None else mounts.IdMap(*engine["ids"])
    start = time.monotonic()
    userns = None if ids is None else mounts.user_namespace(ids)
    instance.runtime.root.mkdir(parents=True, exist_ok=True, mode=0o700)

    def work() -> tuple[float, float]:
        mounts.own_null(instance.layers.root)
        mounts.mount_root(instance.layers, userns)
        if (idle := cgroups.tree().idle) is not None:
            mounts.hide(idle)
        run = instance.runtime.argv("run", "--detach", "--bundle", instance.directory, name)
        with process.spawn(run, stdout=process.DEVNULL, stderr=process.DEVNULL) as child:
            child.wait()
        executed = time.monotonic()
        while True:
            try:
                process.run(instance.runtime.argv("exec", name, *test))
                break
            except ToolError:
                time.sleep(pause)
        ready = time.monotonic()
        process.run(instance.runtime.argv("delete", "--force", name))
        return (executed - start) * 1000, (ready - start) * 1000

    return mounts.private(work)


def through_driver(instance: ContainerInstance) -> tuple[float, float]:
    """The same two spans by the driver's marks."""
    null = os.open(os.devnull, os.O_RDWR)
    try:
        instance.start(Stdio(-1, null, null))
        instance.wait_ready(60)
    finally:
        os.close(null)
    marks = instance.marks
    spans = (marks.seconds(Mark.CREATE, Mark.ENTRYPOINT), marks.seconds(Mark.CREATE, Mark.READY))
    return (spans[0] or 0.0) * 1000, (spans[1] or 0.0) * 1000


def main(spec_file: str, runs: int) -> None:
    home = default_home()
    spec = load(spec_file)
    image = ImageStore(home).ensure(spec)
    containers = driver(Kind.CONTAINER, home)
    figures: dict[str, list[tuple[float, float]]] = {"by hand": [], "driver": []}
    ways = [way for _ in range(runs + 1) for way in random.sample(list(figures), 2)]
    for turn, way in enumerate(ways):
        instance = create(spec, image, containers, home)
        assert isinstance(instance, ContainerInstance)
        check = saved_process(instance.record).healthcheck
        if check is None:
            sys.exit("the spec has no healthcheck")
        try:
            manual = way == "by hand"
            found = by_hand(instance, check.test, check.start_interval) if manual else through_driver(instance)
        finally:
            instance.destroy()
        if turn >= 2:  # the first of each warms up
            figures[way].append(found)
    for number, what in enumerate(("command executed", "ready")):
        hand, ours = (statistics.median(found[number] for found in figures[way]) for way in ("by hand", "driver"))
        print(f"{what:18} by hand {hand:6.1f} ms   driver {ours:6.1f} ms   ratio {ours / hand:.2f}   runs {runs}")


if __name__ == "__main__":
    main(str(Path(sys.argv[1])), int(sys.argv[2]) if len(sys.argv) > 2 else 20)
