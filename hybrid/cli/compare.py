"""`hybrid compare`: the same image as every kind, measured and put side by side."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hybrid.driver import Kind
from hybrid.errors import NotReadyError

if TYPE_CHECKING:
    from hybrid.compare import Progress, Watch
    from hybrid.home import Home
    from hybrid.image import Image
    from hybrid.result import Result
    from hybrid.spec import Spec


class Format(StrEnum):
    """How the result is printed."""

    TABLE = "table"
    JSON = "json"
    MARKDOWN = "markdown"


def compare(
    target: Annotated[str, typer.Argument(metavar="SPEC|IMAGE", help="A spec's file, or an image's name.")],
    kinds: Annotated[
        str | None,
        typer.Option("--as", metavar="KIND,...", help="Kinds to compare; else all that this machine can run."),
    ] = None,
    runs: Annotated[int, typer.Option("--runs", "-n", min=1, help="Measured runs of each kind.")] = 10,
    warmup: Annotated[int, typer.Option("--warmup", min=0, help="Runs of each kind before those.")] = 1,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="DIR", file_okay=False, help="For the result; else a new one in ./results."
        ),
    ] = None,
    form: Annotated[Format, typer.Option("--format", help="How to print the result.")] = Format.TABLE,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="For the order of the runs; else drawn.")] = None,
    timeout: Annotated[
        float, typer.Option("--timeout", min=0.1, metavar="SECONDS", help="For each step of a run.")
    ] = 120.0,
) -> int:
    """Run the same image as a container, as a virtual machine and on the bare host, and compare.

    Every run is a fresh instance, taken through all its phases; the kinds take turns in random order.
    The result directory holds result.json, the raw samples, and the report as Markdown and HTML.
    Ctrl-C keeps what was measured and leaves no instance behind.

    Examples:

      hybrid compare web.yaml

      hybrid compare web.yaml --as container,vm --runs 30 --format markdown
    """
    from hybrid import launch, report
    from hybrid.compare import Settings, choose, result_directory
    from hybrid.compare import compare as run
    from hybrid.drivers import driver
    from hybrid.home import default_home

    home = default_home()
    spec = launch.load(target)
    asked = _kinds(kinds)
    drivers, skipped = choose({kind: driver(kind, home) for kind in asked or Kind}, asked)
    directory = result_directory(output, spec)
    image, image_seconds = _image(spec, home)
    with _progress() as watch:
        settings = Settings(runs, warmup, seed, timeout)
        result, signal = run(
            spec, image, image_seconds, drivers, home, directory, settings, skipped=skipped, watch=watch
        )
    report.write(result, directory)
    report.show(result, form.value, sys.stdout)
    print(f"kept in {directory}", file=sys.stderr)
    return 128 + signal if signal is not None else _judge(result)


def _kinds(text: str | None) -> list[Kind] | None:
    """The kinds in a list such as `container,vm`."""
    if text is None:
        return None
    try:
        return [Kind(name.strip()) for name in text.split(",")]
    except ValueError:
        known = ",".join(Kind)
        raise typer.BadParameter(f"{text!r} is not a list of kinds; all of them: {known}", param_hint="--as") from None


def _image(spec: Spec, home: Home) -> tuple[Image, float]:
    """The image, and the seconds that it took to have it."""
    from hybrid.cli.progress import progress
    from hybrid.images import ImageStore

    start = time.monotonic()
    with progress() as show:
        image = ImageStore(home).ensure(spec, show)
    return image, time.monotonic() - start


@contextmanager
def _progress() -> Iterator[Watch]:
    """One line on standard error, when that is a terminal, rewritten between runs and never during one."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    start = time.monotonic()
    try:
        yield lambda progress: _line(_words(progress, time.monotonic() - start))
    finally:
        _line("")


def _words(progress: Progress, elapsed: float) -> str:
    if progress.total == 0:
        return f"preparing the image for {progress.kind}"
    text = f"run {progress.done + 1} of {progress.total}: {progress.kind}{' (warm-up)' if progress.warmup else ''}"
    if progress.done < 3:
        return text
    return f"{text}, about {elapsed / progress.done * (progress.total - progress.done):.0f} s left"


def _line(text: str) -> None:
    sys.stderr.write(f"\r\x1b[2K{text}")
    sys.stderr.flush()


def _judge(result: Result) -> int:
    """0 when every kind was measured; else the first failure, as an error."""
    for kind, each in result.kinds.items():
        if each.measured == 0 and each.failures:
            first = each.failures[0]
            raise NotReadyError(
                f"{kind} was never measured: {first.what}", phase=first.phase, tail=first.tail, mend=first.mend
            )
    return 0
