"""From a spec to an instance: what `run` and `compare` do alike."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hybrid.driver import Driver, Instance, Kind, Request
from hybrid.errors import HostError
from hybrid.marks import Mark, Marks
from hybrid.store import InstanceStore

if TYPE_CHECKING:
    from hybrid.home import Home
    from hybrid.image import Image
    from hybrid.spec import Spec


def load(target: str) -> Spec:
    """The spec that `target` means: a file when there is one or when it is named like one, else an image."""
    from hybrid import spec

    path = Path(target)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        return spec.load(path)
    return spec.for_image(target)


def check(driver: Driver) -> None:
    """HostError when this host cannot run the driver's kind: the first reason, with its mend."""
    if problems := driver.problems():
        first = problems[0]
        rest = f" (and {len(problems) - 1} more: `hybrid doctor`)" if len(problems) > 1 else ""
        raise HostError(f"this host cannot run a {driver.kind}: {first.what}{rest}", mend=first.mend)


def create(
    spec: Spec, image: Image, driver: Driver, home: Home, *, command: Sequence[str] = (), name: str | None = None
) -> Instance:
    """An instance of `image` as `spec` wants it, not started yet. The mark REQUEST is stamped first.

    `name` None takes a free one. All or nothing: on failure nothing is left.
    """
    from hybrid.image import merge

    marks = Marks()
    marks.stamp(Mark.REQUEST)
    if name is None:
        name = InstanceStore(home).free_name(stem(spec, image))
    process = merge(spec, image, command, name)
    return driver.create(Request(name=name, spec=spec, image=image, process=process, marks=marks))


def kind_of(spec: Spec, asked: Kind | None) -> Kind:
    """How to run a spec: as asked for, else as it says, else as a container."""
    return asked or spec.isolation or Kind.CONTAINER


def stem(spec: Spec, image: Image) -> str:
    """What to call an instance that nobody named: after its spec's file or its image."""
    if spec.source is not None:
        name = spec.source.stem
    else:
        name = (image.names[0] if image.names else "image").rpartition("/")[2].partition("@")[0].partition(":")[0]
    return re.sub(r"[^a-zA-Z0-9_.-]", "-", name).strip("-_.")[:40] or "instance"
