"""What a result says in sentences: each finding and caution has one, filled with its values."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TypeAlias

from hybrid import capabilities
from hybrid.driver import Kind
from hybrid.metrics import BY_KEY
from hybrid.report.figures import figure, percent, printable, times, times_range
from hybrid.result import Answer, Caution, Cell, Finding, Question, Result, Scalar
from hybrid.stats import Interval

QUESTIONS: Mapping[Question, tuple[str, str]] = {
    Question.OS: ("OS", "Which kernel and which OS did each see?"),
    Question.BOOT: ("Boot time", "How long until the command is executed, and until it is ready?"),
    Question.RESOURCES: ("Resource usage", "What does the host pay for one instance?"),
    Question.ISOLATION: ("Isolation", "What stands between the command and the host?"),
    Question.PORTABILITY: ("Portability", "What was needed to run this image here?"),
}

_ABBREVIATE = 10
"""Lists longer than this are counted, not spelled out, where there is little room."""

_DIGEST = re.compile("sha256:[0-9a-f]{64}")

_MEASURED = {
    "boot": "the command executed after {}",
    "ready": "ready after {}",
    "cpu": "{} of CPU time until ready",
    "memory.pss": "{} of memory (PSS) at ready",
}


def label(result: Result, kind: Kind) -> str:
    """A kind as every table and sentence names it: a VM never without its accelerator."""
    each = result.kinds.get(kind)
    return f"{kind} ({each.accelerator})" if each is not None and each.accelerator else kind.value


def title(result: Result) -> str:
    """What was compared, in a few words."""
    return f"{printable(result.subject.name)}: {', '.join(label(result, kind) for kind in result.kinds)}"


def design(result: Result) -> str:
    """How it was run, in one line."""
    plan = result.plan
    runs = "1 run" if plan.runs == 1 else f"{plan.runs} runs"
    warmup = f" after {plan.warmup} to warm up" if plan.warmup else ""
    return f"{runs} of each{warmup}, in mixed order (seed {plan.seed})"


def machine(result: Result) -> str:
    """Where it was run, in one line."""
    here = result.machine
    virtual = f", itself virtual ({here.virtual})" if here.virtual else ""
    return printable(
        f"{here.cpu}, {here.cores} cores, {here.memory_bytes / 2**30:.0f} GiB{virtual}; {here.os_name}, "
        f"Linux {here.kernel}, cgroups {here.cgroups}; load {result.before.average:.2f} before, "
        f"{result.after.average:.2f} after"
    )


def readiness(result: Result) -> str:
    """What `ready` means in this result."""
    if result.subject.healthcheck:
        return f"ready: the healthcheck ({printable(' '.join(result.subject.healthcheck))}) passed for the first time"
    return "ready: the command was executed; the spec has no healthcheck"


def cell(value: Cell, unit: str = "", *, brief: bool = False) -> str:
    """One cell of an answer's table; `brief` counts a long list where there is no room to spell it out."""
    match value:
        case None:
            return "–"  # noqa: RUF001
        case bool():
            return "yes" if value else "no"
        case int() | float():
            return figure(value, unit) if unit else f"{value:g}"
        case str():
            return printable(value[:15] + "…" if brief and _DIGEST.fullmatch(value) else value)
        case _ if not value:
            return "none"
        case _ if len(value) > _ABBREVIATE and value == capabilities.names((1 << len(value)) - 1):
            return f"all {len(value)}"
        case _ if brief and len(value) > _ABBREVIATE:
            return f"{len(value)}"
        case _:
            return printable(", ".join(value))


def finding(result: Result, found: Finding) -> str:
    """The sentence for a finding."""
    name = label(result, found.kind)
    baseline = label(result, found.baseline) if found.baseline is not None else ""
    return printable(_FINDINGS[found.code](name, baseline, found.values))


def findings(result: Result, answer: Answer) -> list[str]:
    """The sentences of an answer; one that says so when there are none."""
    return [finding(result, found) for found in answer.findings] or ["Nothing was measured that answers this."]


def caution(result: Result, found: Caution) -> str:
    """The sentence for a caution."""
    name = label(result, found.kind) if found.kind is not None else ""
    title = BY_KEY[found.metric].title if found.metric else ""
    return printable(_CAUTIONS[found.code](name, title, found.values))


def skipped(result: Result) -> list[str]:
    """Which kinds are missing from the comparison, and why."""
    return [
        printable(f"{kind} is missing here: {problem.what}. To mend it: {problem.mend}")
        for kind, problems in result.skipped.items()
        for problem in problems
    ]


Values: TypeAlias = Mapping[str, Scalar]


def _measured(name: str, _baseline: str, values: Values) -> str:
    key = str(values["metric"])
    return f"{name}: {_MEASURED[key].format(figure(float(values['value']), BY_KEY[key].unit))}."


