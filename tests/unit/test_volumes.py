"""Volumes in the home, what a spec's mounts become, and limits on processes and devices."""

from __future__ import annotations

import resource
import threading
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from container import bundle
from container import volumes as local
from hybrid import limits
from hybrid.defaults import OPEN_FILES
from hybrid.driver import Kind
from hybrid.errors import HostError, InstanceError, SpecError
from hybrid.home import Home
from hybrid.image import Image, ImageConfig
from hybrid.spec import Spec, load
from hybrid.store import InstanceStore, Record, new_id, now
from hybrid.volumes import Mount, VolumeStore, from_record, prepared, to_record
from vm import inside, shares


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home", tmp_path / "run")


@pytest.fixture
def image(tmp_path: Path) -> Image:
    found = Image("sha256:" + "1" * 64, tmp_path / "image", ImageConfig(volumes=("/own",)))
    (found.tree / "data/deep").mkdir(parents=True)
    (found.tree / "data/deep/file").write_text("of the image")
    (found.tree / "data").chmod(0o2750)
    (found.tree / "link").symlink_to("../../../data")
    return found


def spec(**keys: Any) -> Spec:
    return Spec(image="x", **keys)


def use(home: Home, *names: str, name: str = "user") -> None:
    """An instance whose record says that it uses these volumes."""
    id = new_id()
    with InstanceStore(home).making(name, id) as (directory, commit):
        record = Record(name, id, Kind.CONTAINER, "sha256:0", "x", ("true",), now(), directory)
        commit(replace(record, engine={"volumes": list(names)}))


def test_a_volume_s_life(home: Home) -> None:
    store = VolumeStore(home)
    made = store.create("data", {"a": "b"})
    assert store.create("data").created == made.created
    assert [volume.name for volume in store] == ["data"]
    assert store.get("data").labels == {"a": "b"}
    assert store.directory.stat().st_mode & 0o777 == 0o700  # setuid programs of strangers may lie below
    use(home, "data")
    with pytest.raises(InstanceError, match="in use by user"):
        store.remove("data")
    with pytest.raises(InstanceError, match="in use"):
        store.remove("data", force=True)
    with pytest.raises(InstanceError, match="no volume"):
        store.remove("other")
    store.remove("other", force=True)


@pytest.mark.parametrize("name", ["", "../x", ".hidden", "a/b", "-x", "x" * 200])
def test_a_name_that_is_none(home: Home, name: str) -> None:
    with pytest.raises(InstanceError):
        VolumeStore(home).create(name)


def test_prune_spares_names_and_users_and_removes_what_a_killed_process_left(home: Home) -> None:
    store = VolumeStore(home)
    unnamed = "0" * 64
    for name in ("used", "named", unnamed):
        store.create(name)
    use(home, "used")
    (store.directory / ".half.1234abcd").mkdir()
    assert [name for name, _ in store.prune(everything=False)] == [unnamed]
    assert [name for name, _ in store.prune(everything=True)] == ["named"]
    assert sorted(path.name for path in store.directory.iterdir()) == [".lock", "used"]


def test_a_held_volume_is_not_removed(home: Home) -> None:
    store = VolumeStore(home)
    with ExitStack() as stack:
        store.hold("data", stack)
        refused: list[InstanceError] = []

        def remove() -> None:
            try:
                store.remove("data")
            except InstanceError as error:
                refused.append(error)

        remover = threading.Thread(target=remove)
        remover.start()
        remover.join(0.3)
        assert remover.is_alive()
        use(home, "data")
    remover.join()
    assert len(refused) == 1


def test_an_empty_volume_is_filled_once(home: Home, image: Image) -> None:
    store = VolumeStore(home)
    volume = store.create("data")
    store.fill(volume, image.tree, "/link")  # which leads into the image, and nowhere else
    assert (volume.data / "deep/file").read_text() == "of the image"
    assert volume.data.stat().st_mode & 0o7777 == 0o2750
    (volume.data / "deep/file").write_text("changed")
    store.fill(volume, image.tree, "/data")
    assert (volume.data / "deep/file").read_text() == "changed"
    other = store.create("other")
    store.fill(other, image.tree, "/data/deep/file")
    store.fill(other, image.tree, "/none")
    assert list(other.data.iterdir()) == []


