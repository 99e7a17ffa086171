"""A YAML file as plain values, with the line of every key kept for error messages.

YAML 1.2, one document. Mappings, sequences, strings, numbers, booleans and null only; a key given
twice is an error; anchors and merge keys work, but an expansion that grows without measure is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from hybrid.errors import HybridError, SpecError

KeyPath: TypeAlias = tuple[str | int, ...]

MAX_BYTES = 256 * 1024
MAX_VALUES = 10_000
MAX_DEPTH = 50

_TAG = "tag:yaml.org,2002:"


@dataclass(frozen=True, slots=True)
class Document:
    """The values of a file and where each stands."""

    path: Path
    values: dict[str, Any]
    lines: Mapping[KeyPath, int]

    def line(self, key: KeyPath) -> int:
        """The line of the value at `key`, or of the nearest one around it."""
        return next((self.lines[key[:end]] for end in range(len(key), -1, -1) if key[:end] in self.lines), 1)


def dotted(key: KeyPath) -> str:
    """A key path as people write it: `healthcheck.test[1]`."""
    text = ""
    for part in key:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def read(path: Path) -> Document:
    """Read the mapping in `path`; SpecError with every mistake of form in it."""
    root = _compose(path)
    if root is None:
        raise _mistake("the file is empty", str(path), "a spec needs at least `image:`; see `hybrid spec schema`")
    reader = _Reader(path)
    try:
        values = reader.value(root, ())
    except RecursionError:
        raise _too_deep(path) from None
    if reader.errors:
        raise SpecError(reader.errors)
    if not isinstance(values, dict):
        raise _mistake(
            f"a spec is a mapping of keys, not a {_kind_of(root)}",
            f"{path}:{root.start_mark.line + 1}",
            "write `image: NAME` and so on, one key to a line",
        )
    return Document(path, values, reader.lines)


def _compose(path: Path) -> Node | None:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise _mistake(f"the spec cannot be read: {error.strerror}", str(path), "check the path") from None
    if len(data) > MAX_BYTES:
        raise _mistake(f"the file is larger than {MAX_BYTES // 1024} KiB", str(path), "a spec holds one service")
    try:
        return YAML(typ="safe", pure=True).compose(data.decode("utf-8-sig"))  # type: ignore[no-any-return]
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _mistake("the file is not UTF-8 text", f"{path}:{line}", "save it as UTF-8") from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = ": ".join(part for part in (error.context, error.problem) if part)
        raise _mistake(f"not valid YAML: {problem}", where, _yaml_mend(data, mark.line if mark else 0)) from None
    except YAMLError as error:
        raise _mistake(f"not valid YAML: {str(error).splitlines()[0]}", str(path), "save it as plain text") from None
    except RecursionError:
        raise _too_deep(path) from None


def _yaml_mend(data: bytes, line: int) -> str:
    lines = data.splitlines()
    if any(b"\t" in text[: len(text) - len(text.lstrip())] for text in lines[max(0, line - 1) : line + 1]):
        return "indent with spaces, not tabs"
    return "check indentation, quotes and brackets there and in the line above"


def _too_deep(path: Path) -> SpecError:
    return _mistake("values are nested too deeply", str(path), "a spec nests a few levels at most")


def _mistake(what: str, where: str, mend: str) -> SpecError:
    return SpecError([HybridError(what, where=where, mend=mend)])


def _kind_of(node: Node) -> str:
    return "list" if isinstance(node, SequenceNode) else "single value"


class _Reader:
    """Turns nodes into values and collects lines and mistakes on the way."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: dict[KeyPath, int] = {}
        self.errors: list[HybridError] = []
        self.count = 0
        self.scalars = YAML(typ="safe", pure=True).constructor

    def error(self, what: str, node: Node, key: KeyPath, mend: str) -> None:
        where = f"{self.path}:{node.start_mark.line + 1}" + (f": {dotted(key)}" if key else "")
        self.errors.append(HybridError(what, where=where, mend=mend))

    def value(self, node: Node, key: KeyPath) -> Any:
        self.count += 1
        if self.count > MAX_VALUES:
            raise _mistake(
                f"the file expands to more than {MAX_VALUES} values",
                f"{self.path}:{node.start_mark.line + 1}",
                "use fewer anchors and aliases",
            )
        if len(key) > MAX_DEPTH:
            raise _too_deep(self.path)
        self.lines.setdefault(key, node.start_mark.line + 1)
        if isinstance(node, MappingNode):
            return self.mapping(node, key)
        if isinstance(node, SequenceNode):
            return [self.value(item, (*key, index)) for index, item in enumerate(node.value)]
        return self.scalar(node, key)

    def mapping(self, node: MappingNode, key: KeyPath) -> dict[str, Any]:
        values: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for name_node, value_node in node.value:
            if name_node.tag == _TAG + "merge":
                merged = self.merge(value_node, key) | merged
                continue
            name = name_node.value if isinstance(name_node, ScalarNode) else None
            if name is None:
                self.error("a key must be a single word", name_node, key, "write `key: value`")
                continue
            path = (*key, name)
            if name in values:
                self.error(
                    f"the key {name!r} is given twice", name_node, path, f"the first is in line {self.lines[path]}"
                )
                continue
            self.lines[path] = name_node.start_mark.line + 1
            values[name] = self.value(value_node, path)
        return merged | values

    def merge(self, node: Node, key: KeyPath) -> dict[str, Any]:
        nodes = node.value if isinstance(node, SequenceNode) else [node]
        merged: dict[str, Any] = {}
        for each in nodes:
            if isinstance(each, MappingNode):
                merged = self.value(each, key) | merged
            else:
                self.error("`<<` merges mappings only", each, key, "refer to the anchor of a mapping")
        return merged

    def scalar(self, node: Node, key: KeyPath) -> str | int | float | bool | None:
        tag = str(node.tag)
        kind = tag.removeprefix(_TAG)
        try:
            match kind:
                case "null":
                    return None
                case "bool" | "int" | "float":
                    return getattr(self.scalars, f"construct_yaml_{kind}")(node)  # type: ignore[no-any-return]
                case "str" | "timestamp" if "\0" not in node.value:
                    return str(node.value)
                case "str":
                    self.error("text with a NUL byte", node, key, "no program can be given one")
                    return None
        except (ValueError, KeyError):
            self.error(f"{node.value[:40]!r} is no {kind}", node, key, "put it in quotes if it is text")
            return None
        self.error(f"the tag {tag!r} is not supported", node, key, "give plain text, numbers, lists and mappings")
        return None
