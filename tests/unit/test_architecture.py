"""The import rules of the design, read from the source: calls go one way, and heavy things load late."""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hybrid.process import run

ROOT = Path(__file__).parents[2]
PACKAGES = ("hybrid", "vm", "container", "benchmarks")
HEAVY = ("libvirt", "paramiko", "pydantic", "scipy", "numpy", "matplotlib", "jinja2", "rich", "ruamel")

# Who may call whom, highest first: a module may import from its own layer and from lower ones. Whatever is
# named nowhere is at the bottom, and may import from nowhere else.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("hybrid.__main__", "benchmarks"),  # what is run by hand
    ("hybrid.cli",),
    ("hybrid.report", "hybrid.doctor"),
    ("hybrid.compare", "hybrid.answers", "hybrid.noise", "hybrid.summary"),
    ("hybrid.measure", "hybrid.metrics", "hybrid.result", "hybrid.samples"),
    ("hybrid.launch", "hybrid.salvage"),
    ("hybrid.drivers",),
    ("vm", "container"),
    ("hybrid.images",),
    ("hybrid.spec", "hybrid.specerrors", "hybrid.specforms", "hybrid.yamlfile"),
)
# Words and pure functions that every layer speaks, though their package is higher.
COMMON = ("hybrid.images.reference", "hybrid.images.progress")


def modules() -> Iterator[tuple[str, Path]]:
    """Every module of the product, by its dotted name."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imports(path: Path) -> Iterator[str]:
    """What a file imports anywhere, except for the type checker alone."""
    waiting: list[ast.AST] = [ast.parse(path.read_text(), str(path))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            waiting += node.orelse
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            assert node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        else:
            waiting += ast.iter_child_nodes(node)


def within(name: str, *packages: str) -> bool:
    """Whether a dotted name is one of the packages or inside it."""
    return any(f"{name}.".startswith(f"{package}.") for package in packages)


def layer(name: str) -> int:
    """The number of a module's layer, 0 the highest."""
    if within(name, *COMMON):
        return len(LAYERS)
    return next((number for number, packages in enumerate(LAYERS) if within(name, *packages)), len(LAYERS))


ALL = dict(modules())


@pytest.mark.parametrize("name", ALL)
def test_calls_go_one_way(name: str) -> None:
    assert not [other for other in imports(ALL[name]) if layer(other) < layer(name)]


@pytest.mark.parametrize("name", ALL)
def test_the_kinds_do_not_know_each_other(name: str) -> None:
    both = ("vm", "container")  # the composition root, and what measures a kind's parts by hand
    allowed = {"hybrid.drivers": both, "benchmarks": both, "vm": ("vm",), "container": ("container",)}
    own = next((kinds for package, kinds in allowed.items() if within(name, package)), ())
    assert not [other for other in imports(ALL[name]) if within(other, "vm", "container") and not within(other, *own)]


@pytest.mark.parametrize("name", ALL)
def test_one_module_starts_programs(name: str) -> None:
    assert name == "hybrid.process" or not [other for other in imports(ALL[name]) if within(other, "subprocess")]


@pytest.mark.parametrize("words", [["ps"], ["run", "--help"], ["compare", "--help"]])
def test_a_command_line_loads_nothing_heavy(words: list[str], tmp_path: Path) -> None:
    assert not heavy(f"import hybrid.__main__ as main; main.run({words!r})", tmp_path, HEAVY)


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("container.driver", ("vm", "libvirt", "paramiko", "scipy", "matplotlib", "rich")),
        ("container.host", ("vm", "libvirt", "paramiko", "scipy", "matplotlib", "rich")),
        ("vm.driver", ("container", "paramiko", "scipy", "matplotlib", "rich")),
    ],
)
def test_a_kind_loads_only_its_own(module: str, unwanted: tuple[str, ...], tmp_path: Path) -> None:
    assert not heavy(f"import {module}", tmp_path, unwanted)


def heavy(script: str, home: Path, unwanted: tuple[str, ...]) -> list[str]:
    """Those of the unwanted modules that a fresh interpreter has loaded after `script`."""
    ending = "\nimport sys; print('loaded:', *sys.modules)"
    seen = run([sys.executable, "-c", script + ending], env={**os.environ, "HYBRID_HOME": str(home)}).decode()
    return [name for name in seen.rpartition("loaded:")[2].split() if within(name, *unwanted)]
