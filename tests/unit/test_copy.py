"""`hybrid cp`: Docker's rules for paths, and archives from an enemy."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hybrid import copy
from hybrid.errors import HybridError
from hybrid.untar import untar
from tests.fakes import FakeInside


@pytest.fixture
def inside(tmp_path: Path) -> FakeInside:
    """An instance whose root holds a file, a tree, a link, and a directory."""
    made = FakeInside(SimpleNamespace(record=SimpleNamespace(directory=tmp_path)))  # type: ignore[arg-type]
    (made.root / "tree/sub").mkdir(parents=True)
    (made.root / "tree/sub/deep").write_text("deep")
    (made.root / "tree/file").write_text("in the tree")
    (made.root / "file").write_text("file")
    (made.root / "file").chmod(0o640)
    (made.root / "link").symlink_to("file")
    (made.root / "dir").mkdir()
    return made


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = tmp_path / "here"
    (made / "dir").mkdir(parents=True)
    (made / "file").write_text("mine")
    (made / "tree").mkdir()
    (made / "tree/a").write_text("a")
    (made / "link").symlink_to("file")
    monkeypatch.chdir(made)
    return made


def files(root: Path) -> dict[str, str]:
    """Every file below, with what is in it; directories and links by what they are."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        found[name] = f"-> {path.readlink()}" if path.is_symlink() else "/" if path.is_dir() else path.read_text()
    return found


def get(inside: FakeInside, source: str, target: str, *, follow: bool = False) -> int:
    return copy.get(inside, source, target, owners=False, follow=follow)


def put(inside: FakeInside, source: str, target: str, *, follow: bool = False) -> int:
    return copy.put(inside, source, target, owners=False, follow=follow)


@pytest.mark.parametrize(
    ("source", "target", "made"),
    [
        ("/file", "new", {"new": "file"}),
        ("file", "dir", {"dir/file": "file"}),
        ("/file", "dir/", {"dir/file": "file"}),
        ("/file", "dir/other", {"dir/other": "file"}),
        ("/file", "file", {"file": "file"}),
        ("/file", "link", {"file": "file", "link": "-> file"}),
        ("/link", "new", {"new": "-> file"}),
        ("/tree", "new", {"new": "/", "new/file": "in the tree", "new/sub/deep": "deep"}),
        ("/tree/", "dir", {"dir/tree/file": "in the tree"}),
        ("/tree", "new/", {"new/file": "in the tree"}),
        ("/tree/.", "dir", {"dir/file": "in the tree", "dir/sub/deep": "deep"}),
        ("/tree/.", "new", {"new/file": "in the tree"}),
        ("/tree", ".", {"tree/file": "in the tree", "tree/a": "a"}),
    ],
)
def test_out_of_an_instance(inside: FakeInside, here: Path, source: str, target: str, made: dict[str, str]) -> None:
    get(inside, source, target)
    found = files(here)
    assert {name: found.get(name) for name in made} == made


def test_modes_and_sizes_and_links_that_are_followed(inside: FakeInside, here: Path) -> None:
    assert get(inside, "/link", "new", follow=True) == 4
    assert (here / "new").read_text() == "file"
    assert (here / "new").stat().st_mode & 0o7777 == 0o640
    assert put(inside, "link", "/dir/", follow=True) == 4
    assert (inside.root / "dir/link").read_text() == "mine"


@pytest.mark.parametrize(
    ("source", "target", "made"),
    [
        ("file", "/new", {"new": "mine"}),
        ("file", "dir", {"dir/file": "mine"}),
        ("file", "/dir/", {"dir/file": "mine"}),
        ("file", "/file", {"file": "mine"}),
        ("file", "/link", {"file": "mine", "link": "-> file"}),
        ("link", "/dir/", {"dir/link": "-> file"}),
        ("tree", "/dir", {"dir/tree/a": "a"}),
        ("tree", "/new", {"new/a": "a"}),
        ("tree/.", "/dir", {"dir/a": "a"}),
        (".", "/dir", {"dir/file": "mine", "dir/tree/a": "a"}),
        ("dir/..", "/dir", {"dir/here/file": "mine"}),
    ],
)
def test_into_an_instance(inside: FakeInside, here: Path, source: str, target: str, made: dict[str, str]) -> None:
    put(inside, source, target)
    found = files(inside.root)
    assert {name: found.get(name) for name in made} == made


@pytest.mark.parametrize("way", [get, put])
@pytest.mark.parametrize(
    ("source", "target", "says"),
    [
        ("missing", "new", "missing"),
        ("tree", "file", "cannot be copied"),
        ("file", "new/", "does not exist"),
        ("file", "file/", "no directory"),
        ("file", "no/new", "no directory"),
        ("file/", "new", "no directory"),
        ("file/.", "new", "no directory"),
    ],
)
def test_what_cannot_be_copied_changes_nothing(
    inside: FakeInside, here: Path, way: Callable[..., int], source: str, target: str, says: str
) -> None:
    before = files(inside.root), files(here)
    with pytest.raises(HybridError, match=says):
        way(inside, source, target)
    assert (files(inside.root), files(here)) == before


