"""Exports without an engine: the file's fate, configs, partition tables, descriptors, programs for firmware."""

from __future__ import annotations

import errno
import hashlib
import json
import struct
import tarfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from hybrid.errors import HostError, ImageError, ToolError
from hybrid.home import Home
from hybrid.image import Healthcheck, Image, ImageConfig, Process
from hybrid.images import export
from hybrid.images.export import Format
from hybrid.spec import Spec
from vm import appliance, initramfs, kernel, ova, uki

DATA = Path(__file__).parent / "data/export"
PROCESS = Process(
    argv=("server",),
    executable="/bin/server",
    env={"PATH": "/bin"},
    cwd="/",
    uid=0,
    gid=0,
    groups=(),
    hostname="web",
    stop_signal=3,
    stop_timeout=2.5,
    healthcheck=None,
)


def image(directory: Path, *names: str, **config: Any) -> Image:
    return Image(f"sha256:{'1' * 64}", directory, ImageConfig(**config), names=names, tree_bytes=1 << 20)


def made(directory: Path, size: int = 1 << 30, **spec: Any) -> appliance.Appliance:
    home = Home(directory / "home", directory / "run")
    return appliance.Appliance(home, "web", Spec(image="web", **spec), image(directory), PROCESS, size)


# The file


def test_the_file_appears_with_its_checksum_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "web.ova"
    with export.exported(target, force=False) as (place, scratch):
        assert place.name == target.name
        (scratch / "much").write_text("more")
        place.write_bytes(b"bytes")
        assert not target.exists()
    assert target.read_bytes() == b"bytes"
    line = (tmp_path / "web.ova.sha256").read_text()
    assert line == f"{hashlib.sha256(b'bytes').hexdigest()}  web.ova\n"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("reason", [RuntimeError(), KeyboardInterrupt()])
def test_of_a_failed_export_nothing_is_left(tmp_path: Path, reason: BaseException) -> None:
    with pytest.raises(type(reason)), export.exported(tmp_path / "x", force=False) as (place, _):
        place.write_bytes(b"half")
        raise reason
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["x", "x.sha256"])
def test_what_is_there_is_replaced_only_by_force(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(ImageError, match="already") as caught, export.exported(tmp_path / "x", force=False):
        pytest.fail("not reached")
    assert caught.value.where == str(tmp_path / name)
    assert (tmp_path / name).read_text() == "mine"
    with export.exported(tmp_path / "x", force=True) as (place, _):
        place.write_text("new")
    assert (tmp_path / "x").read_text() == "new"


def test_a_file_that_comes_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="already"), export.exported(tmp_path / "x", force=False) as (place, _):
        place.write_text("ours")
        (tmp_path / "x").write_text("theirs")
    assert (tmp_path / "x").read_text() == "theirs"


