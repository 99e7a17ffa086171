"""All eight images, in every kind: made, run to readiness, looked at from inside, compared.

    python -m benchmarks.images.run [NAME …]

Needs root and, the first time, ten minutes: the Debian images are made. Writes benchmarks/results/images.md and
images.json; ends with 1 when an image was not ready, or kinds differ.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.images import parity
from hybrid import drivers, launch, spec
from hybrid.driver import Driver, Kind
from hybrid.errors import HybridError
from hybrid.home import Home, default_home
from hybrid.image import Image, merge
from hybrid.images import ImageStore
from hybrid.images.export import Format, archive, exported
from hybrid.images.progress import Quiet
from hybrid.marks import Mark

NAMES = ("nginx", "redis", "postgresql", "python", "static", "busybox", "ping", "systemd")
RESULTS = Path(__file__).parents[1] / "results"


def main(names: Sequence[str]) -> int:
    home = default_home()
    work = parity.prepare(home.cache / "benchmarks-images")
    found = {kind: drivers.driver(kind, home) for kind in Kind}
    for driver in found.values():
        launch.check(driver)
    rows = []
    for name in names or NAMES:
        print(f"{name}: ", end="", flush=True)
        rows.append(_examine(name, work, found, home))
        print(json.dumps({key: value for key, value in rows[-1].items() if key != "name"}), flush=True)
    if not names:
        _write(rows)
    return 0 if all(row["equal"] and all(row["ready"].values()) for row in rows) else 1


def _examine(name: str, work: Path, found: dict[Kind, Driver], home: Home) -> dict[str, Any]:
    """Everything about one image: seconds until it was ready, by kind; what was seen; how kinds differ."""
    asked, image = image_of(name, work, ImageStore(home))
    row: dict[str, Any] = {"name": name, "digest": image.digest, "bytes": image.tree_bytes, "ready": {}, "failures": []}
    for kind in (Kind.CONTAINER, Kind.VM):
        try:
            row["ready"][kind] = _ready(asked, image, found[kind], home)
        except HybridError as error:
            row["ready"][kind] = None
            row["failures"].append(f"{kind}: {error.what} {getattr(error, 'tail', '')[-600:]}")
    try:
        seen = {kind: parity.look(asked, image, found[kind], home, work / "static/probe") for kind in Kind}
    except HybridError as error:
        row["failures"].append(error.what)
        return row | {"equal": False}
    different = parity.differences(seen)
    row |= {"files": len(seen[Kind.CONTAINER].tree), "tree": {kind: each.digest for kind, each in seen.items()}}
    return row | {"identity": seen[Kind.CONTAINER].identity, "differences": different[:50], "equal": not different}


def image_of(name: str, work: Path, store: ImageStore) -> tuple[spec.Spec, Image]:
    """A spec and its image, made when it is missing; `work` is where `parity.prepare` has put the specs."""
    if (base := work / name / "debian.yaml").exists():
        _export(base, work / name / "debian.tar", store)
    asked = spec.load(work / f"{name}.yaml")
    return asked, store.ensure(asked)


def _export(base: Path, target: Path, store: ImageStore) -> None:
    """An archive of a Debian image, for a Containerfile to start from; left alone when it is there."""
    if target.exists():
        return
    asked = spec.load(base)
    image = store.ensure(asked, Quiet())
    with exported(target, force=True) as (made, scratch):
        archive(asked, image, store.blobs, Format.OCI_ARCHIVE, "debian", made, scratch, Quiet())


def _ready(asked: spec.Spec, image: Image, driver: Driver, home: Home) -> float:
    """Seconds from the request until the image's healthcheck has passed."""
    driver.prepare(image)
    instance = launch.create(asked, image, driver, home, name=f"ready-{driver.kind}")
    try:
        instance.start(None)
        instance.wait_entrypoint(parity.TIMEOUT)
        instance.wait_ready(parity.TIMEOUT)
        took = instance.marks.seconds(Mark.REQUEST, Mark.READY)
        assert took is not None
        instance.stop(merge(asked, image, (), "x").stop_timeout)
        return round(took, 3)
    finally:
        instance.destroy()


def _write(rows: list[dict[str, Any]]) -> None:
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "images.json").write_text(json.dumps(rows, indent=1) + "\n")
    lines = [
        "# Eight images, run both ways",
        "",
        "Made by `python -m benchmarks.images.run`. Ready: seconds from the request until the image's healthcheck",
        "has passed, once, on a busy machine (the VMs are emulated): a check that it works, not a measurement.",
        "Files: how many were compared, with all that `benchmarks/images/static/probe.c` says of each.",
        "Equal: environment, ids, groups, directory, names, limits, descriptors and PATH look-ups of the command in",
        "container and VM, and every file in container, VM and host, with the exceptions that probe.c names.",
        "",
        "| image | MB | container ready | VM ready | files | tree as seen from inside | equal |",
        "| --- | ---: | ---: | ---: | ---: | --- | --- |",
    ]
    for row in rows:
        ready = [f"{row['ready'][kind]:.2f} s" if row["ready"][kind] else "no" for kind in (Kind.CONTAINER, Kind.VM)]
        tree = row.get("tree", {}).get(Kind.VM, "")[:16]
        equal = "yes" if row["equal"] else "no"
        cells = [row["name"], f"{row['bytes'] / 1e6:.0f}", *ready, str(row.get("files", "")), f"`{tree}`", equal]
        lines.append(f"| {' | '.join(cells)} |")
    (RESULTS / "images.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except HybridError as error:
        sys.exit(f"{error.what}\n  mend {error.mend}")
