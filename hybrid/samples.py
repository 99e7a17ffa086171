"""Raw samples on disk, one JSON object a line, each there for good before the next trial starts."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any

from hybrid.errors import HostError
from hybrid.measure import Sample

SAMPLES = "samples.jsonl"


@contextmanager
def sample_file(path: Path) -> Iterator[Callable[[Sample], None]]:
    """The function that puts one sample on disk for good."""
    with path.open("w") as file:
        yield lambda sample: _keep(sample, file)


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
