"""Bad input and hosts that lack something: each one clear message with its mend, Docker's exit code, nothing left."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.usefixtures("nothing_left")


def clear(done: Any, code: int, *says: str) -> None:
    """One message on standard error that says all this, with a mend; no output, no traceback."""
    err = done.stderr.decode()
    assert done.returncode == code, err
    assert done.stdout == b""
    assert err.startswith("hybrid: ")
    assert err.count("hybrid: ") == 1, err
    assert "  mend " in err
    assert "Traceback" not in err
    assert "HYBRID_DEBUG" not in err
    for words in says:
        assert words in err


def write(folder: Path, text: str) -> Path:
    path = folder / "spec.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("verb", [["run"], ["spec", "check"], ["compare"], ["image", "build"]])
def test_three_mistakes_are_all_named(cli: Any, tmp_path: Path, verb: list[str]) -> None:
    spec = write(tmp_path, "image: x\nmem_limt: 1g\ncpus: many\nisolation: jail\n")
    done = cli(*verb, spec)
    assert done.returncode == (125 if verb == ["run"] else 1)
    err = done.stderr.decode()
    assert err.count("hybrid: ") == 3
    for line, key in ((2, "mem_limt"), (3, "cpus"), (4, "isolation")):
        assert key in err
        assert f"{spec}:{line}" in err
    assert "mem_limit" in err


@pytest.mark.parametrize("text", ["", "[", "- a\n", "image: [\0]", "image: x\nimage: y\n", "image: {rootfs: ./none}\n"])
def test_what_is_no_spec(cli: Any, tmp_path: Path, text: str) -> None:
    clear(cli("run", write(tmp_path, text)), 125, "spec.yaml")


def test_a_missing_image(cli: Any, tmp_path: Path, kind: str) -> None:
    clear(cli("run", "--as", kind, write(tmp_path, "image: {archive: ./none.tar}\n")), 125, "none.tar")


@pytest.mark.parametrize("name", ["127.0.0.1:9/none:1", "127.0.0.1:9/none@sha256:" + "0" * 64])
def test_an_unreachable_registry(cli: Any, kind: str, name: str) -> None:
    clear(cli("run", "--as", kind, name), 125, "127.0.0.1:9")
    clear(cli("image", "pull", name), 1, "127.0.0.1:9")


@pytest.mark.parametrize("name", ["UPPER", "a b", "x@sha256:12", "-", "registry/", "../../etc/passwd", "\x1b[2J"])
def test_what_is_no_image_name(cli: Any, name: str) -> None:
    clear(cli("run", "--", name), 125)


def test_an_image_that_is_not_there_is_not_removed(cli: Any) -> None:
    clear(cli("image", "rm", "none"), 1, "none")
    clear(cli("image", "inspect", "none"), 1, "none")


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "x" * 64, "a\nb"])
def test_what_is_no_instance_name(cli: Any, tools: Path, name: str) -> None:
    clear(cli("run", "--as", "host", "--name", name, tools), 125)


@pytest.mark.parametrize(("kind", "memory"), [("vm", "16m"), ("container", "1m")])
def test_too_little_memory(cli: Any, specs: Path, able: Any, kind: str, memory: str) -> None:
    able(kind)
    spec = specs / "little.yaml"
    spec.write_text(f"image: {{rootfs: ./tools}}\nmem_limit: {memory}\ncommand: [sleep, '1000']\n")
    clear(cli("run", "--as", kind, spec), 125, "mem_limit")


def test_a_healthcheck_that_never_passes(cli: Any, specs: Path, tmp_path: Path, kind: str) -> None:
    spec = specs / "sick.yaml"
    spec.write_text(
        "image: {rootfs: ./tools}\nmem_limit: 256m\ncommand: [sleep, '1000']\n"
        "healthcheck: {test: [CMD, sh, -c, 'echo unwell; exit 1'], interval: 1s, retries: 1}\n"
    )
    done = cli("compare", spec, "--as", kind, "--runs", "1", "--warmup", "0", "--timeout", "30", "-o", tmp_path / "out")
    assert done.returncode == 1
    assert b"ready" in done.stdout + done.stderr
    assert b"unwell" in done.stdout + done.stderr


@pytest.fixture
def little_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of three megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m,mode=711", "none", place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_full_disk(another_cli: Any, tools: Path, kind: str, little_disk: Path) -> None:
    (little_disk / "filler").write_bytes(bytes(2 << 20))
    clear(another_cli(little_disk / "home")("run", "--as", kind, tools), 125, "space")
    left = [path for path in (little_disk / "home").rglob("*") if path.is_file() and path.stat().st_size > 100_000]
    assert left == []
    instances = little_disk / "home/instances"
    assert not instances.exists() or [path for path in instances.iterdir() if path.is_dir()] == []


@pytest.mark.parametrize("kind", ["container", "vm"])
def test_no_engine(another_cli: Any, tools: Path, able: Any, tmp_path: Path, kind: str) -> None:
    able(kind)
    clear(another_cli(env={"PATH": str(tmp_path)})("run", "--as", kind, tools), 125, "not installed", "apt-get install")


def test_no_libvirt(another_cli: Any, tools: Path, able: Any, tmp_path: Path) -> None:
    able("vm")
    (tmp_path / "libvirt.py").write_text("raise ImportError('libvirt.so.0: cannot open shared object file')\n")
    cli = another_cli(env={"PYTHONPATH": str(tmp_path)})
    clear(cli("run", "--as", "vm", tools), 125, "libvirt")
    assert cli("doctor", "--as", "vm").returncode == 1
    assert cli("doctor", "--as", "host").returncode == 0


def test_not_root(another_cli: Any, tools: Path, kind: str, tmp_path: Path) -> None:
    home = Path("/tmp") / f"{tmp_path.name}-home"
    cli = another_cli(home, prefix=("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"))
    clear(cli("run", "--as", kind, tools), 125, "root")
    assert cli("ps", "-a").returncode == 0
    assert cli("doctor", "--as", kind).returncode == 1
    assert not home.exists()


def test_a_home_that_cannot_be_written(another_cli: Any, tools: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    clear(another_cli(tmp_path / "file")("run", "--as", "host", tools), 125, str(tmp_path / "file"))
