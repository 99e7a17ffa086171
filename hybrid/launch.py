"""From a spec to an instance: what `run` and `compare` do alike."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from hybrid import __version__, evidence
from hybrid.driver import Driver, Instance, Kind, Request
from hybrid.errors import HostError
from hybrid.marks import Mark, Marks
from hybrid.store import InstanceStore

if TYPE_CHECKING:
    from hybrid.home import Home
    from hybrid.image import Image
    from hybrid.spec import Spec
    from hybrid.specoptions import Option


def load(target: str, options: Sequence[Option] = ()) -> Spec:
    """The spec that `target` means, with options over it.

    That is a file when there is one or when it is named like one, else an image.
    """
    path = Path(target)
    named = path.suffix not in (".yaml", ".yml") and not path.is_file()
    if named:
        from hybrid import imagespec

        if imagespec.is_simple(options):
            return cast("Spec", imagespec.for_image(target, options))
    from hybrid import spec

    return spec.for_image(target, options) if named else spec.load(path, options=options)


def check(driver: Driver, home: Home, connect: str | None = None) -> None:
    """HostError when this host cannot run the driver's kind: the first reason, with its mend.

    Nothing is asked again for a kind that could be run since the host booted, until a package is installed or removed.
    """
    known = home.run / "able" / _able(driver, home, connect)
    if known.exists():
        return
    if problems := driver.problems():
        first = problems[0]
        rest = f" (and {len(problems) - 1} more: `hybrid doctor`)" if len(problems) > 1 else ""
        raise HostError(f"this host cannot run a {driver.kind}: {first.what}{rest}", mend=first.mend)
    known.parent.mkdir(parents=True, exist_ok=True)
    for old in known.parent.glob(f"{driver.kind}-*"):
        old.unlink(missing_ok=True)
    known.touch()


def _able(driver: Driver, home: Home, connect: str | None) -> str:
    """A name that changes when what a driver asks of the host may have."""
    status = Path("/var/lib/dpkg/status")
    packages = status.stat().st_mtime_ns if status.exists() else 0
    asked = (str(home.root), connect, os.getuid(), os.environ.get("PATH"), packages, evidence.boot_id(), __version__)
    return f"{driver.kind}-{zlib.crc32(repr(asked).encode()):08x}"


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
