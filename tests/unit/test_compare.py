"""A comparison interleaves, keeps every sample, survives failures and interrupts, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from hybrid import result as results
from hybrid.compare import Progress, Settings, choose, compare, order, result_directory, turns
from hybrid.driver import Kind, Problem
from hybrid.errors import CommandError, HostError, HybridError
from hybrid.home import Home
from hybrid.image import Image
from hybrid.result import Result
from hybrid.spec import Spec

Scripted = Callable[..., tuple[Any, Any]]

NO_KVM = Problem("libvirt is not installed", "apt-get install libvirt-daemon")


@pytest.fixture
def run(image: Image, tmp_path: Path) -> Callable[..., tuple[Result, int | None]]:
    def run(
        drivers: Mapping[Kind, Any], *, spec: Spec | None = None, watch: Any = lambda _: None, **settings: Any
    ) -> tuple[Result, int | None]:
        return compare(
            spec or Spec(image="test"), image, 1.5, drivers, Home(tmp_path / "home", tmp_path / "run"),
            tmp_path, Settings(**({"runs": 6, "warmup": 1, "seed": 1} | settings)), watch=watch,
        )  # fmt: skip

    return run


@pytest.fixture
def both(scripted: Scripted) -> tuple[dict[Kind, Any], dict[Kind, Any]]:
    made = {kind: scripted(kind) for kind in (Kind.CONTAINER, Kind.VM)}
    return {kind: driver for kind, (driver, _) in made.items()}, {kind: script for kind, (_, script) in made.items()}


def samples(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "samples.jsonl").read_text().splitlines()]


def test_every_block_holds_every_kind_once() -> None:
    blocks = order(tuple(Kind), 50, 2, seed=3)
    assert len(blocks) == 52
    assert all(sorted(block) == sorted(Kind) for block in blocks)
    assert len(set(blocks)) > 1
    assert blocks == order(tuple(Kind), 50, 2, seed=3)


def test_turns_count_warm_up_apart() -> None:
    taken = list(turns(order(tuple(Kind), 2, 1, seed=0), 1))
    assert [turn.number for turn in taken] == list(range(1, 10))
    assert [turn.block for turn in taken] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert [turn.warmup for turn in taken] == [True] * 3 + [False] * 6


def test_a_whole_comparison(run: Any, both: Any, tmp_path: Path) -> None:
    drivers, scripts = both
    result, interrupted = run(drivers)
    assert interrupted is None and not result.interrupted
    kept = samples(tmp_path)
    assert Counter(each["turn"]["kind"] for each in kept) == {"container": 7, "vm": 7}
    assert sum(each["turn"]["warmup"] for each in kept) == 2
    for kind, script in scripts.items():
        assert (script.prepared, len(script.created), script.alive) == (1, 7, set())
        assert result.kinds[kind].measured == 6
    boot = result.ratio("boot", Kind.VM, Kind.CONTAINER)
    assert boot is not None and boot.decides
    assert boot.ratio.value == pytest.approx(1850 / 30)
    assert result.kinds[Kind.VM].metrics["phase.kernel"].median == pytest.approx(0.9)
    assert "phase.kernel" not in result.kinds[Kind.CONTAINER].metrics
    assert result.subject.image_seconds == 1.5


def test_the_result_is_read_back_as_it_was(run: Any, both: Any, tmp_path: Path) -> None:
    result, _ = run(both[0])
    again = results.load(tmp_path / "result.json")
    assert again == result
    assert again.to_json() == result.to_json()
    assert json.loads(result.to_json())["schema"] == results.SCHEMA


def test_a_result_of_another_shape_is_refused(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text('{"schema": "hybrid.compare/99"}')
    with pytest.raises(HybridError, match="99"):
        results.load(tmp_path / "result.json")


def test_the_schema_is_published() -> None:
    assert "subject" in results.schema()["properties"]


def test_a_failing_trial_is_counted_and_the_rest_goes_on(run: Any, scripted: Scripted, tmp_path: Path) -> None:
    driver, script = scripted(Kind.CONTAINER)

    def fail_once(step: str) -> None:
        if step == "ready" and len(script.created) == 4:
            raise HybridError("it broke once")

    script.at = fail_once
    result, _ = run({Kind.CONTAINER: driver})
    assert result.kinds[Kind.CONTAINER].measured == 5
    assert [each.what for each in result.kinds[Kind.CONTAINER].failures] == ["it broke once"]
    assert len(samples(tmp_path)) == 7
    assert "failed" in {each.code for each in result.warnings}


def test_a_hopeless_kind_is_given_up(run: Any, scripted: Scripted, broken: HybridError) -> None:
    good, _ = scripted(Kind.CONTAINER)
    bad, script = scripted(Kind.VM, fail={"ready": broken})
    result, _ = run({Kind.CONTAINER: good, Kind.VM: bad})
    assert len(script.created) == 2 and script.alive == set()
    assert result.kinds[Kind.CONTAINER].measured == 6
    assert (result.kinds[Kind.VM].measured, result.ratios) == (0, ())
    assert result.warnings[0].code == "gave-up"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step", ["create", "start", "ready", "evidence", "destroy"])
def test_an_interrupt_keeps_what_was_measured(
    run: Any, scripted: Scripted, tmp_path: Path, step: str, number: signal.Signals
) -> None:
    driver, script = scripted(Kind.CONTAINER)

    def interrupt(name: str) -> None:
        if name == step and len(script.created) >= 3:
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), number)

    script.at = interrupt
    before = signal.getsignal(number)
    result, came = run({Kind.CONTAINER: driver})
    assert (came, result.interrupted, script.alive) == (number, True, set())
    assert signal.getsignal(number) is before
    assert result.kinds[Kind.CONTAINER].measured >= 1
    assert len(script.created) <= 4
    assert results.load(tmp_path / "result.json").interrupted


def test_an_interrupt_before_any_trial(run: Any, scripted: Scripted) -> None:
    driver, _ = scripted(Kind.CONTAINER)

    def interrupt(progress: Progress) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    result, came = run({Kind.CONTAINER: driver}, watch=interrupt)
    assert (came, result.kinds[Kind.CONTAINER].measured) == (signal.SIGINT, 0)


def test_a_command_that_is_not_in_the_image_runs_nothing(run: Any, both: Any) -> None:
    drivers, scripts = both
    with pytest.raises(CommandError) as caught:
        run(drivers, spec=Spec(image="test", command=("/bin/absent",)))
    assert caught.value.exit_code == 127
    assert all(script.prepared == 0 for script in scripts.values())


def test_a_kind_asked_for_by_name_must_run(scripted: Scripted) -> None:
    drivers = {Kind.CONTAINER: scripted(Kind.CONTAINER)[0], Kind.VM: scripted(Kind.VM, problems=(NO_KVM,))[0]}
    with pytest.raises(HostError, match="libvirt is not installed") as caught:
        choose(drivers, [Kind.CONTAINER, Kind.VM])
    assert "apt-get install libvirt-daemon" in caught.value.mend


def test_a_kind_not_asked_for_is_skipped_and_said(scripted: Scripted) -> None:
    drivers = {Kind.CONTAINER: scripted(Kind.CONTAINER)[0], Kind.VM: scripted(Kind.VM, problems=(NO_KVM,))[0]}
    usable, skipped = choose(drivers, None)
    assert (set(usable), skipped) == ({Kind.CONTAINER}, {Kind.VM: (NO_KVM,)})


def test_no_kind_at_all_is_an_error(scripted: Scripted) -> None:
    with pytest.raises(HostError):
        choose({Kind.VM: scripted(Kind.VM, problems=(NO_KVM,))[0]}, None)


def test_an_earlier_result_is_not_overwritten(tmp_path: Path) -> None:
    spec = Spec(image="test")
    assert result_directory(tmp_path / "new", spec) == tmp_path / "new"
    (tmp_path / "samples.jsonl").write_text("{}\n")
    with pytest.raises(HybridError, match="earlier result"):
        result_directory(tmp_path, spec)
    (tmp_path / "file").touch()
    with pytest.raises(HybridError, match="no result can be written here"):
        result_directory(tmp_path / "file/below", spec)


def test_drift_is_named(run: Any, scripted: Scripted) -> None:
    driver, _ = scripted(Kind.CONTAINER, extra=lambda number: 20 if number > 6 else 0)
    result, _ = run({Kind.CONTAINER: driver}, runs=10)
    drift = [each for each in result.warnings if each.code == "drift"]
    assert [each.metric for each in drift] == ["boot"]


def test_nothing_measured_leaves_no_file(run: Any, scripted: Scripted, broken: HybridError, tmp_path: Path) -> None:
    driver, _ = scripted(Kind.CONTAINER, fail={"prepare": broken})
    with pytest.raises(HybridError, match="it broke"):
        run({Kind.CONTAINER: driver})
    assert not (tmp_path / "samples.jsonl").exists()


def test_a_grace_period_is_no_figure(run: Any, scripted: Scripted) -> None:
    result, _ = run({Kind.CONTAINER: scripted(Kind.CONTAINER, exit_code=137)[0]})
    assert "phase.stop" not in result.kinds[Kind.CONTAINER].metrics
    assert result.kinds[Kind.CONTAINER].killed == 6
    assert "killed" in {each.code for each in result.warnings}
