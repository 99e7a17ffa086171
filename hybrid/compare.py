"""A comparison: the same image run as every kind, many times in mixed order, and what came of it.

Costs that are paid once (the image, what a kind makes of it) come first and stay apart. Then warm-up
trials, then blocks that hold every kind once in random order, so that whatever drifts on the machine
drifts for all. Every sample is on disk before the next trial starts.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from hybrid import answers, machine, noise
from hybrid.driver import Driver, Kind, Problem, Request
from hybrid.errors import HostError, HybridError
from hybrid.interrupt import Interrupts
from hybrid.marks import Marks
from hybrid.measure import Sample, Turn, trial
from hybrid.result import SCHEMA, KindResult, Plan, Result, Subject
from hybrid.samples import SAMPLES, sample_file
from hybrid.summary import comparisons, summarise

if TYPE_CHECKING:
    from hybrid.home import Home
    from hybrid.image import Image, Process
    from hybrid.spec import Spec

PATIENCE = 2
"""After so many failures in a row a kind is given up."""

Watch = Callable[["Progress"], None]


@dataclass(frozen=True, slots=True)
class Progress:
    """What is going on: preparing a kind (`total` 0), or trial `done` + 1 of `total`."""

    kind: Kind
    done: int = 0
    total: int = 0
    warmup: bool = False


@dataclass(frozen=True, slots=True)
class Settings:
    """What the caller may choose."""

    runs: int = 10
    warmup: int = 1
    seed: int | None = None
    """None draws one; it is recorded, and the same seed gives the same order."""
    timeout: float = 120.0
    """Seconds that each wait of a trial may take."""


def choose(
    drivers: Mapping[Kind, Driver], asked: Sequence[Kind] | None
) -> tuple[dict[Kind, Driver], dict[Kind, tuple[Problem, ...]]]:
    """The drivers to compare, and the kinds skipped with the reasons.

    A kind asked for by name that cannot run here is an error; so is when fewer than one is left.
    """
    kinds = tuple(dict.fromkeys(asked)) if asked else tuple(drivers)
    problems = {kind: tuple(drivers[kind].problems()) for kind in kinds}
    skipped = {kind: found for kind, found in problems.items() if found}
    usable = {kind: drivers[kind] for kind in Kind if kind in kinds and kind not in skipped}
    if skipped and (asked or not usable):
        kind, found = next(iter(skipped.items()))
        more = f" (and {len(found) - 1} more: `hybrid doctor`)" if len(found) > 1 else ""
        mend = f"{found[0].mend}; or leave {kind} out of --as" if asked and usable else found[0].mend
        raise HostError(f"this host cannot run a {kind}: {found[0].what}{more}", mend=mend)
    return usable, skipped


def order(kinds: Sequence[Kind], runs: int, warmup: int, seed: int) -> tuple[tuple[Kind, ...], ...]:
    """The blocks, warm-up first: each holds every kind once, in an order drawn from `seed`."""
    draw = random.Random(seed)
    return tuple(tuple(draw.sample(list(kinds), len(kinds))) for _ in range(warmup + runs))


def turns(blocks: Sequence[Sequence[Kind]], warmup: int) -> Iterator[Turn]:
    """Every trial of the blocks in its order; measured blocks count from 1."""
    number = 0
    for index, block in enumerate(blocks):
        for kind in block:
            number += 1
            yield Turn(number, index + 1 - warmup, kind, warmup=index < warmup)


def compare(
    spec: Spec,
    image: Image,
    image_seconds: float,
    drivers: Mapping[Kind, Driver],
    home: Home,
    directory: Path,
    settings: Settings,
    *,
    skipped: Mapping[Kind, tuple[Problem, ...]] | None = None,
    watch: Watch = lambda _: None,
) -> tuple[Result, int | None]:
    """Run the comparison, and return its result and the signal that cut it short, if one did.

    Samples go to `samples.jsonl` in `directory` as they arrive, the result to `result.json`. An
    interrupt ends the running trial, destroys its instance, and keeps what was measured.
    CommandError when the command is not in the image.
    """
    from hybrid.image import merge

    merge(spec, image, (), "compare")  # a command that cannot be run is told before anything runs
    seed = random.SystemRandom().randrange(2**32) if settings.seed is None else settings.seed
    blocks = order(tuple(drivers), settings.runs, settings.warmup, seed)
    run = _Run(spec, image, drivers, home, directory, settings, watch)
    started, before, here = _utc(), machine.load(), machine.describe()
    with Interrupts() as interrupts, sample_file(directory) as keep:
        try:
            run.prepare()
            run.trials(tuple(turns(blocks, settings.warmup)), interrupts, keep)
        except KeyboardInterrupt:
            if interrupts.number is None:
                raise
        result = run.result(
            Plan(settings.runs, settings.warmup, seed, blocks, settings.timeout),
            image_seconds, here, (before, machine.load()), started, skipped or {}, interrupts.number is not None,
        )  # fmt: skip
        result.save(directory / "result.json")
    return result, interrupts.number


@dataclass(frozen=True, slots=True)
class _Prepared:
    seconds: float
    bytes: int


class _Run:
    """A comparison under way: what has been prepared, measured and given up so far."""

    def __init__(
        self, spec: Spec, image: Image, drivers: Mapping[Kind, Driver], home: Home, directory: Path,
        settings: Settings, watch: Watch,
    ) -> None:  # fmt: skip
        self.spec, self.image, self.drivers, self.home = spec, image, drivers, home
        self.directory, self.settings, self.watch = directory, settings, watch
        self.prepared: dict[Kind, _Prepared] = {}
        self.samples: list[Sample] = []
        self.given_up: list[Kind] = []

    def prepare(self) -> None:
        """Let each kind make what all its instances share, and keep what that took."""
        for kind, driver in self.drivers.items():
            self.watch(Progress(kind))
            start = time.monotonic()
            size = driver.prepare(self.image)
            self.prepared[kind] = _Prepared(time.monotonic() - start, size)

    def trials(self, all_turns: Sequence[Turn], interrupts: Interrupts, keep: Callable[[Sample], None]) -> None:
        """Take the turns one after the other; a kind that fails again and again is given up."""
        for turn in all_turns:
            if turn.kind in self.given_up:
                continue
            self.watch(Progress(turn.kind, turn.number - 1, len(all_turns), turn.warmup))
            with interrupts.shield():
                sample = trial(
                    self.drivers[turn.kind], self.request(turn.kind), turn,
                    logs=self.directory / "logs", timeout=self.settings.timeout, expose=interrupts.expose,
                )  # fmt: skip
                keep(sample)
                self.samples.append(sample)
            if self.hopeless(turn.kind):
                self.given_up.append(turn.kind)

    def request(self, kind: Kind) -> Request:
        from hybrid.image import merge
        from hybrid.store import InstanceStore

        name = InstanceStore(self.home).free_name(f"compare-{kind}")
        process: Process = merge(self.spec, self.image, (), name)
        return Request(name=name, spec=self.spec, image=self.image, process=process, marks=Marks())

    def hopeless(self, kind: Kind) -> bool:
        latest = [sample for sample in self.samples if sample.turn.kind == kind][-PATIENCE:]
        return len(latest) == PATIENCE and all(sample.failure is not None for sample in latest)

    def result(
        self, plan: Plan, image_seconds: float, here: machine.Machine, loads: tuple[machine.Load, machine.Load],
        started: str, skipped: Mapping[Kind, tuple[Problem, ...]], interrupted: bool,
    ) -> Result:  # fmt: skip
        """All that was found. Pure arithmetic over the samples, save for what drivers say of themselves."""
        kinds = {kind: self.of_kind(kind, driver, plan.seed) for kind, driver in self.drivers.items()}
        ratios = tuple(comparisons(kinds, plan.seed))
        warnings = {kind: tuple(driver.warnings()) for kind, driver in self.drivers.items()}
        return Result(
            schema=SCHEMA,
            started=started,
            ended=_utc(),
            interrupted=interrupted,
            subject=self.subject(image_seconds),
            plan=plan,
            machine=here,
            before=loads[0],
            after=loads[1],
            kinds=kinds,
            skipped=skipped,
            ratios=ratios,
            answers=answers.answers(kinds, ratios, here, self.image.digest, self.image.tree_bytes),
            warnings=noise.cautions(kinds, warnings, self.given_up, *loads, here.cores, plan.seed),
        )

    def of_kind(self, kind: Kind, driver: Driver, seed: int) -> KindResult:
        facts = dict(driver.facts())
        prepared = self.prepared.get(kind, _Prepared(0.0, 0))
        samples = [sample for sample in self.samples if sample.turn.kind == kind and not sample.turn.warmup]
        return summarise(samples, facts, prepared.seconds, prepared.bytes, self.failures(kind), seed)

    def failures(self, kind: Kind) -> list[Sample]:
        """Those of warm-up trials too: they are the first to show what is wrong."""
        return [sample for sample in self.samples if sample.turn.kind == kind and sample.failure is not None]

    def subject(self, image_seconds: float) -> Subject:
        from hybrid.image import merge

        process = merge(self.spec, self.image, (), "compare")
        source = str(self.spec.source) if self.spec.source else next(iter(self.image.names), self.image.digest)
        return Subject(
            name=subject_name(self.spec, self.image),
            source=source,
            spec=self.spec.model_dump(mode="json", exclude_none=True),
            digest=self.image.digest,
            tree_bytes=self.image.tree_bytes,
            command=process.argv,
            healthcheck=process.healthcheck.test if process.healthcheck else (),
            image_seconds=image_seconds,
        )


def result_directory(output: Path | None, spec: Spec) -> Path:
    """Where the result goes: `output`, else a new directory below ./results. It is not made yet.

    HybridError when it holds an earlier result, which is never overwritten, or cannot be made.
    """
    name = spec.source.stem if spec.source is not None else "image"
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    directory = output if output is not None else Path("results") / f"{stamp}-{name}"
    if any((directory / kept).exists() for kept in (SAMPLES, "result.json")):
        raise HybridError(
            "the directory holds an earlier result", where=str(directory), mend="give another --output, or remove it"
        )
    above = next(path for path in (directory, *directory.parents) if path.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise HybridError(
            "no result can be written here", where=str(above), mend="give an --output that you may write to"
        )
    return directory


def subject_name(spec: Spec, image: Image) -> str:
    return spec.source.stem if spec.source is not None else next(iter(image.names), image.digest[:19])


def _utc() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
