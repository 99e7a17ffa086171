"""The golden table of merges, as the command itself sees it: every row in a container, some in a VM."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from hybrid.driver import Kind
from hybrid.drivers import driver
from hybrid.home import Home
from hybrid.image import Image, ImageConfig
from hybrid.marks import Mark
from tests.merges import TABLE, Row, make_tree

if TYPE_CHECKING:
    from tests.contract.conftest import Bench

TIMEOUT = 120.0
ROWS = [*((row, "container") for row in TABLE), *((row, "vm") for row in TABLE if row.vm)]


@pytest.fixture(scope="module")
def shown(shared_home: Home) -> Image:
    directory = shared_home.images / ("3" * 64)
    make_tree(directory / "rootfs")
    return Image(f"sha256:{'3' * 64}", directory, ImageConfig(), names=("test/shown:latest",))


@pytest.fixture
def place(container: Bench, shown: Image, request: pytest.FixtureRequest) -> Iterator[Bench]:
    """A bench of the row's kind."""
    kind = request.param
    if kind != "container":
        container.driver, container.kind = driver(Kind(kind), container.home), kind
        if container.driver.problems():
            pytest.skip(f"this host cannot run a {kind}: {container.driver.problems()[0].what}")
    container.driver.prepare(shown)
    yield container


@pytest.mark.parametrize(("row", "place"), ROWS, indirect=["place"], ids=lambda each: getattr(each, "name", str(each)))
def test_a_row(place: Bench, shown: Image, row: Row) -> None:
    image = replace(shown, config=ImageConfig(**row.image))
    if row.vm or row.healthcheck or "signal" in row.name:
        out, waited = stopped(place, image, row), {"WAIT": "1"}
    else:
        result = place.run(*row.command, image=image, **row.spec)
        out, waited = result.out.decode(), {}
        assert result.code == 0, result.err
    text, _, environment = out.partition(f"cwd {row.cwd}\n")
    lines = [line.split(maxsplit=1) for line in text.splitlines()]
    program, *words = [(*line, "")[1] for line in lines if line[0] == "argv"]
    assert os.path.normpath(program) == row.program and words == list(row.argv[1:])
    ids = {line[0]: [int(word) for word in (*line, "")[1].split()] for line in lines if line[0] != "argv"}
    assert (ids["Uid:"], ids["Gid:"]) == ([row.uid] * 4, [row.gid] * 4)
    assert [number for number in ids["Groups:"] if number != row.gid] == list(row.groups)
    found = dict(item.split("=", 1) for item in environment.split("\0") if "=" in item)
    assert found.pop("HOSTNAME") == place.made[-1].record.name
    assert found == row.environment | waited


def stopped(place: Bench, image: Image, row: Row) -> str:
    """What the row's command says that waits for its stop signal, and is sent it once it is ready."""
    environment = {**row.spec.get("environment", {}), "WAIT": "1"}
    own = {} if row.healthcheck else {"healthcheck": {"test": "test -e /tmp/trapped"}}
    spec = {**row.spec, "environment": environment, **own}
    with place.attached(*row.command, image=image, **spec) as (instance, result):
        instance.wait_ready(TIMEOUT)
        assert Mark.READY in instance.marks
        assert instance.stop(TIMEOUT) == 5
        out, _, said = result(instance).out.decode().rpartition("\nsignal ")
        assert said == f"{row.stop}\n"
        return out