def resolve(home: Home, image: Image, directory: Path, *, copy: bool = True, **keys: Any) -> tuple[Mount, ...]:
    with prepared(spec(**keys), image, home, directory, copy=copy) as mounts:
        return mounts


def test_mounts_are_resolved_and_kept_in_a_record(home: Home, image: Image, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    given = [f"{tmp_path}/made/new:/b:ro", "data:/data/deep", f"{tmp_path}/file:/etc/file", "/anonymous"]
    mounts = resolve(home, image, tmp_path, volumes=given, tmpfs=["/run:size=1m,mode=700,uid=5,exec"])
    assert [mount.target for mount in mounts] == ["/b", "/data/deep", "/etc/file", "/run"]
    assert (tmp_path / "made/new").is_dir()
    assert mounts[3].options == ("nosuid", "nodev", "mode=700", "size=1048576", "uid=5")
    record = to_record(mounts)
    assert record["volumes"] == ["data"]
    assert from_record(record, tmp_path) == mounts
    (tmp_path / "file").unlink()
    with pytest.raises(HostError, match="has gone"):
        from_record(record, tmp_path)
    assert to_record(()) == {} and from_record({}, tmp_path) == ()


def test_anonymous_volumes_are_mounted_where_the_root_is_read_only(home: Home, image: Image, tmp_path: Path) -> None:
    mounts = resolve(home, image, tmp_path, volumes=["/data"], read_only=True)
    assert [(mount.target, mount.source) for mount in mounts] == [("/data", "anonymous/0"), ("/own", "anonymous/1")]
    assert (tmp_path / "anonymous/0/deep/file").read_text() == "of the image"
    assert from_record(to_record(mounts), tmp_path)[0].source == str(tmp_path / "anonymous/0")
    covered = resolve(home, image, tmp_path / "other", volumes=["x:/own"], read_only=True, copy=False)
    assert [mount.volume for mount in covered] == ["x"]
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("source", ["/dev/null", "{here}/file/below"])
def test_what_cannot_be_shared(home: Home, image: Image, tmp_path: Path, source: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HostError):
        resolve(home, image, tmp_path, volumes=[f"{source.format(here=tmp_path)}:/x"])
    with pytest.raises(HostError, match="cannot be mounted"):
        missing = {"type": "bind", "source": f"{tmp_path}/no", "target": "/x", "bind": {"create_host_path": False}}
        resolve(home, image, tmp_path, volumes=[missing])


def test_the_text_that_both_kinds_read(home: Home, tmp_path: Path) -> None:
    mounts = (
        Mount("/a b", str(tmp_path), True),
        Mount("/own", "anonymous/0"),
        Mount("/run", None, options=("nosuid", "mode=755")),
    )
    assert inside.settings(spec(pids_limit=5, ulimits={"core": 0}), mounts) == [
        ("share", "hybrid"),
        ("mount", "directory ro 0 /a b"),
        ("mount", "own rw - /own"),
        ("mount", "tmpfs rw nosuid,mode=755 /run"),
        ("rlimit", f"{resource.RLIMIT_CORE} 0 0"),
        ("pids", "5"),
    ]
    assert [number for number, _ in shares.shared(mounts)] == [0]
    assert local.entries(Path("/i"), mounts)[::2] == [
        {"destination": "/a b", "type": "bind", "source": "/i/mounts/0", "options": ["rbind", "rprivate", "ro"]},
        {"destination": "/run", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
    ]


def test_virtiofsd_s_arguments() -> None:
    words = shares.arguments(Path("/usr/lib/virtiofsd"), 7, Path("/i/share"))
    assert words[:3] == ["/usr/lib/virtiofsd", "--fd=7", "--rlimit-nofile=0"]
    assert {"sandbox=namespace", "announce_submounts", "timeout=0", "source=/i/share"} <= set(words)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("volumes: ['a:b:c:d']", "no volume"),
        ("volumes: ['data:/x:z']", "no mode"),
        ("volumes: ['data:/proc/x']", "cannot be mounted on"),
        ("volumes: ['data:/x/../proc']", "cannot be mounted on"),
        ("volumes: ['data:/x', 'other:/x']", "mounted twice"),
        ("volumes: ['data:/x']\ntmpfs: /x", "mounted twice"),
        ("volumes: [{type: bind, target: /x}]", "needs a source"),
        ("volumes: [{type: tmpfs, target: /x, source: y}]", "has no source"),
        ("volumes: [{type: volume, target: /x, bind: {}}]", "no bind options"),
        ("volumes: [{type: npipe, target: /x}]", "npipe"),
        ("tmpfs: /x:huge=1", "no option"),
        ("ulimits: {nofiles: 1}", "no ulimit"),
        ("ulimits: {nofile: {soft: 5, hard: 4}}", "above the hard"),
        ("ulimits: {nofile: {soft: -1, hard: 4}}", "above the hard"),
        ("blkio_config: {weight: 5}", "too small"),
        ("blkio_config: {device_read_bps: [{path: vda, rate: 1}]}", "path"),
        ("memswap_limit: 1g", "goes with mem_limit"),
        ("mem_limit: 1g\nmemswap_limit: 1m", "below mem_limit"),
    ],
)
def test_mistakes_in_a_spec(tmp_path: Path, text: str, what: str) -> None:
    (tmp_path / "spec.yaml").write_text(f"image: x\n{text}\n")
    with pytest.raises(SpecError) as failure:
        load(tmp_path / "spec.yaml", {})
    assert what in failure.value.errors[0].what


