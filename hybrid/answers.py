"""The five questions, answered from what was measured here and from nothing else.

Values only: which sentence a finding becomes, and how a cell reads, is the report's to say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from hybrid import capabilities
from hybrid.driver import Evidence, Kind
from hybrid.machine import Machine
from hybrid.metrics import BY_KEY
from hybrid.result import Answer, Cell, Comparison, Finding, KindResult, Question, Row, Scalar

Kinds = Mapping[Kind, KindResult]

RESOURCES = ("cpu", "memory.pss", "memory.private", "disk")

_PROPERTIES = {"Uid": "uid", "CapEff": "capabilities", "NoNewPrivs": "no_new_privs", "Seccomp": "seccomp"}
"""Lines of /proc/PID/status by the names that they have in the answers."""

_SECCOMP = {0: "none", 1: "strict", 2: "filter"}


def answers(
    kinds: Kinds, ratios: Sequence[Comparison], machine: Machine, digest: str, tree_bytes: int
) -> tuple[Answer, ...]:
    """The answers, in the order in which they are asked. What was seen of no kind has no row."""
    boot = (*_differences(kinds, ratios, _last_reached(kinds)), *_emulated(kinds))
    resources = (*_differences(kinds, ratios, ("cpu", "memory.pss")), *_emulated(kinds))
    return (
        _answer(Question.OS, _os_rows(kinds), _os_findings(kinds, machine)),
        _answer(Question.BOOT, _metric_rows(kinds, ("boot", "ready")), boot),
        _answer(Question.RESOURCES, (*_metric_rows(kinds, RESOURCES), *_disk_rows(kinds, tree_bytes)), resources),
        _answer(Question.ISOLATION, _isolation_rows(kinds, machine), _isolation_findings(kinds, machine)),
        _answer(Question.PORTABILITY, _portability_rows(kinds, digest), _portability_findings(kinds, digest)),
    )


def _answer(question: Question, rows: Iterable[Row], findings: Iterable[Finding]) -> Answer:
    seen = (row for row in rows if any(cell is not None for cell in row.cells.values()))
    return Answer(question, tuple(seen), tuple(findings))


def shares_kernel(evidence: Evidence, machine: Machine) -> bool:
    """Whether the instance ran on this host's own kernel: its boot identifier is never used twice."""
    return evidence.boot_id == machine.boot_id


def own_namespaces(evidence: Evidence, machine: Machine) -> tuple[str, ...]:
    """The namespaces of the instance that are not the host's; all of them under another kernel."""
    host = machine.namespaces if shares_kernel(evidence, machine) else {}
    return tuple(name for name in _namespaces(evidence) if host.get(name) != evidence.namespaces[name])


def _namespaces(evidence: Evidence) -> tuple[str, ...]:
    """Those the command lives in; what its children would get is not its own."""
    return tuple(sorted(name for name in evidence.namespaces if not name.endswith("_for_children")))


def host_uid_of_root(uid_map: str) -> int | None:
    """The outside uid that uid 0 inside is, from a /proc/PID/uid_map; None when it is mapped to none."""
    for line in uid_map.splitlines():
        fields = line.split()
        if len(fields) == 3 and fields[0] == "0" and int(fields[2]) > 0:
            return int(fields[1])
    return None


def _row(name: str, kinds: Kinds, read: Callable[[Evidence], Cell]) -> Row:
    return Row(name, {kind: None if each.evidence is None else read(each.evidence) for kind, each in kinds.items()})


def _os_rows(kinds: Kinds) -> Iterator[Row]:
    yield _row("kernel it saw", kinds, lambda seen: seen.kernel_release)
    yield _row("OS it saw", kinds, lambda seen: seen.os_name or "no os-release in the image")


def _os_findings(kinds: Kinds, machine: Machine) -> Iterator[Finding]:
    for kind, seen in _seen(kinds):
        code = "kernel-shared" if shares_kernel(seen, machine) else "kernel-own"
        yield Finding(code, kind, values={"release": seen.kernel_release, "host": machine.kernel})


def _metric_rows(kinds: Kinds, keys: Sequence[str]) -> Iterator[Row]:
    for key in keys:
        medians = {kind: each.metrics[key].median if key in each.metrics else None for kind, each in kinds.items()}
        yield Row(BY_KEY[key].title, medians, unit=BY_KEY[key].unit)


def _disk_rows(kinds: Kinds, tree_bytes: int) -> Iterator[Row]:
    yield Row("disk, image, shared", {kind: tree_bytes for kind in kinds}, unit="B")
    yield Row("disk, made from it, shared", {kind: each.prepare_bytes for kind, each in kinds.items()}, unit="B")


def _last_reached(kinds: Kinds) -> tuple[str, ...]:
    """`ready` where every kind has it, as the user waits for that; else the execution of the command."""
    return ("ready",) if all("ready" in each.metrics for each in kinds.values()) else ("boot",)


def _differences(kinds: Kinds, ratios: Sequence[Comparison], metrics: Sequence[str]) -> Iterator[Finding]:
    """What each metric says of neighbouring kinds; of the barest kind, its own figure."""
    present = [kind for kind in Kind if kind in kinds]
    for key in metrics:
        for baseline, kind in zip([None, *present[:-1]], present, strict=True):
            if key in kinds[kind].metrics:
                values: dict[str, Scalar] = {"metric": key, "value": kinds[kind].metrics[key].median}
                found = next((r for r in ratios if (r.metric, r.kind, r.baseline) == (key, kind, baseline)), None)
                if found is None:
                    yield Finding("measured", kind, values=values)
                else:
                    yield Finding("differs" if found.decides else "undecided", kind, baseline, values | _ratio(found))


