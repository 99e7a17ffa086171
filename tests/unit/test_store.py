"""The instances' store: names, renames, and what killed processes left of either."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hybrid.driver import Kind
from hybrid.errors import InstanceError
from hybrid.home import Home
from hybrid.store import InstanceStore, Record, discard, new_id, now


@pytest.fixture
def store(tmp_path: Path) -> InstanceStore:
    return InstanceStore(Home(tmp_path, tmp_path / "run"))


def make(store: InstanceStore, name: str, id: str | None = None) -> Record:
    id = id or new_id()
    with store.making(name, id) as (directory, commit):
        return commit(Record(name, id, Kind.HOST, "sha256:0", "fake", ("true",), now(), directory))


def names(store: InstanceStore) -> list[str]:
    return sorted(link.name for link in (store.directory / ".names").iterdir())


def test_found_by_name_and_by_the_start_of_its_id(store: InstanceStore) -> None:
    web = make(store, "web", "12" * 8)
    make(store, "db", "13" * 8)
    assert [store.get(word).name for word in ("web", web.id, "12")] == ["web", "web", "web"]
    with pytest.raises(InstanceError, match="2 instances have an id that starts with 1"):
        store.get("1")
    for word in ("nobody", "", "a/b", "..", "."):
        with pytest.raises(InstanceError, match="no instance is named"):
            store.get(word)


@pytest.mark.parametrize("name", ["", "a/b", "../x", ".x", "-x", "x" * 64, "a b", "a\n"])
def test_what_is_no_name(store: InstanceStore, name: str) -> None:
    with pytest.raises(InstanceError, match="is no instance name"):
        make(store, name)
    assert list(store) == []


def test_a_name_is_taken_until_its_instance_is_gone(store: InstanceStore) -> None:
    web = make(store, "web")
    with pytest.raises(InstanceError, match="'web' is in use"):
        make(store, "web")
    assert [record.id for record in store] == [web.id]
    discard(web.directory)
    assert names(store) == []
    make(store, "web")


def test_a_name_is_taken_while_its_instance_is_made(store: InstanceStore) -> None:
    with pytest.raises(RuntimeError), store.making("web", new_id()):
        with pytest.raises(InstanceError, match="in use"):
            make(store, "web")
        raise RuntimeError
    assert names(store) == []
    assert not list(store.abandoned())
    make(store, "web")


def test_a_name_whose_maker_was_killed_is_free(store: InstanceStore) -> None:
    if (pid := os.fork()) == 0:
        with store.making("web", new_id()):
            os._exit(0)
    os.waitpid(pid, 0)
    assert names(store) == ["web"]
    assert len(list(store.abandoned())) == 1
    assert make(store, "web").name == "web"


def test_rename(store: InstanceStore) -> None:
    web = make(store, "web")
    make(store, "db")
    renamed = store.rename(web, "shop")
    assert (renamed.name, renamed.id, renamed.directory) == ("shop", web.id, web.directory)
    assert store.get("shop").id == web.id
    assert names(store) == ["db", "shop"]
    with pytest.raises(InstanceError, match="'db' is in use"):
        store.rename(renamed, "db")
    assert store.rename(renamed, "shop").name == "shop"
    make(store, "web")


@pytest.mark.parametrize("saved", [False, True])
def test_a_rename_cut_short_is_finished_or_undone(store: InstanceStore, saved: bool) -> None:
    web = make(store, "web")
    (store.directory / ".names/shop").symlink_to(web.id)
    if saved:
        Record(**{**{f: getattr(web, f) for f in Record.__slots__}, "name": "shop"}).save()
    assert store.get("shop").id == store.get("web").id == web.id
    assert len(list(store)) == 1
    store.sweep()
    assert names(store) == ["shop" if saved else "web"]


def test_a_name_that_leads_nowhere_is_swept(store: InstanceStore) -> None:
    web = make(store, "web")
    (store.directory / ".names/old").symlink_to("0" * 16)
    store.sweep()
    assert names(store) == ["web"]
    web.directory.rename(web.directory.with_name(f".{web.id}.dead"))
    assert [path.name for path in store.abandoned()] == [f".{web.id}.dead"]
    store.sweep()
    assert names(store) == []
