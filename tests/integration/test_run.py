"""`hybrid run` and its neighbours, for real: the same for every kind, and nothing left behind."""

from __future__ import annotations

import hashlib
import os
import random
import signal
from pathlib import Path
from typing import Any

import inotify_simple
import pytest

pytestmark = pytest.mark.usefixtures("nothing_left")


def test_streams_and_exit_code(cli: Any, tools: Path, kind: str) -> None:
    done = cli("run", "--rm", "--as", kind, tools, "--", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.stdout, done.stderr, done.returncode) == (b"out\n", b"err\n", 7)


def test_standard_input_is_binary_and_ends(cli: Any, tools: Path, kind: str) -> None:
    data = random.Random(1).randbytes(1 << 20)
    done = cli("run", "--rm", "--as", kind, tools, "sha256sum", input=data)
    assert done.stdout.split()[0].decode() == hashlib.sha256(data).hexdigest()
    done = cli("run", "--rm", "--as", kind, tools, "cat", input=data)
    assert done.stdout == data
    assert (done.stderr, done.returncode) == (b"", 0)


@pytest.mark.parametrize("closed", ["0", "1", "2", "0 1 2"])
def test_closed_streams_are_empty_or_go_nowhere(another_cli: Any, tools: Path, kind: str, closed: str) -> None:
    closing = " ".join(f"{number}<&-" for number in closed.split())
    cli = another_cli(prefix=("sh", "-c", f'exec "$0" "$@" {closing}'))
    script = "cat; echo out; echo err >&2; exit 7"
    done = cli("run", "--rm", "--as", kind, tools, "sh", "-c", script, input=b"in\n" if "0" not in closed else b"")
    seen = [b"in\nout\n" if "0" not in closed else b"out\n", b"err\n"]
    assert done.stdout == (b"" if "1" in closed else seen[0])
    assert done.stderr == (b"" if "2" in closed else seen[1])
    assert done.returncode == 7


