"""The part of Go's templates that people use in `--format`, said in full by this grammar:

    {{.}}  {{.Name}}  {{.State.Status}}      a value, by its path
    {{json X}} {{upper X}} {{lower X}} {{len X}} {{join X ","}} {{index X "key"}}    functions; also {{X | json}}
    {{if X}}…{{else}}…{{end}}  {{range X}}…{{else}}…{{end}}  {{with X}}…{{end}}      blocks

X is a path or a text in quotes. Anything else, and a path that leads nowhere, is an error that says so.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from hybrid.errors import HybridError

_ACTION = re.compile(r"\{\{(-\s)?(.*?)(\s-)?\}\}", re.DOTALL)
_TOKEN = re.compile(r'\s*(?:(\.[\w.]*)|("(?:[^"\\]|\\.)*")|(`[^`]*`)|(-?[0-9]+)|(\w+)|(\|))')


class Open(dict[str, Any]):
    """A mapping whose keys are a user's own: one that is not there has no value, which is no mistake."""


@dataclass(frozen=True, slots=True)
class _Call:
    """A function and its arguments; `last` is the result of the call before it in a pipe."""

    name: str
    arguments: tuple[_Operand, ...]


@dataclass(frozen=True, slots=True)
class _Path:
    names: tuple[str, ...]


_Operand: TypeAlias = "_Path | str | int"
_Pipe: TypeAlias = "tuple[_Call | _Operand, ...]"


@dataclass(frozen=True, slots=True)
class _Block:
    """`if`, `range` or `with`, and what it holds."""

    word: str
    pipe: _Pipe
    body: tuple[_Node, ...]
    otherwise: tuple[_Node, ...]


@dataclass(frozen=True, slots=True)
class _Show:
    pipe: _Pipe


_Node: TypeAlias = "str | _Show | _Block"


class Template:
    """A template, parsed; HybridError when it is none."""

    def __init__(self, text: str) -> None:
        pieces = list(_pieces(text))
        self._nodes, rest = _parse(pieces, 0, text)
        if rest < len(pieces):
            raise _bad(text, f"{{{{{pieces[rest][1]}}}}} closes nothing")

    def render(self, data: Any) -> str:
        """The text for one object; HybridError when a path leads nowhere in it."""
        return "".join(_render(self._nodes, data, FUNCTIONS))

    def headings(self, names: Mapping[str, str]) -> str:
        """What stands above the column of each field."""
        identity: dict[str, _Function] = {name: lambda value, *_: value for name in FUNCTIONS}
        return "".join(_render(self._nodes, names, identity))


# ---- parsing -----------------------------------------------------------------------------


def _pieces(text: str) -> Iterator[tuple[bool, str]]:
    """Text and actions in turn: whether it is an action, and what it says."""
    end, trim = 0, False
    for match in _ACTION.finditer(text):
        before = text[end : match.start()]
        before = before.lstrip() if trim else before
        yield False, before.rstrip() if match[1] else before
        yield True, match[2].strip()
        end, trim = match.end(), bool(match[3])
    rest = text[end:].lstrip() if trim else text[end:]
    if "{{" in rest:
        raise _bad(text, "{{ is not closed")
    yield False, rest


def _parse(pieces: Sequence[tuple[bool, str]], at: int, text: str) -> tuple[tuple[_Node, ...], int]:
    """The nodes from `at` to the end, or to an `else` or `end` of the block around; where that is."""
    nodes: list[_Node] = []
    while at < len(pieces):
        action, said = pieces[at]
        word = said.split(None, 1)[0] if action and said else ""
        if not action:
            nodes += [said] if said else []
        elif word in ("end", "else"):
            break
        elif word in ("if", "range", "with"):
            block, at = _block(pieces, at, text)
            nodes.append(block)
        else:
            nodes.append(_Show(_pipe(said, text)))
        at += 1
    return tuple(nodes), at


def _block(pieces: Sequence[tuple[bool, str]], at: int, text: str) -> tuple[_Block, int]:
    word, _, said = pieces[at][1].partition(" ")
    body, at = _parse(pieces, at + 1, text)
    otherwise: tuple[_Node, ...] = ()
    if at < len(pieces) and pieces[at][1].split() == ["else"]:
        otherwise, at = _parse(pieces, at + 1, text)
    if at >= len(pieces) or pieces[at][1] != "end":
        raise _bad(text, f"{{{{{word}}}}} has no {{{{end}}}}")
    return _Block(word, _pipe(said, text), body, otherwise), at


