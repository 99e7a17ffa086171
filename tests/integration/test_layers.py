"""Layers of every sort, made entry by entry: right ones become the tree they mean, hostile ones become nothing."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from hybrid.errors import ImageError
from hybrid.home import Home
from hybrid.image import Image
from hybrid.images import ImageStore, upkeep
from hybrid.spec import load
from tests import oci
from tests.oci import Entry, entry, folder, tar

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="unpacking with owners needs root")

DIR, LINK, HARD, CHAR, FIFO = tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(Home(tmp_path / "home", tmp_path / "run"))


@pytest.fixture
def unpacked(store: ImageStore, tmp_path: Path) -> Callable[..., Image]:
    """The image of these layers, each a sequence of entries or a whole tar."""

    def make(*layers: Sequence[Entry] | bytes, compress: bool = False) -> Image:
        tars = [layer if isinstance(layer, bytes) else tar(*layer) for layer in layers]
        oci.layout(tmp_path / "layout", tars, compress=compress)
        (tmp_path / "app.yaml").write_text("image: {archive: ./layout}")
        return store.ensure(load(tmp_path / "app.yaml"))

    return make


def record(image: Image) -> dict[str, str]:
    """The image's record by name, without times, and digests cut to six digits."""
    found = {}
    for line in (image.directory / "mtree").read_text().splitlines()[1:]:
        name, *words = line.split()
        kept = [word for word in words if not word.startswith("time=")]
        found[name] = " ".join(word[:19] if word.startswith("sha256") else word for word in kept)
    return found


def file(data: bytes, mode: str = "0644", owner: tuple[int, int] = (0, 0), nlink: int = 1, more: str = "") -> str:
    content = hashlib.sha256(data).hexdigest()[:6]
    line = f"type=file mode={mode} uid={owner[0]} gid={owner[1]} nlink={nlink} size={len(data)} sha256digest={content}"
    return f"{line} {more}".strip()


def other(kind: str, mode: str = "0755", owner: tuple[int, int] = (0, 0), more: str = "") -> str:
    return f"type={kind} mode={mode} uid={owner[0]} gid={owner[1]} {more}".strip()


ROOT = {".": other("dir")}
CAPABILITY = b"\1\0\0\2\0\x20\0\0" + bytes(12)

