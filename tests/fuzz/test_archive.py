"""A short run of the fuzzer; a long one is `python -m tests.fuzz.archive 600`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.fuzz.archive import Fuzzer


@pytest.mark.skipif(os.geteuid() != 0, reason="unpacking with owners needs root")
def test_ten_seconds_of_broken_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRID_IMAGE_BYTES", "8m")
    monkeypatch.setenv("HYBRID_IMAGE_ENTRIES", "2000")
    counts = Fuzzer(tmp_path, int(os.environ.get("HYBRID_FUZZ_SEED", "1"))).run(10)
    assert all(counts[what] for what in ("layers refused", "layers let through", "unpacked", "texts refused")), counts
