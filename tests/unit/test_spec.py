"""Specs: the forms that Compose allows, and every mistake named with its line and mend."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML

from hybrid import spec, units
from hybrid.driver import Kind
from hybrid.errors import HybridError, SpecError
from hybrid.image import Healthcheck
from hybrid.spec import DebianSource, HealthcheckSpec, Spec

DATA = Path(__file__).parent / "data/spec"
ROOT = Path(__file__).parents[2]


def read(tmp_path: Path, text: str, environment: dict[str, str] | None = None) -> Spec:
    path = tmp_path / "app.yaml"
    path.write_text(text)
    return spec.load(path, environment or {})


def mistakes(tmp_path: Path, text: str | bytes) -> list[HybridError]:
    path = tmp_path / "app.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SpecError) as caught:
        spec.load(path)
    return list(caught.value.errors)


def test_every_key_in_its_compose_forms() -> None:
    found = spec.load(DATA / "full.yaml", {"FROM_CALLER": "mine"})
    assert found.source == DATA / "full.yaml"
    assert found.image == DebianSource(debian="bookworm", packages=("nginx-light", "curl=7.88.1-10"))
    assert found.entrypoint == ("/usr/bin/env", "a b") and found.command == ("sh", "-c", "echo $HOME")
    assert found.environment == {
        "GREETING": "ho",
        "EMPTY": "",
        "NUMBER": "5",
        "RATIO": "1.5",
        "YES": "true",
        "FROM_CALLER": "mine",
    }
    assert (found.working_dir, found.user, found.hostname) == ("/srv/www", "1000", "web-1.example")
    assert (found.cpus, found.mem_limit, found.pids_limit) == (1.5, 256 * 1024**2, 100)
    assert (found.stop_signal, found.stop_grace_period) == (3, 90.0)
    assert found.isolation is Kind.VM and found.network_mode == "none" and found.labels == {"a": "b", "c": ""}
    assert found.container.runtime == "crun" and not found.container.userns and found.vm.kernel is None


def test_every_mistake_at_once() -> None:
    with pytest.raises(SpecError) as caught:
        spec.load(DATA / "every-mistake.yaml", {})
    said = [f"{error.where.rpartition(':')[2]}|{error.what}|{error.mend}" for error in caught.value.errors]
    golden = DATA / "every-mistake.txt"
    text = "\n".join(said).replace(str(DATA), "HERE") + "\n"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()
    assert all(error.where.startswith(f"{DATA}/every-mistake.yaml:") for error in caught.value.errors)


@pytest.mark.parametrize(
    ("text", "line", "what", "mend"),
    [
        ("", 0, "empty", "image:"),
        ("# nothing\n", 0, "empty", "image:"),
        ("- image: x\n", 1, "not a list", "one key to a line"),
        ("just text\n", 1, "not a single value", "one key"),
        ("command: x\n", 1, "image is missing", "image:"),
        ("image: x\nimage: y\n", 2, "given twice", "line 1"),
        ("image: x\n\tuser: y\n", 2, "not valid YAML", "tabs"),
        ("image: [x\nuser: y\n", 2, "not valid YAML", "brackets"),
        ("image: x\n---\nimage: y\n", 2, "not valid YAML", ""),
        ("image: !!python/object:os.system x\n", 1, "tag", "plain text"),
        ("image: x\nlabels: {a: *no}\n", 2, "not valid YAML", ""),
        ('image: x\ncommand: ["a\\0b"]\n', 2, "NUL", ""),
        (b"image: x\nuser: \xff\n", 2, "UTF-8", "UTF-8"),
        ("image: x\nx-a: " + "[" * 5000 + "\n", 0, "deep", ""),
        ("image: x\nx-a: " + "[" * 80 + "]" * 80 + "\n", 0, "deep", ""),
        ("image: x\nx-a: " + "a" * 300_000 + "\n", 0, "larger than 256 KiB", "one service"),
        ("services:\n  web:\n    image: x\n", 1, "one service", "top level"),
        ("image: x\nvolumes: [a]\n", 2, "volumes is not supported yet", "remove"),
        ("image: x\nruntime: crun\n", 2, "runtime is not supported yet", "container: {runtime: NAME}"),
        ("image: x\nhealth-check: {}\n", 2, "health-check is no known key", "healthcheck"),
        ("image: x\nzzz: 1\n", 2, "zzz is no known key", "known here"),
        ("image: {}\n", 1, "one source", "debian, rootfs, archive"),
        ("image: {debian: bookworm, archive: x}\n", 1, "one source", "debian, rootfs, archive"),
        ("image: Nginx\n", 1, "no image reference", "lower case"),
        ("image: ./image.tar\n", 1, "no image reference", "archive"),
        ("image: -x\n", 1, "no image reference", ""),
        ("image: 5\n", 1, "5 is no image", ""),
        ("image: {rootfs: ./none}\n", 1, "does not exist", "spec's directory"),
        ("image: x\nmem_limit: 4m\n", 2, "least is 6", "mem_limit: 256m"),
        ("image: x\ncpus: 0\n", 2, "above 0", "1.5"),
        ("image: x\ncommand: [sleep, 60]\n", 2, "60 is no text", "quotes"),
        ("image: x\nstop_grace_period: 10\n", 2, "no duration", "10s"),
        ("image: x\nnetwork_mode: bridge\n", 2, "not supported yet", "none"),
        ("image: x\nhealthcheck: {interval: 1s, test: []}\n", 2, "no healthcheck test", "CMD"),
        ("image: x\nhealthcheck: {test: [CMD-SHELL, a, b]}\n", 2, "no healthcheck test", "one string"),
        ("image: x\nhealthcheck: {test: [curl, x]}\n", 2, "no healthcheck test", "CMD"),
        ("image: x\ncpus: 1_0.0.0\n", 2, "no number", ""),
        ("image: x\npids_limit: " + "9" * 5000 + "\n", 2, "", ""),
        ("image: x\nsource: y\n", 2, "source is no known key", ""),
    ],
)
def test_mistakes(tmp_path: Path, text: str | bytes, line: int, what: str, mend: str) -> None:
    [error] = mistakes(tmp_path, text)
    assert what in error.what and mend in error.mend and "\n" not in error.what
    assert f"app.yaml:{line}" in error.where if line else "app.yaml" in error.where


def test_an_alias_bomb_is_refused(tmp_path: Path) -> None:
    lines = ["image: x", "x-0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"x-{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    [error] = mistakes(tmp_path, "\n".join(lines))
    assert "expands" in error.what
    [error] = mistakes(tmp_path, "image: x\nx-a: &a [*a]\n")
    assert error.mend


def test_a_missing_file_and_a_directory(tmp_path: Path) -> None:
    for path, says in ((tmp_path / "none.yaml", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(SpecError, match=says) as caught:
            spec.load(path)
        assert str(path) in caught.value.errors[0].where


def test_environment_as_a_list_and_from_the_caller(tmp_path: Path) -> None:
    text = "image: x\nenvironment: [A=1, B=, C, D, 'E=a=b']\n"
    assert read(tmp_path, text, {"C": "3"}).environment == {"A": "1", "B": "", "C": "3", "E": "a=b"}


def test_empty_commands_are_not_missing_ones(tmp_path: Path) -> None:
    found = read(tmp_path, "image: x\ncommand: ''\nentrypoint: []\n")
    assert found.command == () and found.entrypoint == ()
    found = read(tmp_path, "image: x\ncommand:\nhealthcheck:\n")
    assert found.command is None and found.healthcheck is None


def test_paths_start_from_the_spec(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "vmlinuz").touch()
    found = read(tmp_path, "image: {rootfs: tree}\nvm: {kernel: ./vmlinuz}\n")
    assert isinstance(found.image, spec.RootfsSource) and found.image.rootfs == tmp_path / "tree"
    assert found.vm.kernel == tmp_path / "vmlinuz"


def test_a_spec_is_frozen(tmp_path: Path) -> None:
    found = read(tmp_path, "image: x\n")
    with pytest.raises(ValueError, match="frozen"):
        found.image = "y"


def test_for_image() -> None:
    assert spec.for_image("nginx:1").image == "nginx:1"
    with pytest.raises(SpecError) as caught:
        spec.for_image("No Such")
    [error] = caught.value.errors
    assert error.what.startswith("'No Such' is no image reference") and error.mend and not error.where


IMAGE_CHECK = Healthcheck(("old",), interval=5.0, retries=7)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, IMAGE_CHECK),
        ({"disable": True}, None),
        ({"test": ["NONE"]}, None),
        ({"test": "a b"}, Healthcheck(("/bin/sh", "-c", "a b"), interval=5.0, retries=7)),
        ({"test": ["CMD", "a", "b"]}, Healthcheck(("a", "b"), interval=5.0, retries=7)),
        ({"test": ["CMD-SHELL", "a b"], "interval": "2s"}, Healthcheck(("/bin/sh", "-c", "a b"), 2.0, retries=7)),
        ({"timeout": "500ms"}, Healthcheck(("old",), interval=5.0, timeout=0.5, retries=7)),
    ],
)
def test_healthchecks_lie_over_the_image_s(given: dict[str, Any], expected: Healthcheck | None) -> None:
    assert HealthcheckSpec.model_validate(given).resolve(IMAGE_CHECK) == expected


def test_a_healthcheck_without_a_test_needs_the_image_s() -> None:
    assert HealthcheckSpec.model_validate({"interval": "2s"}).resolve(None) is None
    assert HealthcheckSpec.model_validate({"test": "x"}).resolve(None) == Healthcheck(("/bin/sh", "-c", "x"))


GOOD = [
    "image: x",
    "image: x\ncommand: a b\nentrypoint: [a]\nenvironment: {A: 1, B: , C: true}\nlabels: [a=b]",
    "image: x\ncpus: '.5'\nmem_limit: 268435456\npids_limit: -1\nstop_signal: 9\nuser: 0:0",
    "image: x\nhealthcheck: {test: a, interval: 1m30s, retries: 3, disable: false}\nx-any: [1]",
    "image: {debian: bookworm}\ncontainer: {userns: false}\nisolation: host\nnetwork_mode: none",
    "image: {debian: bookworm, packages: [g++, libc6=2.36-9]}\nstop_grace_period: 1.5s\nvm: {}",
]
GOOD += [
    "image: x\npull_policy: always\nplatform: linux/arm64/v8",
    "build: {context: ., dockerfile: app.yaml, args: [A=1], target: run}\npull_policy: build",
    "build: {dockerfile: app.yaml, args: {A: 1}}\nimage: team/app:1",
]
BAD = [
    "build: {context: 1}",
    "build: {dockerfile: app.yaml, context: ., nope: 1}",
    "image: x\npull_policy: daily",
    "image: x\nplatform: Linux",
    "command: x",
    "image: x\nnope: 1",
    "image: {debian: bookworm, rootfs: /}",
    "image: {debian: 'Book Worm'}",
    "image: x\nhealthcheck: {interval: 5}",
    "image: x\ncommand: [1]",
    "image: x\nmem_limit: lots",
    "image: x\nisolation: podman",
    "image: x\nnetwork_mode: host",
    "image: x\ncontainer: {userns: 'no'}",
]


@pytest.mark.parametrize("text", [*GOOD, *BAD])
def test_the_schema_accepts_what_load_reads(tmp_path: Path, text: str) -> None:
    schema = spec.schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    valid = jsonschema.Draft202012Validator(schema).is_valid(YAML(typ="safe", pure=True).load(text))
    assert valid is (text in GOOD)
    if valid:
        read(tmp_path, text)
    else:
        mistakes(tmp_path, text)


def test_the_schema_describes_every_key() -> None:
    schema = spec.schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert set(schema["properties"]) == set(Spec.model_fields)
    for name, value in schema["properties"].items():
        assert value.get("description"), name


def test_the_specs_of_the_benchmarks_load() -> None:
    files = sorted((ROOT / "benchmarks/specs").glob("*.yaml"))
    assert files
    for file in files:
        assert spec.load(file).source == file


def test_only_loading_a_spec_imports_pydantic() -> None:
    code = "import sys, hybrid.image, hybrid.images, hybrid.images.skopeo; sys.exit('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("256m", 256 * 1024**2),
        ("1.5g", 1610612736),
        ("64KiB", 65536),
        ("1 kb", 1024),
        ("512", 512),
        (7, 7),
        ("2T", 2**41),
    ],
)
def test_sizes(text: str | int, value: int) -> None:
    assert units.parse_bytes(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [("1m30s", 90.0), ("200ms", 0.2), ("1.5h", 5400.0), ("0", 0.0), ("2h3m4s", 7384.0), ("5us", 5e-6), (".5s", 0.5)],
)
def test_durations(text: str, value: float) -> None:
    assert units.parse_duration(text) == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "value"), [("SIGTERM", 15), ("term", 15), ("9", 9), (3, 3), ("SIGRTMIN+3", 37), ("rtmax", 64)]
)
def test_signals(text: str | int, value: int) -> None:
    assert units.parse_signal(text) == value


@pytest.mark.parametrize("text", ["", "m", "1x", "-1m", "1..5m", "1e5", "٣m", "1" * 5000 + "m"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="no size"):
        units.parse_bytes(text)


@pytest.mark.parametrize("text", ["", "5", "5 s", "s", "-5s", "1s1", "1d", "1s" * 100])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="no duration"):
        units.parse_duration(text)


@pytest.mark.parametrize("text", ["", "0", "65", "-1", "SIGNOPE", "SIGTERM+1", "SIGRTMIN+99", "SIG", "²"])
def test_what_is_no_signal(text: str) -> None:
    with pytest.raises(ValueError, match="no signal"):
        units.parse_signal(text)