RIGHT: dict[str, tuple[list[list[Entry]], dict[str, str]]] = {
    "whiteouts": (
        [
            [entry("a", data=b"1"), folder("d"), entry("d/x", data=b"2"), entry("d/y", data=b"3")],
            [entry(".wh.a"), folder("d"), entry("d/.wh.x"), entry(".wh.never-was")],
        ],
        {"./d": other("dir"), "./d/y": file(b"3")},
    ),
    "a whiteout of a directory, and one of its name again above it": (
        [[folder("d"), entry("d/x")], [entry(".wh.d")], [folder("d", 0o700), entry("d/z", data=b"z")]],
        {"./d": other("dir", "0700"), "./d/z": file(b"z")},
    ),
    "opaque": (
        [
            [folder("d"), entry("d/x"), folder("d/e"), entry("d/e/y")],
            [folder("d", 0o750), entry("d/new", data=b"n"), entry("d/.wh..wh..opq")],
        ],
        {"./d": other("dir", "0750"), "./d/new": file(b"n")},
    ),
    "hard links across layers": (
        [[entry("a", data=b"one", mode=0o4755)], [entry("b", HARD, "a"), folder("d"), entry("d/c", HARD, "./b")]],
        {
            "./a": file(b"one", "4755", nlink=3),
            "./b": file(b"one", "4755", nlink=3),
            "./d": other("dir"),
            "./d/c": file(b"one", "4755", nlink=3),
        },
    ),
    "through a link in the path": (
        [
            [folder("usr"), folder("usr/lib"), entry("lib", LINK, "usr/lib"), folder("run"), folder("var")],
            [entry("var/run", LINK, "/run"), entry("lib/so", data=b"so"), entry("var/run/pid", data=b"1")],
        ],
        {
            "./lib": other("link", "0777", more="link=usr/lib"),
            "./run": other("dir"),
            "./run/pid": file(b"1"),
            "./usr": other("dir"),
            "./usr/lib": other("dir"),
            "./usr/lib/so": file(b"so"),
            "./var": other("dir"),
            "./var/run": other("link", "0777", more="link=/run"),
        },
    ),
    "modes and owners": (
        [
            [
                entry("setuid", mode=0o4711, owner=(1000, 50)),
                entry("setgid", mode=0o2755, owner=(0, 65534)),
                folder("tmp", 0o1777),
                entry("last", owner=(65534, 65534), mode=0),
            ]
        ],
        {
            "./last": file(b"", "0000", (65534, 65534)),
            "./setgid": file(b"", "2755", (0, 65534)),
            "./setuid": file(b"", "4711", (1000, 50)),
            "./tmp": other("dir", "1777"),
        },
    ),
    "attributes and capabilities": (
        [
            [
                entry("ping", mode=0o755, xattrs={"security.capability": CAPABILITY.decode("latin-1")}),
                entry("note", xattrs={"user.note": "kept"}),
            ]
        ],
        {
            "./note": file(b"", more="xattr.user.note=a2VwdA=="),
            "./ping": file(b"", "0755", more="xattr.security.capability=AQAAAgAgAAAAAAAAAAAAAAAAAAA="),
        },
    ),
    "devices and pipes": (
        [[folder("dev"), entry("dev/null", CHAR, mode=0o666, device=(1, 3)), entry("pipe", FIFO, mode=0o600)]],
        {
            "./dev": other("dir"),
            "./dev/null": other("char", "0666", more="device=linux,1,3"),
            "./pipe": other("fifo", "0600"),
        },
    ),
    "names of any bytes": (
        [[entry(b"\xff\xfe", data=b"1"), entry("a b\n\x1b[31m", data=b"2"), entry("n" * 255), entry("ü", LINK, "\n")]],
        {
            "./\\377\\376": file(b"1"),
            "./a\\040b\\012\\033[31m": file(b"2"),
            f"./{'n' * 255}": file(b""),
            "./\\303\\274": other("link", "0777", more="link=\\012"),
        },
    ),
    "a file becomes a directory and is one again": (
        [
            [entry("x", data=b"1"), folder("y"), entry("y/in")],
            [folder("x"), entry("x/in", data=b"2"), entry("y", data=b"3")],
            [entry("x", data=b"4", mode=0o600), entry("y", LINK, "x")],
        ],
        {"./x": file(b"4", "0600"), "./y": other("link", "0777", more="link=x")},
    ),
    "the last of two entries with one name": (
        [[entry("x", data=b"1"), entry("x", data=b"22"), folder("d"), entry("d/f"), entry("x", data=b"3", mode=0o600)]],
        {"./d": other("dir"), "./d/f": file(b""), "./x": file(b"3", "0600")},
    ),
    "an absolute name is one in the image": (
        [[folder("/etc"), entry("/etc/hybrid-test", data=b"in"), entry("/hard", HARD, "/etc/hybrid-test")]],
        {"./etc": other("dir"), "./etc/hybrid-test": file(b"in", nlink=2), "./hard": file(b"in", nlink=2)},
    ),
}


@pytest.mark.parametrize("case", RIGHT)
@pytest.mark.parametrize("compress", [False, True], ids=["plain", "gzip"])
def test_layers_become_the_tree_they_mean(
    unpacked: Callable[..., Image], store: ImageStore, case: str, compress: bool
) -> None:
    layers, expected = RIGHT[case]
    if case.startswith("attributes"):  # tarfile writes pax text as UTF-8, an attribute is any bytes
        layers = [layers[0][1:]]
        expected = {"./note": expected["./note"]}
    image = unpacked(*layers, compress=compress)
    assert record(image) == ROOT | expected
    assert list(upkeep.verify(store, image.digest)) == []
    times = {line.split("time=")[1].split()[0] for line in (image.directory / "mtree").read_text().splitlines()[1:]}
    assert f"{oci.TIME}.000000000" in times


def test_file_capabilities(unpacked: Callable[..., Image], tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "ping").write_text("x")
    os.setxattr(tree / "ping", "security.capability", CAPABILITY)
    made = tmp_path / "layer.tar"
    subprocess.run(["tar", "--xattrs", "--xattrs-include=*", "--format=pax", "-C", tree, "-cf", made, "."], check=True)
    image = unpacked(made.read_bytes())
    assert os.getxattr(image.tree / "ping", "security.capability") == CAPABILITY
    assert "xattr.security.capability=AQAAAgAgAAAAAAAAAAAAAAAAAAA=" in record(image)["./ping"]