def _ratio(found: Comparison) -> dict[str, Scalar]:
    interval = found.ratio.interval
    bounds: dict[str, Scalar] = {} if interval is None else {"low": interval.low, "high": interval.high}
    return {"ratio": found.ratio.value, **bounds}


def _emulated(kinds: Kinds) -> Iterator[Finding]:
    for kind, each in kinds.items():
        if each.accelerator == "tcg" and each.measured:
            yield Finding("emulated", kind)


def _isolation_rows(kinds: Kinds, machine: Machine) -> Iterator[Row]:
    yield _row("host's kernel shared", kinds, lambda seen: shares_kernel(seen, machine))
    yield _row("namespaces of its own", kinds, lambda seen: own_namespaces(seen, machine))
    yield _row("namespaces of the host", kinds, lambda seen: _host_namespaces(seen, machine))
    yield _row("root inside is", kinds, lambda seen: _root(seen, machine))
    yield _row("capabilities kept", kinds, lambda seen: capabilities.names(seen.capabilities))
    yield _row("capabilities dropped", kinds, lambda seen: _dropped(seen, machine))
    yield _row("seccomp", kinds, lambda seen: _SECCOMP.get(seen.seccomp, str(seen.seccomp)))
    yield _row("no_new_privs", kinds, lambda seen: seen.no_new_privs)
    for engine, name in _engine_properties(kinds):
        yield _row(f"{engine} on the host: {_PROPERTIES.get(name, name)}", kinds, _engine_value(engine, name))


def _host_namespaces(seen: Evidence, machine: Machine) -> tuple[str, ...]:
    return tuple(name for name in _namespaces(seen) if name not in own_namespaces(seen, machine))


def _root(seen: Evidence, machine: Machine) -> str:
    uid = host_uid_of_root(seen.uid_map)
    if uid is None:
        return "no user outside"
    whose = "the host" if shares_kernel(seen, machine) else "its own kernel"
    return f"root of {whose}" if uid == 0 else f"uid {uid} of {whose}"


def _dropped(seen: Evidence, machine: Machine) -> tuple[str, ...]:
    return capabilities.names(machine.capabilities & ~seen.capabilities)


def _engine_properties(kinds: Kinds) -> list[tuple[str, str]]:
    found: dict[tuple[str, str], None] = {}
    for _kind, seen in _seen(kinds):
        for engine, properties in seen.host_processes.items():
            found.update(dict.fromkeys((engine, name) for name in properties))
    return list(found)


def _engine_value(engine: str, name: str) -> Callable[[Evidence], Cell]:
    def read(seen: Evidence) -> Cell:
        value = seen.host_processes.get(engine, {}).get(name)
        return None if value is None else _property(name, value)

    return read


def _property(name: str, value: str) -> Cell:
    """What a line of /proc/PID/status means; any other property as the driver said it."""
    match name:
        case "CapEff":
            return capabilities.names(int(value, 16))
        case "NoNewPrivs":
            return value == "1"
        case "Seccomp" if value.isdecimal():
            return _SECCOMP.get(int(value), value)
        case _:
            return value


def _said(name: str, value: str) -> Scalar:
    """The same, small enough for a sentence: how many capabilities, not which."""
    found = _property(name, value)
    return len(found) if isinstance(found, tuple) else "unknown" if found is None else found


def _isolation_findings(kinds: Kinds, machine: Machine) -> Iterator[Finding]:
    for kind, seen in _seen(kinds):
        values: dict[str, Scalar] = {
            "namespaces": len(own_namespaces(seen, machine)),
            "capabilities": seen.capabilities.bit_count(),
            "of": machine.capabilities.bit_count(),
            "seccomp": _SECCOMP.get(seen.seccomp, str(seen.seccomp)),
            "no_new_privs": seen.no_new_privs,
            "root": _root(seen, machine),
        }
        if not shares_kernel(seen, machine):
            for engine, properties in seen.host_processes.items():
                values["engine"] = engine
                values |= {f"engine.{_PROPERTIES.get(key, key)}": _said(key, properties[key]) for key in properties}
            yield Finding("behind-own-kernel", kind, values=values)
        elif not own_namespaces(seen, machine):
            yield Finding("not-isolated", kind, values=values)
        else:
            yield Finding("on-shared-kernel", kind, values=values)


def _portability_rows(kinds: Kinds, digest: str) -> Iterator[Row]:
    yield Row("image", dict.fromkeys(kinds, digest))
    names = dict.fromkeys(name for each in kinds.values() for name in each.facts)
    for name in names:
        yield Row(name, {kind: each.facts.get(name) for kind, each in kinds.items()})


def _portability_findings(kinds: Kinds, digest: str) -> Iterator[Finding]:
    for kind, each in kinds.items():
        yield Finding("ran" if each.measured else "never-ran", kind, values={"count": each.measured, "digest": digest})


def _seen(kinds: Kinds) -> Iterator[tuple[Kind, Evidence]]:
    for kind, each in kinds.items():
        if each.evidence is not None:
            yield kind, each.evidence
