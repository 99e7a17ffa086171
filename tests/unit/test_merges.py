"""The golden table of merges, row by row, without running anything."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from hybrid.image import Image, ImageConfig, merge
from hybrid.spec import Spec
from tests.merges import TABLE, Row, make_tree

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="giving files away needs root")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("image")
    make_tree(path / "rootfs")
    return path


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_a_row(directory: Path, row: Row) -> None:
    image = Image(f"sha256:{'3' * 64}", directory, ImageConfig(**row.image))
    found = merge(Spec.model_validate({"image": "x", **row.spec}), image, row.command, "web-1")
    assert os.path.normpath(found.executable) == row.program and found.argv[1:] == row.argv[1:]
    assert found.env == {"HOSTNAME": "web-1", **row.environment}
    assert (found.uid, found.gid, found.groups, found.cwd) == (row.uid, row.gid, row.groups, row.cwd)
    assert signal.Signals(found.stop_signal).name == f"SIG{row.stop}"
    assert found.healthcheck == row.healthcheck


def test_every_row_has_a_name_of_its_own() -> None:
    assert len({row.name for row in TABLE}) == len(TABLE)
