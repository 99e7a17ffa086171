"""Reports against golden files, and hostile names in them. UPDATE_GOLDEN=1 writes the files anew."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from hybrid import report
from hybrid.driver import Evidence, Kind, Problem
from hybrid.metrics import METRICS
from hybrid.report import figures, grid, markdown, page, plot, table, words
from hybrid.result import Answer, Caution, KindResult, Question, Result
from hybrid.stats import Interval, Ratio

DATA = Path(__file__).parent / "data/report"


def golden(name: str, text: str) -> None:
    if os.environ.get("UPDATE_GOLDEN"):
        (DATA / name).write_text(text, encoding="utf-8")
    assert text == (DATA / name).read_text(encoding="utf-8")


def printed(result: Result, form: str = "table") -> str:
    file = io.StringIO()
    report.show(result, form, file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0000412, "s", "41.2 µs"),
        (0.0431, "s", "43.1 ms"),
        (0.9996, "s", "1.00 s"),
        (2.614, "s", "2.61 s"),
        (123.4, "s", "123 s"),
        (0.0, "s", "0 s"),
        (0, "B", "0 B"),
        (1023, "B", "1023 B"),
        (4096, "B", "4.00 KiB"),
        (221 << 20, "B", "221 MiB"),
        (3.5, "x", "3.50 x"),
    ],
)
def test_figures_fit_their_unit(value: float, unit: str, text: str) -> None:
    assert figures.figure(value, unit) == text


def test_an_interval_has_the_unit_of_its_median() -> None:
    assert figures.figure_range(Interval(0.9, 1.2), 1.1, "s") == "0.90–1.20"  # noqa: RUF001
    assert figures.figure_range(Interval(990 << 20, 1100 << 20), 1 << 30, "B") == "0.97–1.07"  # noqa: RUF001


def test_the_terminal_table(result: Result) -> None:
    golden("table.txt", printed(result))


def test_markdown(result: Result) -> None:
    golden("report.md", printed(result, "markdown"))


def test_json_is_the_result(result: Result) -> None:
    assert json.loads(printed(result, "json"))["kinds"]["vm"]["accelerator"] == "tcg"


def test_piped_text_has_no_colour_and_no_trailing_blanks(result: Result) -> None:
    text = printed(result)
    assert "\x1b" not in text
    assert not re.search(r"[ \t]+$", text, re.MULTILINE)
    assert max(map(len, text.splitlines())) <= table.PIPED_WIDTH


def test_every_vm_figure_is_labelled(result: Result) -> None:
    for text in (printed(result), printed(result, "markdown"), page.render(result)):
        unlabelled = re.sub(r"vm (\\)?\(tcg", "", text)
        assert not re.search(r"\bvm\b", unlabelled)


def test_no_sentence_claims_what_kvm_costs(result: Result) -> None:
    for line in printed(result).splitlines():
        assert "KVM" not in line or "says what a VM costs under KVM" in line or "say nothing" in line


def test_a_ratio_that_decides_nothing_is_weak(result: Result) -> None:
    changed = tuple(
        replace(each, ratio=Ratio(1.02, Interval(0.97, 1.08)), decides=False) if each.metric == "boot" else each
        for each in result.ratios
    )
    weak = replace(result, ratios=changed)
    boot = next(line for line in grid.lines(weak) if line.metric.key == "boot")
    assert all(value is not None and value.weak for value in boot.ratios)
    assert "(1.02×)" in printed(weak)  # noqa: RUF001
    assert "(1.02×) [0.97–1.08]" in printed(weak, "markdown")  # noqa: RUF001


def test_interrupted_and_skipped_are_said_everywhere(result: Result) -> None:
    skipped = {Kind.VM: (Problem("libvirt is not installed", "apt-get install libvirt-daemon"),)}
    kinds: dict[Kind, KindResult] = {kind: each for kind, each in result.kinds.items() if kind != Kind.VM}
    partial = replace(result, interrupted=True, skipped=skipped, kinds=kinds)
    for text in (printed(partial), printed(partial, "markdown"), page.render(partial)):
        assert "Interrupted" in text
        assert "libvirt is not installed" in text


def test_nothing_measured_still_renders(result: Result) -> None:
    empty = {kind: replace(each, metrics={}, evidence=None, measured=0) for kind, each in result.kinds.items()}
    bare = replace(result, kinds=empty, ratios=(), answers=tuple(Answer(each, (), ()) for each in Question))
    for form in ("table", "markdown", "json"):
        assert printed(bare, form)
    assert page.render(bare)


HOSTILE = "<script>alert(1)</script>|[bold]\x1b[31m\n# `x`"


@pytest.fixture
def hostile(result: Result) -> Result:
    seen = Evidence(HOSTILE, "b", HOSTILE, "0 0 1", {"mnt": "mnt:[1]"}, 0, 0, False, {HOSTILE: {HOSTILE: HOSTILE}})
    from hybrid import answers

    kinds = {
        kind: replace(each, evidence=seen, facts={HOSTILE: HOSTILE, "accelerator": "tcg"})
        for kind, each in result.kinds.items()
    }
    return replace(
        result,
        subject=replace(result.subject, name=HOSTILE, healthcheck=(HOSTILE,)),
        kinds=kinds,
        answers=answers.answers(kinds, result.ratios, result.machine, HOSTILE, 1),
        warnings=(Caution("driver", Kind.VM, values={"what": HOSTILE, "mend": HOSTILE}),),
    )


def test_a_hostile_image_steers_no_terminal(hostile: Result) -> None:
    assert "\x1b" not in printed(hostile)


def test_a_hostile_image_makes_no_markdown(hostile: Result) -> None:
    text = printed(hostile, "markdown")
    assert "<script" not in text.replace("\\<script", "")
    assert "\x1b" not in text
    columns = {line.count("|") - line.count("\\|") for line in text.splitlines() if line.startswith("| &nbsp;")}
    assert len(columns) == 1


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.opened: list[tuple[str, Sequence[tuple[str, str | None]]]] = []

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.opened.append((tag, attrs))


def test_a_hostile_image_makes_no_markup(hostile: Result) -> None:
    tags = Tags()
    tags.feed(page.render(hostile))
    assert "script" not in {tag for tag, _ in tags.opened}


def test_the_page_loads_nothing(result: Result) -> None:
    tags = Tags()
    text = page.render(result)
    tags.feed(text)
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in tags.opened}
    assert not [attrs for _, attrs in tags.opened if {"src", "href"} & dict(attrs).keys()]
    assert "url(" not in text and "@import" not in text
    assert "prefers-color-scheme: dark" in text and "@media print" in text


def test_bars_add_up_to_the_longest(result: Result) -> None:
    bars = plot.bars(result)
    assert [bar.kind for bar in bars] == ["host", "container", "vm (tcg)"]
    assert max(bar.width for bar in bars) == pytest.approx(plot.WIDTH)
    assert bars[2].total == "1.89 s"


@pytest.mark.parametrize("key", ["boot", "ready", "cpu", "memory.pss", "memory.private", "disk"])
def test_strips_lie_on_the_axis(result: Result, key: str) -> None:
    strips = plot.strips(result, key)
    assert strips is not None and len(strips.ticks) >= 2
    for strip in strips.strips:
        assert all(0 <= x <= plot.WIDTH for x in (strip.median, strip.low, strip.high, *(dot.x for dot in strip.dots)))


def test_reports_are_written_beside_the_result(result: Result, tmp_path: Path) -> None:
    report.write(result, tmp_path)
    assert (tmp_path / "report.md").read_text() == markdown.render(result)
    assert (tmp_path / "report.html").read_text() == page.render(result)


CAUTIONS = [
    ("gave-up", {}),
    ("failed", {"count": 2, "of": 7, "what": "it broke", "phase": "kernel", "mend": ""}),
    ("tcg", {}),
    ("driver", {"what": "slow", "mend": "buy"}),
    ("ended", {"count": 1, "of": 2}),
    ("killed", {"count": 1, "of": 2}),
    ("exit-code", {"code": "7", "count": 3}),
    ("few-runs", {"count": 2, "enough": 6}),
    ("busy", {"average": 3.0, "cores": 2}),
    ("stolen", {"share": 0.1}),
    ("outliers", {"count": 1, "of": 10}),
    ("drift", {"shift": 1.25}),
]


@pytest.mark.parametrize(("code", "values"), CAUTIONS)
def test_every_caution_has_a_sentence(result: Result, code: str, values: dict[str, float | str]) -> None:
    assert words.caution(result, Caution(code, Kind.VM, "boot", values)).endswith((".", "broke", "buy"))


def test_sentences_are_for_known_codes_only() -> None:
    assert {code for code, _ in CAUTIONS} == set(words._CAUTIONS)


def test_metrics_have_unique_names() -> None:
    assert len({metric.key for metric in METRICS}) == len(METRICS)


def test_long_lists_are_counted_where_there_is_no_room() -> None:
    names = tuple(f"CAP{number}" for number in range(14))
    assert words.cell(names, brief=True) == "14"
    assert words.cell(names) == ", ".join(names)
