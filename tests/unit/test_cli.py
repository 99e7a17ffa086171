"""The command line itself: what costs time, what is a mistake, how errors and tables read."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hybrid.__main__ import run
from hybrid.cli import app, errors, table
from hybrid.cli.ps import describe
from hybrid.driver import Kind, State, Status
from hybrid.errors import CommandError, HybridError, NotReadyError, SpecError, ToolError
from hybrid.home import Home
from hybrid.store import InstanceStore, Record, new_id

HEAVY = ("libvirt", "pydantic", "scipy", "numpy", "paramiko", "rich", "jinja2", "ruamel")


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HYBRID_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("HYBRID_DEBUG", raising=False)
    return tmp_path / "home"


def damage(root: Path, name: str) -> Path:
    directory = root / "instances" / name
    directory.mkdir(parents=True)
    (directory / "instance.json").write_text("{")
    return directory


@pytest.mark.parametrize("words", [["ps"], ["--version"], ["rm", "nothing"], ["stop", "nothing"]])
def test_light_commands_load_nothing_heavy(words: list[str]) -> None:
    program = (
        "import sys; from hybrid.__main__ import run; run(sys.argv[1:]);"
        f"sys.exit(sorted(set({HEAVY!r}) & set(sys.modules)) or 0)"
    )
    subprocess.run([sys.executable, "-c", program, *words], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["run"], 125, "SPEC|IMAGE"),
        (["run", "--nonsense", "x.yaml"], 125, "--nonsense"),
        (["run", "--as", "jail", "x.yaml"], 125, "jail"),
        (["run", "--rm", "-d", "x.yaml"], 125, "no daemon"),
        (["run", "missing.yaml"], 125, "missing.yaml"),
        (["rm"], 2, "NAME"),
        (["ps", "--format", "xml"], 2, "xml"),
        (["stop", "-t", "-1", "x"], 2, "-1"),
        (["nonsense"], 2, "nonsense"),
        (["rm", "nothing"], 1, "nothing"),
        (["stop", "nothing"], 1, "nothing"),
        (["rm", "-f", "../.."], 1, "../.."),
        (["spec", "check", "missing.yaml"], 1, "missing.yaml"),
    ],
)
def test_mistakes_have_dockers_codes_and_one_message(
    words: list[str], code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(words) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert err.startswith("hybrid: ")
    assert "Traceback" not in err


def test_every_command_has_help_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    for name in app.COMMANDS:
        assert run([name, "--help"]) == 0
        assert "hybrid" in capsys.readouterr().out
    assert run(["--help"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in app.COMMANDS)


def test_every_name_is_tried(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, last = damage(root, "first"), damage(root, "last")
    assert run(["rm", "-f", "first", "nothing", "last", "first"]) == 1
    out, err = capsys.readouterr()
    assert out.split() == ["first", "last"]
    assert "'nothing'" in err
    assert not first.exists()
    assert not last.exists()


def test_a_damaged_record_is_listed_and_goes_by_force_only(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = damage(root, "broken")
    assert run(["ps"]) == 0
    assert "broken" not in capsys.readouterr().out
    assert run(["ps", "-a"]) == 0
    assert "Damaged" in capsys.readouterr().out
    assert run(["ps", "-a", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"name": "broken", "state": "damaged"}]
    assert run(["rm", "broken"]) == 1
    assert "hybrid rm --force broken" in capsys.readouterr().err
    assert directory.exists()


def test_prune_removes_what_a_killed_process_left_and_nothing_that_is_being_made(root: Path) -> None:
    store = InstanceStore(Home(root, root))
    abandoned = root / "instances" / ".killed.00000000"
    abandoned.mkdir(parents=True)
    with store.making("young") as (directory, commit):
        assert run(["prune"]) == 0
        assert directory.exists()
        assert not abandoned.exists()
        record = Record("young", new_id(), Kind.HOST, "sha256:0", "x", ("true",), 0.0, directory)
        assert commit(record).directory == root / "instances" / "young"


def test_errors_say_what_where_and_mend() -> None:
    error = HybridError("it broke", where="a.yaml:3", mend="mend it")
    assert list(errors.lines(error)) == ["hybrid: it broke", "  at   a.yaml:3", "  mend mend it"]
    both = SpecError([HybridError("one"), HybridError("two", mend="so")])
    assert list(errors.lines(both)) == ["hybrid: one", "hybrid: two", "  mend so"]
    hung = NotReadyError("no start", phase="kernel", tail="a\nb\n", mend="wait")
    assert list(errors.lines(hung)) == ["hybrid: no start", "  | a", "  | b", "  mend wait"]
    tool = ToolError("tool: last", returncode=1, stderr="first\nlast")
    assert list(errors.lines(tool)) == ["hybrid: tool: last", "  | first"]


def test_exit_codes_are_dockers_for_run_alone(capsys: pytest.CaptureFixture[str]) -> None:
    error = CommandError("not there", exit_code=127)
    assert errors.report(error, ["run", "x"]) == 127
    assert errors.report(error, ["compare", "run"]) == 1
    assert errors.report(HybridError("x"), ["run"]) == 125
    assert "Traceback" not in capsys.readouterr().err


def test_the_unexpected_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert errors.report(ZeroDivisionError("oops"), ["ps"]) == 1
    assert errors.report(OSError(28, "No space left on device", "/x"), ["run"]) == 125
    first, *others = capsys.readouterr().err.splitlines()
    assert first == "hybrid: ZeroDivisionError: oops (a bug; HYBRID_DEBUG=1 shows where it came from)"
    assert others[:2] == ["hybrid: No space left on device", "  at   /x"]
    assert others[2].startswith("  mend free some space")
    monkeypatch.setenv("HYBRID_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        errors.report(ZeroDivisionError("oops"), ["ps"])


def test_nothing_steers_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    errors.report(HybridError("a\x1b[2Jb\x07"), ["ps"])
    assert capsys.readouterr().err == "hybrid: a\\x1b[2Jb\\x07\n"
    assert "\x1b" not in "".join(table.lines(["NAME"], [["\x1b]0;x"]]))


def test_a_reader_that_goes_away_is_no_error() -> None:
    program = "import sys; from hybrid.__main__ import main; sys.argv = ['hybrid', 'spec', 'schema']; main()"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stderr is not None
        child.stdout.close()
        assert child.stderr.read() == b""
        assert child.wait() == 1


def test_tables_are_aligned() -> None:
    assert list(table.lines(["A", "LONG"], [["xyz", "1"], ["x", "2"]])) == ["A     LONG", "xyz   1", "x     2"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (200000, "2 d"), (-3, "0 s")]
)
def test_durations(seconds: float, text: str) -> None:
    assert table.duration(seconds) == text


@pytest.mark.parametrize(
    ("amount", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (123456, "123 kB"), (2.5e9, "2.5 GB"), (3e12, "3.0 TB")],
)
def test_sizes(amount: float, text: str) -> None:
    assert table.size(amount) == text


def test_statuses_in_words() -> None:
    assert describe(Status(State.CREATED)) == "Created"
    assert describe(Status(State.EXITED, 7)) == "Exited (7)"
    assert describe(Status(State.EXITED)) == "Exited"
    assert describe(Status(State.RUNNING, pid=None)) == "Up"
    assert describe(Status(State.RUNNING, pid=1)).startswith("Up ")