def _differs(name: str, baseline: str, values: Values) -> str:
    interval = Interval(float(values["low"]), float(values["high"]))
    measured = _measured(name, baseline, values).rstrip(".")
    return f"{measured}, {times(float(values['ratio']))} ({times_range(interval)}) that of {baseline}."


def _undecided(name: str, baseline: str, values: Values) -> str:
    measured = _measured(name, baseline, values).rstrip(".")
    if "low" not in values:
        return f"{measured}; too few runs to hold it against {baseline}."
    interval = Interval(float(values["low"]), float(values["high"]))
    ratio = f"{times(float(values['ratio']))}, {times_range(interval)}"
    return f"{measured}; these runs show no difference from {baseline} ({ratio})."


def _own_kernel(name: str, _baseline: str, values: Values) -> str:
    engine = values.get("engine")
    confined = [f"{key[7:]} {cell(value)}" for key, value in values.items() if key.startswith("engine.")]
    behind = f" On the host {engine} runs it, with {', '.join(confined)}." if engine else ""
    return (
        f"{name}: the command talks to a kernel of its own, whose boot_id is not the host's; "
        f"its root, capabilities and seccomp are that kernel's.{behind}"
    )


def _shared_kernel(name: str, _baseline: str, values: Values) -> str:
    privileges = "no_new_privs" if values["no_new_privs"] else "privileges to be gained by setuid"
    own = "1 namespace" if values["namespaces"] == 1 else f"{values['namespaces']} namespaces"
    return (
        f"{name}: the command talks to the host's own kernel, from {own} of its own, with {values['capabilities']} of "
        f"{values['of']} capabilities, seccomp {values['seccomp']} and {privileges}; root inside is {values['root']}."
    )


def _not_isolated(name: str, _baseline: str, values: Values) -> str:
    return (
        f"{name}: nothing isolates the command; it has the host's kernel, every namespace of the host and "
        f"{values['capabilities']} of {values['of']} capabilities."
    )


def _short(values: Values) -> str:
    return f"{str(values['digest'])[:15]}…"


_FINDINGS: Mapping[str, Callable[[str, str, Values], str]] = {
    "kernel-shared": lambda name, _, v: f"{name} ran on the host's own kernel, {v['release']}: one boot_id for both.",
    "kernel-own": lambda name, _, v: f"{name} ran on a kernel of its own, {v['release']}; the host's is {v['host']}.",
    "differs": _differs,
    "undecided": _undecided,
    "emulated": lambda name, *_: f"{name} was emulated: none of this says what a VM costs under KVM.",
    "behind-own-kernel": _own_kernel,
    "on-shared-kernel": _shared_kernel,
    "not-isolated": _not_isolated,
    "measured": _measured,
    "ran": lambda name, _, v: f"{name} ran {_short(v)}, measured {v['count']} times.",
    "never-ran": lambda name, _, v: f"{name}: no run of {_short(v)} was measured.",
}

_CAUTIONS: Mapping[str, Callable[[str, str, Values], str]] = {
    "gave-up": lambda name, *_: f"{name} was given up after failing twice in a row.",
    "failed": lambda name, _, v: (
        f"{name}: {v['count']} failed, the first in phase {v['phase']}: {v['what']}"
        + (f". To mend it: {v['mend']}" if v["mend"] else "")
    ),
    "tcg": lambda name, *_: f"{name} was emulated: its figures say nothing about a VM under KVM.",
    "driver": lambda name, _, v: f"{name}: {v['what']}. To mend it: {v['mend']}",
    "ended": lambda name, _, v: (
        f"{name}: in {v['count']} of {v['of']} runs the command ended by itself, so there was less to look at."
    ),
    "killed": lambda name, _, v: (
        f"{name}: in {v['count']} of {v['of']} runs the command did not end on its stop signal and was killed after "
        "its grace period; those have no figure for stop."
    ),
    "exit-code": lambda name, _, v: f"{name}: the command ended with exit code {v['code']} in {v['count']} runs.",
    "few-runs": lambda name, _, v: (
        f"{name}: {v['count']} runs cannot carry a 95 % interval of a median; take at least {v['enough']}."
    ),
    "busy": lambda _n, _m, v: (
        f"the machine was busy before the first run: load {float(v['average']):.2f} on {v['cores']} cores."
    ),
    "stolen": lambda _n, _m, v: (
        f"the hypervisor below withheld {float(v['share']) * 100:.1f} % of this machine's CPU time."
    ),
    "outliers": lambda name, metric, v: (
        f"{name}: {v['count']} of {v['of']} values of {metric} lie far from the rest; they are flagged and kept."
    ),
    "drift": lambda name, metric, v: (
        f"{name}: {metric} drifted, {percent(float(v['shift']) - 1)} from the first half of the runs to the second."
    ),
}