def test_a_place_that_cannot_be_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="is a directory"):
        export.check(tmp_path, force=True)
    with pytest.raises(ImageError, match="does not exist"):
        export.check(tmp_path / "no/file", force=False)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        ToolError("qemu-img: …", returncode=1, stderr="error while writing: No space left on device"),
    ],
)
def test_a_full_disk_is_told(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(ImageError, match="no space is left"), export.exported(tmp_path / "x", force=False):
        raise error


def test_the_time_is_the_one_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert export.epoch() == 1700000000
    for text in ("", "-1", "now", "9" * 30):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", text)
        assert export.epoch() == 315532800


# The config


DOCUMENT = {
    "architecture": "amd64",
    "config": {"Entrypoint": ["/e"], "Cmd": ["c"], "Env": ["A=1", "B=2"], "User": "u", "Labels": {"k": "v"}, "X": 1},
    "history": [{"created_by": "step"}],
}


def test_an_image_by_name_keeps_its_config_as_it_is(tmp_path: Path) -> None:
    assert export.configured(DOCUMENT, Spec(image="x"), image(tmp_path)) == DOCUMENT


def test_what_the_spec_says_goes_over_the_config(tmp_path: Path) -> None:
    spec = Spec.model_validate(
        {
            "image": "x",
            "command": ["d"],
            "environment": {"B": "3", "C": "4"},
            "labels": {"l": "w"},
            "working_dir": "/srv",
            "user": "app",
            "stop_signal": "SIGINT",
            "healthcheck": {"test": ["CMD", "probe"], "timeout": "2s"},
        }
    )
    told = export.configured(DOCUMENT, spec, image(tmp_path, env={"A": "1", "B": "2"}, labels={"k": "v"}))
    assert told["history"] == DOCUMENT["history"]
    config = told["config"]
    assert config["Entrypoint"] == ["/e"] and config["Cmd"] == ["d"] and config["X"] == 1
    assert config["Env"] == ["A=1", "B=3", "C=4"]
    assert config["Labels"] == {"k": "v", "l": "w"}
    assert (config["WorkingDir"], config["User"], config["StopSignal"]) == ("/srv", "app", "2")
    assert config["Healthcheck"]["Test"] == ["CMD", "probe"] and config["Healthcheck"]["Timeout"] == 2_000_000_000


def test_an_entrypoint_drops_the_command_and_a_disabled_healthcheck_is_none(tmp_path: Path) -> None:
    spec = Spec.model_validate({"image": "x", "entrypoint": ["/f"], "healthcheck": {"disable": True}})
    config = export.configured(DOCUMENT, spec, image(tmp_path, healthcheck=Healthcheck(("x",))))["config"]
    assert config["Entrypoint"] == ["/f"] and "Cmd" not in config
    assert config["Healthcheck"] == {"Test": ["NONE"]}


def test_an_image_keeps_the_name_it_was_asked_for_by(tmp_path: Path) -> None:
    named = image(tmp_path, "docker.io/library/a:1", "localhost/b:2", f"docker.io/library/c@sha256:{'2' * 64}")
    assert export.archive_name(Spec(image="b:2"), named, "b:2") == "localhost/b:2"
    assert export.archive_name(Spec(image="1" * 12), named, "1" * 12) == "docker.io/library/a:1"
    unnamed = image(tmp_path, f"docker.io/library/c@sha256:{'2' * 64}")
    spec = Spec(image="x").from_file(tmp_path / "Web.yaml")
    assert export.archive_name(spec, unnamed, "Web.yaml") == "localhost/web:latest"
    assert export.archive_name(Spec(image="x").from_file(tmp_path / "Ünwell !.yaml"), unnamed, "") == (
        "localhost/image:latest"
    )


# The disk


def test_the_partition_table_is_as_written_down(tmp_path: Path) -> None:
    table = appliance.partition_table(made(tmp_path), 64 << 20, 958 << 20)
    assert table == (DATA / "table.txt").read_text()


def test_a_disk_is_known_by_what_is_in_it(tmp_path: Path) -> None:
    one, other = made(tmp_path), made(tmp_path, size=2 << 30)
    assert one.identity("root") == made(tmp_path).identity("root")
    assert len({one.identity("root"), one.identity("esp"), other.identity("root")}) == 3
    assert len(one.root_name) <= 36  # as many characters as the table holds


def test_what_cannot_boot_or_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="cannot boot in 64 MiB"):
        appliance.check(made(tmp_path, mem_limit="64m"))
    (tmp_path / "boot").write_bytes(b"")
    with pytest.raises(HostError, match="does not fit on 70 MiB") as caught:
        appliance.write_disk(made(tmp_path, size=70 << 20), tmp_path / "boot", tmp_path / "raw", export_progress())
    assert "--size 83m" in caught.value.mend


def export_progress() -> Any:
    from hybrid.images.progress import Quiet

    return Quiet()