def _pipe(said: str, text: str) -> _Pipe:
    stages: list[list[_Path | str | int | _Name]] = [[]]
    for token in _tokens(said, text):
        if token == _BAR:
            stages.append([])
        else:
            stages[-1].append(token)
    found: list[_Call | _Operand] = []
    for number, stage in enumerate(stages):
        match stage:
            case [_Name(name), *arguments] if not any(isinstance(each, _Name) for each in arguments):
                if name not in FUNCTIONS:
                    raise _bad(text, f"{name} is no function", f"there are {', '.join(FUNCTIONS)}")
                found.append(_Call(name, tuple(arguments)))  # type: ignore[arg-type]
            case [operand] if number == 0 and not isinstance(operand, _Name):
                found.append(operand)
            case _:
                raise _bad(text, f"{{{{{said}}}}} is not understood")
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _Name:
    text: str


_BAR = _Name("|")


def _tokens(said: str, text: str) -> Iterator[_Path | str | int | _Name]:
    end = 0
    while end < len(said):
        match = _TOKEN.match(said, end)
        if match is None:
            raise _bad(text, f"{{{{{said}}}}} is not understood")
        path, quoted, plain, number, name, bar = match.groups()
        if path is not None:
            yield _Path(tuple(part for part in path.split(".") if part))
        elif quoted is not None:
            yield str(json.loads(quoted))
        elif plain is not None:
            yield plain[1:-1]
        elif number is not None:
            yield int(number)
        else:
            yield _BAR if bar else _Name(name)
        end = match.end()


def _bad(text: str, what: str, mend: str = "") -> HybridError:
    return HybridError(f"the format {text!r}: {what}", mend=mend or "write {{.Field}}, {{json .Field}} and the like")


# ---- rendering ---------------------------------------------------------------------------

_Function: TypeAlias = Callable[..., Any]


def _render(nodes: Sequence[_Node], data: Any, functions: Mapping[str, _Function]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, str):
            yield node
        elif isinstance(node, _Show):
            yield shown(_value(node.pipe, data, functions))
        else:
            yield from _render_block(node, data, functions)


def _render_block(block: _Block, data: Any, functions: Mapping[str, _Function]) -> Iterator[str]:
    value = _value(block.pipe, data, functions)
    if not value:
        yield from _render(block.otherwise, data, functions)
    elif block.word != "range":
        yield from _render(block.body, value if block.word == "with" else data, functions)
    else:
        if not isinstance(value, list | tuple | dict):
            raise HybridError(f"range goes over a list or a mapping, not {shown(value)!r}")
        for each in [value[key] for key in sorted(value)] if isinstance(value, dict) else value:
            yield from _render(block.body, each, functions)


def _value(pipe: _Pipe, data: Any, functions: Mapping[str, _Function]) -> Any:
    value: Any = None
    for number, stage in enumerate(pipe):
        if isinstance(stage, _Call):
            arguments = [_look_up(each, data) for each in stage.arguments] + ([value] if number else [])
            try:
                value = functions[stage.name](*arguments)
            except (TypeError, LookupError, AttributeError):
                raise HybridError(f"the function {stage.name} does not go with what it is given") from None
        else:
            value = _look_up(stage, data)
    return value


def _look_up(operand: _Operand, data: Any) -> Any:
    if not isinstance(operand, _Path):
        return operand
    for name in operand.names:
        if not isinstance(data, dict):
            raise HybridError(f"there is no .{name} in {shown(data)!r}")
        if name not in data and not isinstance(data, Open):
            near = difflib.get_close_matches(name, data, n=1, cutoff=0.5)
            known = f"did you mean .{near[0]}?" if near else f"there are {', '.join(f'.{each}' for each in data)}"
            raise HybridError(f"there is no field .{'.'.join(operand.names)}", mend=known)
        data = data.get(name)
    return data


def shown(value: Any) -> str:
    """A value as Go prints it."""
    match value:
        case None:
            return "<no value>"
        case bool():
            return "true" if value else "false"
        case dict():
            return f"map[{' '.join(f'{key}:{shown(each)}' for key, each in sorted(value.items()))}]"
        case list() | tuple():
            return f"[{' '.join(map(shown, value))}]"
        case _:
            return str(value)


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, Open) else value[key]
    return value


def _join(values: Sequence[Any], separator: str) -> str:
    return separator.join(map(shown, values))


FUNCTIONS: Mapping[str, _Function] = {
    "json": lambda value: json.dumps(value, separators=(",", ":"), ensure_ascii=False),
    "upper": lambda value: str(value).upper(),
    "lower": lambda value: str(value).lower(),
    "len": len,
    "join": _join,
    "index": _index,
    "println": lambda *values: " ".join(map(shown, values)) + "\n",
}
