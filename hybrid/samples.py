"""Raw samples on disk, one JSON object a line, each there for good before the next trial starts."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any

from hybrid.errors import HostError
from hybrid.measure import Sample

SAMPLES = "samples.jsonl"


@contextmanager
def sample_file(directory: Path) -> Iterator[Callable[[Sample], None]]:
    """The function that puts one sample on disk for good, in `directory`, which is made when it is not there.

    When nothing came into it, file and directory are removed again.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HostError(
            f"no result can be written here: {error.strerror}", where=str(directory), mend="give another --output"
        ) from None
    path = directory / SAMPLES
    try:
        with path.open("w", encoding="utf-8") as file:
            yield lambda sample: _keep(sample, file)
    finally:
        if path.stat().st_size == 0:
            path.unlink()
            with suppress(OSError):
                directory.rmdir()


def _keep(sample: Sample, file: IO[str]) -> None:
    try:
        file.write(json.dumps(sample_values(sample)) + "\n")
        file.flush()
        os.fsync(file.fileno())
    except OSError as error:
        raise HostError(
            f"a sample cannot be written: {error.strerror}", where=file.name, mend="free some space, or give --output"
        ) from None


def sample_values(sample: Sample) -> dict[str, Any]:
    """A sample as JSON values."""
    return asdict(replace(sample, marks=dict(sample.marks), phases=dict(sample.phases)))