def test_a_sparse_file_of_two_gibibytes_stays_sparse(unpacked: Callable[..., Image], tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    size = 2 * 1024**3 + 1
    with (tree / "big").open("wb") as big:
        big.write(b"start")
        big.truncate(size)
        big.seek(size - 3)
        big.write(b"end")
    made = tmp_path / "layer.tar"
    subprocess.run(["tar", "--sparse", "--format=pax", "-C", tree, "-cf", made, "."], check=True)
    image = unpacked(made.read_bytes())
    found = (image.tree / "big").stat()
    assert (found.st_size, found.st_mtime_ns // 10**9) == (size, int((tree / "big").stat().st_mtime))
    assert found.st_blocks * 512 < 1024**2
    with (image.tree / "big").open("rb") as big:
        assert big.read(5) == b"start"
        big.seek(size - 3)
        assert big.read() == b"end"


# Hostile ones


@pytest.fixture
def sentinel(tmp_path: Path) -> Iterator[None]:
    """Files beside the store and in the system that nothing may touch."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_text("mine")

    def seen() -> dict[str, tuple[object, ...]]:
        paths = [path for path in tmp_path.rglob("*") if "home" not in path.parts and "layout" not in path.parts]
        paths += [Path("/etc/passwd"), Path("/etc/shadow"), Path("/etc"), Path("/")]
        return {
            str(path): (found.st_ino, found.st_mode, found.st_nlink, found.st_size)
            for path in paths
            if path.name != "app.yaml" and (found := path.lstat()) is not None and path != tmp_path
        }

    before = seen()
    yield
    assert seen() == before


def nothing_half_made(store: ImageStore) -> bool:
    return not list(store.directory.glob(".work-*")) and not list(store) and not list(store.blobs.unused(()))


def header(name: bytes, size: int, kind: bytes = b"0", **fields: bytes) -> bytes:
    """A raw header with a right checksum and any size."""
    block = bytearray(512)
    block[: len(name)] = name
    block[100:107], block[108:115], block[116:123] = b"0000644", b"0000000", b"0000000"
    field = b"\x80" + size.to_bytes(11, "big") if size >= 8**11 else b"%011o\0" % max(size, 0)
    block[124:136] = field if size >= 0 else b"\xff" * 12
    block[136:147], block[156:157], block[257:265] = b"00000000000", kind, fields.get("magic", b"ustar\x0000")
    block[483:495] = fields.get("real", bytes(12))
    block[148:156] = b"        "
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


END = bytes(1024)
OUT = "leads out of the image"
HOSTILE: dict[str, tuple[bytes, str]] = {
    "up": (tar(entry("../escaped", data=b"x")), OUT),
    "far up": (tar(entry("../" * 20 + "tmp/hybrid-escaped", data=b"x")), OUT),
    "up in the middle": (tar(folder("a"), entry("a/../../escaped", data=b"x")), OUT),
    "absolute and up": (tar(entry("/../../../../../../../tmp/hybrid-escaped", data=b"x")), OUT),
    "hard link up": (tar(entry("steal", HARD, "../../../../../../../../../etc/shadow")), OUT),
    "hard link outside": (tar(entry("steal", HARD, "/etc/shadow")), "cannot be unpacked"),
    "whiteout of nothing": (tar(entry(".wh.")), "would remove"),
    "whiteout of here": (tar(folder("a"), entry("a/.wh..")), "would remove"),
    "whiteout of above": (tar(folder("a"), entry("a/.wh...")), "would remove"),
    "whiteout up": (tar(entry("../.wh.outside")), OUT),
    "too deep": (tar(entry("d/" * 300 + "f")), "too deep a name"),
    "too long": (tar(entry("n" * 256)), "too long"),
    "far too long": (tar(entry("/".join(["n" * 200] * 20))), "too long"),
    "cut in a file": (tar(entry("x", data=b"y" * 4000))[:2000], "middle of a file"),
    "cut in a header": (tar(entry("x"))[:700], "middle of an entry"),
    "no tar": (b"hello world" * 100, "checksum"),
    "wrong checksum": (tar(entry("x")).replace(b"x\0\0\0", b"y\0\0\0", 1), "checksum"),
    "huge size": (header(b"x", 2**62) + END, "expands to more than"),
    "negative size": (header(b"x", -1) + END, "out of range"),
    "huge sparse file": (
        header(b"x", 0, b"S", magic=b"ustar  \0", real=b"\x80" + (2**60).to_bytes(11, "big")) + END,
        "expands to more than",
    ),
    "old sparse file": (header(b"x", 0, b"S", magic=b"ustar  \0", real=b"00000000001\0") + END, "--format=pax"),
    "huge sparse file by its records": (
        header(b"x", 43, b"x")
        + b"43 GNU.sparse.realsize=9000000000000000000\n".ljust(512, b"\0")
        + header(b"x", 0)
        + END,
        "expands to more than",
    ),
    "huge header": (header(b"x", 2**30, b"x") + END, "larger than 1 MiB"),
    "unknown kind": (header(b"x", 0, b"Z") + END, "unknown kind"),
    "hole between": (header(b"x", 0) + bytes(512) + header(b"y", 0) + END, "empty block"),
    "broken records": (header(b"x", 8, b"x") + b"99 a=b\n\n".ljust(512, b"\0") + END, "extended header"),
    "a record without a length after a right one": (
        header(b"x", 12, b"x") + b"6 a=b\nxxxxxx".ljust(512, b"\0") + header(b"y", 0) + END,
        "extended header",
    ),
    "endless headers": (b"".join(header(b"x", 0, b"g") for _ in range(2100)), "entries"),
    "control characters": (tar(entry("../\x1b[2J\n")), r"\\x1b"),
}


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.parametrize("compress", [False, True], ids=["plain", "gzip"])
def test_a_hostile_layer_is_refused(
    unpacked: Callable[..., Image],
    store: ImageStore,
    sentinel: None,
    monkeypatch: pytest.MonkeyPatch,
    case: str,
    compress: bool,
) -> None:
    monkeypatch.setenv("HYBRID_IMAGE_ENTRIES", "2000")
    data, says = HOSTILE[case]
    with pytest.raises(ImageError, match=says) as caught:
        unpacked(data, compress=compress)
    assert caught.value.exit_code == 125 and caught.value.mend
    assert "\x1b" not in caught.value.what and "\n" not in caught.value.what
    assert nothing_half_made(store)


@pytest.mark.parametrize("target", ["/", "../../../..", "/etc", "../../outside"])
def test_what_is_written_through_a_link_stays_inside(
    unpacked: Callable[..., Image], sentinel: None, target: str
) -> None:
    layers = [[entry("out", LINK, target)], [entry("out/hybrid-escaped", data=b"x"), entry("out/.wh.file")]]
    image = unpacked(*layers)
    written = [path for path in image.tree.rglob("hybrid-escaped") if path.is_file() and not path.is_symlink()]
    assert written and not Path("/hybrid-escaped").exists() and not Path("/etc/hybrid-escaped").exists()


def test_hard_links_to_links_stay_inside(unpacked: Callable[..., Image], sentinel: None) -> None:
    """A hard link to a symbolic one that points outside, then written to."""
    layers = [[entry("a", LINK, "/etc/passwd"), entry("b", HARD, "a")], [entry("b", data=b"mine")]]
    image = unpacked(*layers)
    assert (image.tree / "b").read_bytes() == b"mine" and not (image.tree / "b").is_symlink()


def test_a_bomb_is_refused_before_it_fills_the_disk(
    unpacked: Callable[..., Image], store: ImageStore, sentinel: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    big = tar(entry("zeros", data=bytes(64 * 1024**2)))
    monkeypatch.setenv("HYBRID_IMAGE_BYTES", "32m")
    with pytest.raises(ImageError, match="expands to more than 33554432 bytes") as caught:
        unpacked(big, compress=True)
    assert "HYBRID_IMAGE_BYTES" in caught.value.mend and nothing_half_made(store)
    shutil.rmtree(store.home.root.parent / "layout")
    monkeypatch.setenv("HYBRID_IMAGE_BYTES", "1g")
    monkeypatch.setattr("hybrid.images.compression.RATIO_FROM", 16 * 1024**2)
    with pytest.raises(ImageError, match="more than 200 times its size") as caught:
        unpacked(big, compress=True)
    assert "HYBRID_IMAGE_RATIO" in caught.value.mend and nothing_half_made(store)
    shutil.rmtree(store.home.root.parent / "layout")
    monkeypatch.setenv("HYBRID_IMAGE_RATIO", "2000")
    assert (unpacked(big, compress=True).tree / "zeros").stat().st_size == 64 * 1024**2


@pytest.mark.parametrize(
    ("name", "value"), [("HYBRID_IMAGE_BYTES", "lots"), ("HYBRID_IMAGE_ENTRIES", "-1"), ("HYBRID_IMAGE_RATIO", "x")]
)
def test_limits_that_are_none(
    unpacked: Callable[..., Image], monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ImageError, match=f"{name} is no limit"):
        unpacked([entry("x")])


@pytest.mark.parametrize("change", [{"size": 1}, {"size": 10**9}, {"digest": f"sha256:{'0' * 64}"}])
def test_lying_sizes_and_digests(store: ImageStore, tmp_path: Path, sentinel: None, change: dict[str, object]) -> None:
    oci.layout(tmp_path / "layout", [tar(entry("x"))], change=change)
    (tmp_path / "app.yaml").write_text("image: {archive: ./layout}")
    with pytest.raises(ImageError) as caught:
        store.ensure(load(tmp_path / "app.yaml"))
    assert caught.value.mend and nothing_half_made(store)


def test_content_that_is_not_the_config_s(store: ImageStore, tmp_path: Path) -> None:
    oci.layout(tmp_path / "layout", [tar(entry("x"))])
    blobs = tmp_path / "layout/blobs/sha256"
    layer = oci.digest(tar(entry("x")))
    packed = gzip.compress(tar(entry("y")))
    for path in blobs.iterdir():
        text = path.read_bytes()
        if b'"layers": [' in text and b"schemaVersion" in text:
            changed = text.replace(b'"size": 10240}]', b'"size": %d}]' % len(packed))
            changed = changed.replace(layer.encode(), oci.digest(packed).encode()).replace(b"v1.tar", b"v1.tar+gzip")
            index = (tmp_path / "layout/index.json").read_text().replace(path.name, oci.digest(changed)[7:])
            index = index.replace(f'"size": {len(text)}', f'"size": {len(changed)}')
            (tmp_path / "layout/index.json").write_text(index)
            (blobs / oci.digest(changed)[7:]).write_bytes(changed)
            (blobs / oci.digest(packed)[7:]).write_bytes(packed)
    (tmp_path / "app.yaml").write_text("image: {archive: ./layout}")
    with pytest.raises(ImageError, match="the config names another digest"):
        store.ensure(load(tmp_path / "app.yaml"))
    assert nothing_half_made(store)


def test_many_entries_are_counted(unpacked: Callable[..., Image], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRID_IMAGE_ENTRIES", "10000")
    block = header(b"x", 0)
    with pytest.raises(ImageError, match="more than 10000 entries") as caught:
        unpacked(block * 200_000 + END, compress=True)
    assert "HYBRID_IMAGE_ENTRIES" in caught.value.mend


def test_a_chain_of_deep_links_is_removed_whole(
    unpacked: Callable[..., Image], store: ImageStore, sentinel: None
) -> None:
    """Links make directories deeper than any one name says; what cannot be recorded is not kept."""
    deep = "d/" * 200
    layers = [[folder(deep), entry("l0", LINK, deep)]]
    for number in range(1, 14):
        layers.append([folder(f"l{number - 1}/{deep}"), entry(f"l{number}", LINK, f"l{number - 1}/{deep}")])
    try:
        image = unpacked(*layers)
    except ImageError as error:
        assert "deep" in error.what or "cannot be unpacked" in error.what
    else:
        assert list(upkeep.verify(store, image.digest)) == []
        store.remove(image.digest)
    assert nothing_half_made(store)


def test_modes_of_the_store_keep_strangers_out(unpacked: Callable[..., Image], store: ImageStore) -> None:
    unpacked([entry("setuid", mode=0o4755)])
    assert stat.S_IMODE(store.blobs.directory.parent.stat().st_mode) == 0o700