def test_a_spec_s_paths_start_from_its_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/h")
    (tmp_path / "spec.yaml").write_text("image: x\nvolumes: ['./a:/a', '~/b:/b', '../c:/c', '/d:/d', e:/e, 'f/g:/g']\n")
    sources = [mount.source for mount in load(tmp_path / "spec.yaml", {}).volumes]
    assert sources == [f"{tmp_path}/a", "/h/b", f"{tmp_path.parent}/c", "/d", "e", f"{tmp_path}/f/g"]


def test_limits_that_this_host_cannot_give(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_may_raise", lambda: False)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (100, 200))
    assert limits.here(spec()) == {"nofile": (100 if OPEN_FILES[0] < 100 else 200, 200)}
    assert limits.here(spec(ulimits={"nofile": 150}))["nofile"] == (150, 150)
    with pytest.raises(HostError, match="at most"):
        limits.here(spec(ulimits={"memlock": -1}))


def test_block_io_finds_its_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HostError, match="no block device"):
        limits.block_io(spec(blkio_config={"device_read_bps": [{"path": "/dev/null", "rate": 1}]}))
    with pytest.raises(HostError, match="No such file"):
        limits.block_io(spec(blkio_config={"device_read_bps": [{"path": "/dev/none", "rate": 1}]}))
    assert limits.block_io(spec()) is None
    found = limits.BlockIo(300, read_bps=(limits.Device(8, 0, 5),), write_iops=(limits.Device(8, 16, 6),))
    monkeypatch.setattr(limits, "_disks", lambda _: {(8, 0)})
    assert limits.of_disk(found, Path("/")) == {"read_bps": 5}
    assert bundle._block_io(found) == {
        "blockIO": {
            "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 5}],
            "throttleWriteIOPSDevice": [{"major": 8, "minor": 16, "rate": 6}],
            "weight": 300,
        }
    }


def test_the_numbers_of_limits() -> None:
    assert limits.number("nofile") == resource.RLIMIT_NOFILE
    assert limits.number("locks") == 10