def test_a_side_that_fails_is_the_one_that_is_told(
    inside: FakeInside, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise HybridError("the disk is full")

    monkeypatch.setattr(FakeInside, "unpack", broken)
    with pytest.raises(HybridError, match="full"):
        put(inside, "tree", "/dir")
    monkeypatch.setattr(FakeInside, "pack", broken)
    with pytest.raises(HybridError, match="full"):
        get(inside, "/tree", "new")


# ---- an enemy's archives -----------------------------------------------------------------


def archive(*members: tuple[str, dict[str, Any], bytes]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, keys, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            for key, value in keys.items():
                setattr(member, key, value)
            tar.addfile(member, io.BytesIO(data))
    return made.getvalue()


def unpack(data: bytes, directory: Path, name: str | None = "x") -> int:
    reader, writer = os.pipe()
    try:
        assert os.write(writer, data) == len(data)
        os.close(writer)
        return untar(reader, directory, name)
    finally:
        os.close(reader)


LINK: dict[str, Any] = {"type": tarfile.SYMTYPE}
TREE: dict[str, Any] = {"type": tarfile.DIRTYPE, "mode": 0o755}


@pytest.mark.parametrize(
    "members",
    [
        [("x/../../outside", {}, b"bad")],
        [("..", {}, b"bad")],
        [("/outside", {}, b"bad")],
        [("x", TREE, b""), ("x/d", LINK | {"linkname": "../.."}, b""), ("x/d/outside", {}, b"bad")],
        [("x", LINK | {"linkname": "../outside"}, b""), ("x/y", {}, b"bad")],
        [("x/h", {"type": tarfile.LNKTYPE, "linkname": "x/../../secret"}, b"")],
        [("x/h", {"type": tarfile.LNKTYPE, "linkname": "/secret"}, b"")],
        [("x/there", {}, b"bad"), ("x/there/outside", {}, b"bad")],
        [("x/null", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3}, b"")],
    ],
)  # fmt: skip
def test_nothing_leads_out(tmp_path: Path, members: list[tuple[str, dict[str, Any], bytes]]) -> None:
    target = tmp_path / "a/target"
    target.mkdir(parents=True)
    (tmp_path / "secret").write_text("secret")
    with pytest.raises(HybridError):
        unpack(archive(*members), target)
    assert not list(tmp_path.rglob("outside"))
    assert (tmp_path / "secret").stat().st_nlink == 1


def test_a_link_of_an_earlier_copy_is_not_written_through(tmp_path: Path) -> None:
    target = tmp_path / "target"
    (target / "x").mkdir(parents=True)
    (target / "x/d").symlink_to(tmp_path)
    (target / "x/f").symlink_to(tmp_path / "outside")
    with pytest.raises(HybridError, match="written through"):
        unpack(archive(("x/d/outside", {}, b"bad")), target)
    unpack(archive(("x/f", {}, b"good")), target)
    assert not (tmp_path / "outside").exists()
    assert not (target / "x/f").is_symlink()


def test_a_link_as_the_whole_copy_is_only_a_link(tmp_path: Path) -> None:
    unpack(archive(("anything", LINK | {"linkname": "/etc/passwd"}, b"")), tmp_path, "link")
    assert (tmp_path / "link").is_symlink()


def test_no_program_gets_its_owners_rights(tmp_path: Path) -> None:
    unpack(archive(("x", {"mode": 0o6755}, b"\x7fELF")), tmp_path)
    assert (tmp_path / "x").stat().st_mode & 0o7777 == 0o755


def test_hard_links_inside_and_modes_of_directories_stay(tmp_path: Path) -> None:
    members: list[tuple[str, dict[str, Any], bytes]] = [
        ("x", {"type": tarfile.DIRTYPE, "mode": 0o500, "mtime": 1000}, b""),
        ("x/a", {"mode": 0o644}, b"data"),
        ("x/b", {"type": tarfile.LNKTYPE, "linkname": "x/a"}, b""),
    ]
    assert unpack(archive(*members), tmp_path) == 4
    assert (tmp_path / "x/a").samefile(tmp_path / "x/b")
    assert (tmp_path / "x").stat().st_mode & 0o7777 == 0o500
    assert (tmp_path / "x").stat().st_mtime == 1000


@pytest.mark.parametrize("cut", [1, 511, 600, 1200])
def test_a_cut_archive_is_no_success(tmp_path: Path, cut: int) -> None:
    with pytest.raises(HybridError, match="archive"):
        unpack(archive(("x", {}, b"0" * 1000))[:cut], tmp_path)