def test_a_standalone_config_says_what_no_host_will_say() -> None:
    values = initramfs.config(PROCESS, partition="hybrid-1").split(b"\0")
    assert {b"standalone=1", b"partition=hybrid-1", b"stop_signal=3", b"stop_timeout=2500", b"stdin=0"} <= set(values)
    assert not any(value.startswith(b"disk=") for value in values)


def test_modules_name_what_they_want_loaded_before() -> None:
    assert kernel.module_wishes(b"\0softdep=pre: crypto-crc32c nls-utf8 post: x\0") == ["crc32c", "nls_utf8"]
    assert kernel.module_wishes(b"\0depends=a\0") == []


def test_a_wished_module_is_loaded_before_if_it_is_there(tmp_path: Path) -> None:
    for name, note in {
        "fs": "depends=base\0softdep=pre: crypto-crc32c nowhere",
        "base": "",
        "crc32c_generic": "",
    }.items():
        (tmp_path / f"{name}.ko").write_bytes(b"\0" + note.encode() + b"\0")
    order = kernel.module_order(tmp_path, tmp_path, ("fs",))
    assert [path.stem for path in order] == ["base", "crc32c_generic", "fs"]


# The program for the firmware


def pe(sections: list[tuple[int, int]], base: int = 0x1000000, alignment: int = 0x1000) -> bytes:
    """A PE32+ program's headers; sections by size and address."""
    optional = struct.pack("<H22xQI", 0x20B, base, alignment).ljust(240, b"\0")
    coff = struct.pack("<4sHHIIIHH", b"PE\0\0", 0x8664, len(sections), 99, 0, 0, len(optional), 0)
    table = b"".join(struct.pack("<8sII24x", b".x", size, address) for size, address in sections)
    return b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", 0x40) + coff + optional + table


def test_sections_are_added_behind_the_last_one() -> None:
    assert uki.free_address(pe([(0x10, 0x5000), (0x1001, 0x2000)])) == (0x1006000, 0x1000)
    assert uki.free_address(pe([(0x10, 0x1000)], base=0, alignment=0x200)) == (0x2000, 0x1000)


@pytest.mark.parametrize("data", [b"", b"MZ", pe([]), pe([(1, 1)])[:-30], b"\0" * 1000])
def test_a_damaged_stub_is_told(data: bytes) -> None:
    with pytest.raises(HostError, match="damaged"):
        uki.free_address(data)


# The appliance of several files


@pytest.fixture
def system() -> ova.System:
    identity = str(uuid.UUID(int=7))
    return ova.System("we<b", identity, vcpus=2, memory=(256 << 20) + 1, capacity=1 << 30, file="d.vmdk", file_size=4)


def test_the_descriptor_is_as_written_down(system: ova.System) -> None:
    assert ova.descriptor(system).decode() == (DATA / "web.ovf").read_text()
    ET.fromstring(ova.descriptor(system))


def test_an_ova_holds_descriptor_manifest_and_disk_in_that_order(system: ova.System, tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(b"disk")
    ova.pack(system, tmp_path / "disk", tmp_path / "x.ova", 1000)
    with tarfile.open(tmp_path / "x.ova") as tar:
        assert tar.getnames() == ["we<b.ovf", "we<b.mf", "d.vmdk"]
        assert {member.mtime for member in tar} == {1000}
        contents = dict(zip(tar.getnames(), _contents(tar), strict=True))
    for line in contents["we<b.mf"].decode().splitlines():
        name, _, digest = line.removeprefix("SHA256(").partition(")= ")
        assert hashlib.sha256(contents[name]).hexdigest() == digest
    assert contents["d.vmdk"] == b"disk"


def _contents(tar: tarfile.TarFile) -> Iterator[bytes]:
    for member in tar.getmembers():
        file = tar.extractfile(member)
        assert file is not None
        yield file.read()


def test_every_form_is_an_archive_or_a_disk() -> None:
    assert [form.value for form in Format if not form.bootable] == ["oci-archive", "docker-archive", "rootfs-tar"]
    assert json.dumps(list(Format))
