"""The five answers come from what was seen: change what was seen, and they change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from hybrid import answers, capabilities
from hybrid.driver import Evidence, Kind
from hybrid.machine import Machine
from hybrid.result import Answer, Question, Result

Seen = Callable[[Kind], Evidence]


def asked(result: Result, kind: Kind, evidence: Evidence | None) -> dict[Question, Answer]:
    kinds = {**result.kinds, kind: replace(result.kinds[kind], evidence=evidence)}
    found = answers.answers(kinds, result.ratios, result.machine, result.subject.digest, result.subject.tree_bytes)
    return {answer.question: answer for answer in found}


def code(answer: Answer, kind: Kind) -> set[str]:
    return {finding.code for finding in answer.findings if finding.kind is kind}


def cells(answer: Answer, kind: Kind) -> dict[str, object]:
    return {row.name: row.cells[kind] for row in answer.rows}


def test_all_five_are_answered_in_order(result: Result) -> None:
    assert [answer.question for answer in result.answers] == list(Question)


def test_the_kernel_is_shared_if_and_only_if_the_boot_id_is(result: Result, seen: Seen, host: Machine) -> None:
    for boot_id, expected in ((host.boot_id, "kernel-shared"), ("another", "kernel-own")):
        found = asked(result, Kind.VM, replace(seen(Kind.VM), boot_id=boot_id))
        assert code(found[Question.OS], Kind.VM) == {expected}


def test_one_own_namespace_is_some_isolation(result: Result, seen: Seen) -> None:
    bare = seen(Kind.HOST)
    assert code(asked(result, Kind.HOST, bare)[Question.ISOLATION], Kind.HOST) == {"not-isolated"}
    apart = replace(bare, namespaces={**bare.namespaces, "mnt": "mnt:[1]"})
    answer = asked(result, Kind.HOST, apart)[Question.ISOLATION]
    assert code(answer, Kind.HOST) == {"on-shared-kernel"}
    assert cells(answer, Kind.HOST)["namespaces of its own"] == ("mnt",)
    assert "mnt" not in str(cells(answer, Kind.HOST)["namespaces of the host"])


def test_what_children_would_get_is_left_out(result: Result, seen: Seen) -> None:
    more = replace(seen(Kind.CONTAINER), namespaces={"pid": "pid:[1]", "pid_for_children": "pid:[2]"})
    answer = asked(result, Kind.CONTAINER, more)[Question.ISOLATION]
    assert cells(answer, Kind.CONTAINER)["namespaces of its own"] == ("pid",)


@pytest.mark.parametrize(
    ("uid_map", "uid"),
    [
        ("0 100000 65536", 100000),
        ("         0          0 4294967295", 0),
        ("5 100 1\n0 7 1", 7),
        ("1 0 1", None),
        ("", None),
    ],
)
def test_root_is_looked_up_in_the_map(uid_map: str, uid: int | None) -> None:
    assert answers.host_uid_of_root(uid_map) == uid


def test_capabilities_are_kept_or_dropped(result: Result, seen: Seen, host: Machine) -> None:
    answer = asked(result, Kind.CONTAINER, seen(Kind.CONTAINER))[Question.ISOLATION]
    found = cells(answer, Kind.CONTAINER)
    kept, dropped = found["capabilities kept"], found["capabilities dropped"]
    assert isinstance(kept, tuple) and isinstance(dropped, tuple)
    assert "CHOWN" in kept and "SYS_ADMIN" in dropped
    assert set(kept) | set(dropped) == set(capabilities.names(host.capabilities))
    assert not set(kept) & set(dropped)


@pytest.mark.parametrize(("mode", "name"), [(0, "none"), (1, "strict"), (2, "filter"), (9, "9")])
def test_seccomp_is_named(result: Result, seen: Seen, mode: int, name: str) -> None:
    answer = asked(result, Kind.CONTAINER, replace(seen(Kind.CONTAINER), seccomp=mode))[Question.ISOLATION]
    assert cells(answer, Kind.CONTAINER)["seccomp"] == name


def test_what_confines_the_engine_is_read(result: Result) -> None:
    found = cells(result.answers[3], Kind.VM)
    assert found["qemu on the host: seccomp"] == "filter"
    assert found["qemu on the host: no_new_privs"] is True
    assert found["qemu on the host: capabilities"] == ()
    assert cells(result.answers[3], Kind.CONTAINER)["qemu on the host: seccomp"] is None


def test_nothing_seen_is_nothing_said(result: Result) -> None:
    found = asked(result, Kind.VM, None)
    assert code(found[Question.OS], Kind.VM) == set()
    assert code(found[Question.ISOLATION], Kind.VM) == set()
    assert set(cells(found[Question.ISOLATION], Kind.VM).values()) == {None}
    unseen = {kind: replace(each, evidence=None) for kind, each in result.kinds.items()}
    for answer in answers.answers(unseen, (), result.machine, "", 0):
        assert answer.question not in (Question.OS, Question.ISOLATION) or answer.rows == ()


def test_emulation_is_said_where_figures_are(result: Result) -> None:
    for question in (1, 2):
        assert "emulated" in code(result.answers[question], Kind.VM)
    kvm = {**result.kinds, Kind.VM: replace(result.kinds[Kind.VM], accelerator="kvm")}
    found = answers.answers(kvm, result.ratios, result.machine, "", 0)
    assert not any("emulated" in code(answer, Kind.VM) for answer in found)


def test_an_undecided_ratio_is_no_difference(result: Result) -> None:
    ratios = [replace(each, decides=False) for each in result.ratios]
    found = answers.answers(result.kinds, ratios, result.machine, "", 0)
    assert "differs" not in {finding.code for answer in found for finding in answer.findings}


def test_capability_names() -> None:
    assert capabilities.names(0) == ()
    assert capabilities.names(0b1) == ("CHOWN",)
    assert capabilities.names(1 << 21) == ("SYS_ADMIN",)
    assert capabilities.names(1 << 40) == ("CHECKPOINT_RESTORE",)
    assert capabilities.names(1 << 50) == ("50",)