@pytest.mark.parametrize("words", [["ps"], ["--version"], ["rm", "nothing"]])
def test_closed_streams_of_other_commands(another_cli: Any, words: list[str]) -> None:
    cli = another_cli(prefix=("sh", "-c", 'exec "$0" "$@" 0<&- 1<&- 2<&-'))
    done = cli(*words)
    assert (done.stdout, done.stderr) == (b"", b"")
    assert done.returncode == (1 if "rm" in words else 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_signals_go_to_the_command(cli: Any, tools: Path, kind: str, number: signal.Signals) -> None:
    name = number.name.removeprefix("SIG")
    script = f"trap 'echo got; exit 5' {name}; echo ready; while :; do sleep 0.1; done"
    with cli.start("run", "--rm", "--as", kind, tools, "sh", "-c", script) as running:
        assert running.stdout.readline() == b"ready\n"
        running.send_signal(number)
        assert running.stdout.read() == b"got\n"
        assert running.wait() == 5


def test_a_command_that_is_killed(cli: Any, tools: Path, kind: str) -> None:
    with cli.start("run", "--as", kind, "--name", "hit", tools, "sh", "-c", "echo ready; exec sleep 1000") as running:
        assert running.stdout.readline() == b"ready\n"
        os.kill(cli.ps()["hit"]["pid"], signal.SIGKILL)
        code = running.wait()
        err = running.stderr.read()
    if kind == "vm":  # what was killed is the machine; how its command ended nobody can tell
        assert code == 125
        assert b"ended without telling an exit code" in err
        assert cli.ps() == {}
        return
    assert (code, err) == (137, b"")
    assert cli.ps()["hit"]["exit_code"] == 137
    assert cli("rm", "hit").returncode == 0


def test_without_rm_it_stays_until_it_is_removed(cli: Any, tools: Path, kind: str) -> None:
    assert cli("run", "--name", "kept", "--as", kind, tools, "sh", "-c", "exit 7").returncode == 7
    row = cli.ps()["kept"]
    assert (row["state"], row["exit_code"], row["kind"]) == ("exited", 7, kind)
    assert b"Exited (7)" in cli("ps", "-a").stdout
    assert b"kept" not in cli("ps").stdout
    again = cli("run", "--name", "kept", "--as", kind, tools)
    assert again.returncode == 125
    assert b"hybrid rm kept" in again.stderr
    assert cli("rm", row["id"][:6]).returncode == 0
    assert cli.ps() == {}


def test_detached(cli: Any, tools: Path, kind: str) -> None:
    script = "trap 'echo bye; exit 3' TERM; echo hello; while :; do sleep 0.1; done"
    started = cli("run", "-d", "--name", "there", "--as", kind, tools, "sh", "-c", script)
    assert (started.stdout, started.stderr, started.returncode) == (b"there\n", b"", 0)
    row = cli.ps()["there"]
    assert row["state"] == "running"
    assert Path(f"/proc/{row['pid']}").exists()
    assert b"Up " in cli("ps").stdout
    refused = cli("rm", "there")
    assert refused.returncode == 1
    assert b"hybrid stop there" in refused.stderr
    stopped = cli("stop", "there")
    assert (stopped.stdout, stopped.returncode) == (b"there\n", 0)
    assert cli.ps()["there"]["exit_code"] == 3
    assert cli("stop", "there").returncode == 0
    assert (cli.home / "instances/there/stdout.log").read_text() == "hello\nbye\n"
    assert cli("rm", "there").returncode == 0


def test_a_command_that_does_not_stop_is_killed(cli: Any, tools: Path, kind: str) -> None:
    script = "trap '' TERM; while :; do sleep 0.1; done"
    assert cli("run", "-d", "--name", "stubborn", "--as", kind, tools, "sh", "-c", script).returncode == 0
    assert cli("stop", "-t", "0.3", "stubborn").returncode == 0
    assert cli.ps()["stubborn"]["exit_code"] == 137
    assert cli("rm", "stubborn").returncode == 0


def test_a_running_one_goes_by_force(cli: Any, tools: Path, kind: str) -> None:
    assert cli("run", "-d", "--name", "strong", "--as", kind, tools, "sleep", "1000").returncode == 0
    assert cli("rm", "-f", "strong").returncode == 0
    assert cli.ps() == {}


def test_a_detached_command_that_ends_by_itself(cli: Any, tools: Path, kind: str) -> None:
    assert cli("run", "-d", "--name", "short", "--as", kind, tools, "sh", "-c", "read x; exit 4").returncode == 0
    cli("stop", "-t", "30", "short")
    assert cli.ps()["short"]["state"] == "exited"
    assert cli("prune").stdout == b"short\n"


def test_an_image_of_one_static_program(cli: Any, specs: Path, kind: str) -> None:
    done = cli("run", "--rm", "--as", kind, specs / "static.yaml")
    assert (done.stdout, done.stderr, done.returncode) == (b"static from-spec 0\n", b"", 9)
    done = cli("run", "--rm", "--as", kind, specs / "static.yaml", "given")
    assert done.stdout == b"static given 0\n"


def test_the_same_image_by_digest(cli: Any, specs: Path, kind: str) -> None:
    spec = specs / "static.yaml"
    first = cli("run", "--as", "host", "--name", "one", spec)
    second = cli("run", "--as", kind, "--name", "two", spec)
    assert (first.stdout, first.returncode) == (second.stdout, second.returncode)
    rows = cli.ps()
    assert rows["one"]["digest"] == rows["two"]["digest"]
    assert cli("rm", "one", "two").returncode == 0


@pytest.mark.parametrize(
    ("command", "code", "says"),
    [("missing", 127, b"missing"), ("/bin/data", 126, b"/bin/data"), ("/bin", 126, b"/bin")],
)
@pytest.mark.parametrize("detach", [[], ["-d"]])
def test_a_command_that_cannot_be_executed(
    cli: Any, tools: Path, kind: str, command: str, code: int, says: bytes, detach: list[str]
) -> None:
    done = cli("run", *detach, "--as", kind, tools, command)
    assert (done.stdout, done.returncode) == (b"", code)
    assert says in done.stderr
    assert b"mend " in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_file_of_the_wrong_format(cli: Any, specs: Path, kind: str) -> None:
    program = specs / "tools/bin/broken"
    program.write_bytes(b"\x7fELF and no more")
    program.chmod(0o755)
    try:
        done = cli("run", "--as", kind, specs / "tools.yaml", "broken")
    finally:
        program.unlink()
    assert (done.stdout, done.returncode) == (b"", 126)
    assert b"hybrid: " in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_the_command_runs(cli: Any, tools: Path, able: Any, number: signal.Signals) -> None:
    able("vm")
    with cli.start("run", "--as", "vm", "--name", "early", tools, "sleep", "1000") as running:
        record = cli.home / "instances/early/instance.json"
        wait_for(record, running)
        running.send_signal(number)
        assert running.wait() == 128 + number
        assert running.stdout.read() == b""


def wait_for(path: Path, running: Any) -> None:
    """Return once `path`, in a directory that is renamed to its place, is there."""
    folder = path.parent.parent
    folder.mkdir(parents=True, exist_ok=True)
    with inotify_simple.INotify() as watch:
        watch.add_watch(folder, inotify_simple.flags.CREATE | inotify_simple.flags.MOVED_TO)
        while not path.exists():
            assert running.poll() is None, running.stderr.read()
            watch.read(timeout=1000)


def test_standard_output_that_is_closed(cli: Any, tools: Path, kind: str) -> None:
    if kind == "vm":
        pytest.skip("a VM's command writes to a file of QEMU's, which nobody closes")
    with cli.start("run", "--rm", "--as", kind, tools, "sh", "-c", "yes") as running:
        running.stdout.read(10)
        running.stdout.close()
        running.wait(timeout=60)
        assert b"Traceback" not in running.stderr.read()


def test_a_terminal_is_the_commands(cli: Any, tools: Path, kind: str) -> None:
    if kind == "vm":
        pytest.skip("a VM's command has no terminal yet: its streams are files")
    import pty

    leader, follower = pty.openpty()
    with cli.start(
        "run", "--rm", "--as", kind, tools, "sh", "-c", "[ -t 0 ] && [ -t 1 ]", stdin=follower, stdout=follower
    ) as running:
        os.close(follower)
        assert running.wait() == 0
    os.close(leader)
