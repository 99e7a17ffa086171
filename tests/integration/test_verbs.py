"""Docker's everyday verbs as a user types them, on one instance of each kind: alike for all, and nothing left."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import re
import select
import struct
import subprocess
import tarfile
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.usefixtures("nothing_left")

TICKS = "echo up; trap 'exit 3' TERM; i=0; while :; do i=$((i+1)); echo tick $i; sleep 0.2; done"
DEADLINE = 120.0
"""Seconds for anything: a bound against hanging, never a measure."""


@pytest.fixture
def one(cli: Any, tools: Path, kind: str) -> Iterator[str]:
    """The name of a running instance that writes and waits."""
    name = f"one-{kind}"
    done = cli("run", "-d", "--as", kind, "--name", name, "-l", "team=web", tools, "sh", "-c", TICKS)
    assert done.returncode == 0, done.stderr
    yield name
    cli("rm", "-f", name)


def ok(done: subprocess.CompletedProcess[bytes]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


def test_a_life_in_steps(cli: Any, tools: Path, kind: str) -> None:
    assert ok(cli("create", "--as", kind, "--name", "step", tools, "sh", "-c", TICKS)) == "step\n"
    assert cli.ps()["step"]["state"] == "created"
    assert ok(cli("start", "step")) == "step\n"
    assert cli("start", "step").returncode == 1
    assert ok(cli("wait", "--for", "running", "step")) == "step\n"
    assert ok(cli("exec", "step", "touch", "/tmp/kept")) == ""
    assert ok(cli("stop", "step")) == "step\n"
    assert ok(cli("wait", "step")) == "3\n"
    assert "Exited (3)" in ok(cli("ps", "-a", "--filter", "name=^step$", "--format", "{{.Status}}"))
    assert ok(cli("restart", "step")) == "step\n"
    assert ok(cli("exec", "step", "ls", "/tmp")) == "kept\n"
    assert ok(cli("kill", "-s", "TERM", "step")) == "step\n"
    assert ok(cli("wait", "step")) == "3\n"
    ok(cli("rename", "step", "pace"))
    assert cli("rm", "step").returncode == 1
    assert ok(cli("rm", "pace")) == "pace\n"
    told = ok(
        cli("events", "--since", "10m", "--until", "0s", "--format", "{{.Action}}", "--filter", "name=^(step|pace)$")
    )
    found = [action for action in told.split() if action != "exec_start"]
    assert found == ["create", "start", "die", "stop", "start", "restart", "kill", "die", "rename", "destroy"]


def test_exec_as_docker_has_it(cli: Any, one: str) -> None:
    done = cli("exec", one, "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.stdout, done.stderr, done.returncode) == (b"out\n", b"err\n", 7)
    assert cli("exec", one, "nothing-here").returncode == 127
    assert cli("exec", one, "/bin/data").returncode == 126
    assert cli("exec", one, "sh", "-c", "kill -9 $$").returncode == 137
    options = ["-e", "A=b c", "-w", "/tmp", "-u", "1000:1001"]
    told = ok(cli("exec", *options, one, "sh", "-c", 'echo "$A"; pwd; id -u; id -g'))
    assert told == "b c\n/tmp\n1000\n1001\n"
    data = bytes(range(256)) * 4096
    assert cli("exec", "-i", one, "cat", input=data).stdout == data
    assert cli("exec", one, "cat", input=b"unseen").stdout == b""
    assert ok(cli("shell", one, input=b"echo from $0; exit\n")).startswith("from /bin/sh")
    ok(cli("exec", "-d", one, "sh", "-c", "echo late > /tmp/late"))
    wait = "until [ -s /tmp/late ]; do sleep 0.1; done; cat /tmp/late"
    assert ok(cli("exec", one, "sh", "-c", wait)) == "late\n"
    assert cli("exec", "-it", one, "sh").returncode == 125


def test_what_is_seen(cli: Any, one: str, kind: str) -> None:
    (seen,) = json.loads(ok(cli("inspect", one)))
    assert (seen["Name"], seen["Kind"], seen["State"]["Status"]) == (one, kind, "running")
    assert ok(cli("inspect", "-f", "{{.Config.Labels.team}} {{.State.ExitCode}}", one)) == "web 0\n"
    assert ok(cli("ps", "--filter", "label=team=web", "--format", "{{.Names}} {{.Kind}}")) == f"{one} {kind}\n"
    (used,) = json.loads(ok(cli("stats", "--no-stream", "--format", "json", one)))
    assert used["name"] == one
    assert used["memory_bytes"] > 0
    assert used["processes"] > 0
    command = ok(cli("top", one))
    assert re.search(r"^\S+ +1 +0 .*tick", command, re.MULTILINE), command


def test_logs(cli: Any, one: str) -> None:
    with cli.start("logs", "-f", one) as running:
        assert [running.stdout.readline() for _ in range(3)] == [b"up\n", b"tick 1\n", b"tick 2\n"]
        ok(cli("stop", one))
        assert b"tick" in running.stdout.read()
        assert running.wait(DEADLINE) == 0
    whole = ok(cli("logs", one)).splitlines()
    assert ok(cli("logs", "--tail", "2", one)).splitlines() == whole[-2:]
    timed = ok(cli("logs", "-t", one)).splitlines()
    assert [line.split(" ", 1)[1] for line in timed] == whole
    assert [line for line in timed if not re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z ", line)] == []
    times = [line.split(" ", 1)[0] for line in timed]
    assert times == sorted(times)
    middle = times[-1]
    since = ok(cli("logs", "--since", middle, one)).splitlines()
    assert since == whole[len(whole) - len(since) :]
    assert 0 < len(since) < len(whole)


def test_pause(cli: Any, one: str) -> None:
    ok(cli("pause", one))
    assert cli.ps()[one]["state"] == "paused"
    assert cli("exec", one, "true").returncode == 125
    before = ok(cli("logs", one))
    assert cli("pause", one).returncode == 1
    assert ok(cli("logs", one)) == before
    ok(cli("unpause", one))
    assert cli("unpause", one).returncode == 1
    assert ok(cli("exec", one, "echo", "on")) == "on\n"


def test_copies(cli: Any, one: str, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub/data").write_bytes(os.urandom(300_000))
    (tree / "program").write_text("#!/bin/sh\necho copied\n")
    (tree / "program").chmod(0o755)
    (tree / "link").symlink_to("sub/data")
    ok(cli("cp", tree, f"{one}:/tmp"))
    assert ok(cli("exec", one, "/tmp/tree/program")) == "copied\n"
    assert ok(cli("exec", one, "stat", "-c", "%u:%g", "/tmp/tree/program")) == "0:0\n"
    ok(cli("cp", f"{one}:/tmp/tree/.", tmp_path / "back"))
    assert (tmp_path / "back/sub/data").read_bytes() == (tree / "sub/data").read_bytes()
    assert str((tmp_path / "back/link").readlink()) == "sub/data"
    assert (tmp_path / "back/program").stat().st_mode & 0o777 == 0o755
    stream = cli("cp", f"{one}:/tmp/tree/sub", "-").stdout
    with tarfile.open(fileobj=io.BytesIO(stream)) as tar:
        assert sorted(tar.getnames()) == ["sub", "sub/data"]
    ok(cli("exec", one, "mkdir", "/tmp/new"))
    ok(cli("cp", "-", f"{one}:/tmp/new", input=stream))
    assert ok(cli("exec", one, "ls", "/tmp/new/sub")) == "data\n"
    assert cli("cp", f"{one}:/missing", tmp_path).returncode == 1
    assert cli("cp", tree, f"{one}:/tmp/tree/program").returncode == 1
    ok(cli("stop", "-t", "1", one))
    ok(cli("cp", f"{one}:/tmp/tree/program", tmp_path / "stopped"))
    ok(cli("cp", tmp_path / "stopped", f"{one}:/tmp/again"))
    ok(cli("start", one))
    assert ok(cli("exec", one, "/tmp/again")) == "copied\n"


def test_events_tell_an_end_at_once(cli: Any, one: str) -> None:
    with cli.start(
        "events", "--format", "{{.Action}} {{.Actor.Attributes.exitCode}}", "--filter", "event=die"
    ) as running:
        _until_it_follows(cli, one, running)
        ok(cli("exec", one, "kill", "-TERM", "1"))
        assert running.stdout.readline() == b"die 3\n"
        running.terminate()
        running.stdout.read()


def _until_it_follows(cli: Any, name: str, running: Any) -> None:
    """Until `events` holds an inotify, so that it misses nothing from then on."""
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        with suppress(OSError):
            if any("inotify" in str(path.readlink()) for path in Path(f"/proc/{running.pid}/fd").iterdir()):
                break
        time.sleep(0.05)
    ok(cli("rename", name, name))  # an event in the journal: by then it has looked at all instances


def test_what_is_detached_is_removed_at_its_end(cli: Any, tools: Path, kind: str) -> None:
    ok(cli("run", "-d", "--rm", "--as", kind, "--name", "gone", tools, "sleep", "1"))
    deadline = time.monotonic() + DEADLINE
    while "gone" in cli.ps():
        assert time.monotonic() < deadline
        time.sleep(0.1)


# ---- on a terminal -----------------------------------------------------------------------


class Screen:
    """A command line on a terminal of its own."""

    def __init__(self, cli: Any, *words: str | Path) -> None:
        self.master, self.slave = pty.openpty()
        self.resize(24, 80)
        self.before = termios.tcgetattr(self.slave)
        streams = {"stdin": self.slave, "stdout": self.slave, "stderr": self.slave}
        self.child = cli.start(
            *words, start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0), **streams
        )
        self.shown = b""

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: bytes) -> None:
        os.write(self.master, text)

    def until(self, pattern: bytes) -> None:
        """Read until the screen shows it; what came before is forgotten."""
        deadline = time.monotonic() + DEADLINE
        while not (found := re.search(pattern, self.shown)):
            assert select.select([self.master], [], [], deadline - time.monotonic())[0], self.shown
            self.shown += os.read(self.master, 65536)
        self.shown = self.shown[found.end() :]

    def end(self) -> int:
        """The exit code; the terminal must be as it was."""
        code: int = self.child.wait(DEADLINE)
        assert termios.tcgetattr(self.slave) == self.before
        return code

    def close(self) -> None:
        self.child.kill()
        self.child.wait()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def screen(cli: Any) -> Iterator[Callable[..., Screen]]:
    made: list[Screen] = []

    def make(*words: str | Path) -> Screen:
        made.append(Screen(cli, *words))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_exec_on_a_terminal(one: str, screen: Callable[..., Screen]) -> None:
    shown = screen("exec", "-it", one, "sh")
    shown.type(b"stty size\r")
    shown.until(rb"\n24 80\r")
    shown.resize(31, 101)
    shown.type(b"sleep 0.3; stty size\r")  # the size travels beside what is typed
    shown.until(rb"\n31 101\r")
    shown.type(b"sleep 1000\r")
    shown.until(rb"1000\r")
    time.sleep(0.5)  # the shell has begun it: nothing on the screen says so
    shown.type(b"\x03")
    shown.type(b"echo code $?\r")
    shown.until(rb"\ncode 130\r")
    shown.type(b"exit 6\r")
    assert shown.end() == 6


def test_attach_and_leave(cli: Any, tools: Path, kind: str, screen: Callable[..., Screen]) -> None:
    ok(cli("run", "-dit", "--as", kind, "--name", "term", tools, "sh"))
    first = screen("attach", "term")
    first.type(b"echo a$((1+1))b\r")
    first.until(rb"a2b")
    first.type(b"\x10\x11")
    assert first.end() == 0
    assert cli.ps()["term"]["state"] == "running"
    second = screen("attach", "term")
    second.type(b"exit 4\r")
    assert second.end() == 4
    assert ok(cli("wait", "term")) == "4\n"
    ok(cli("rm", "term"))


def test_run_on_a_terminal(tools: Path, kind: str, screen: Callable[..., Screen]) -> None:
    shown = screen("run", "-it", "--rm", "--as", kind, tools, "sh")
    shown.type(b"tty; stty size; echo $TERM\r")
    shown.until(rb"\n/dev/\S+\r\n24 80\r\nxterm\r")
    shown.type(b"exit 5\r")
    assert shown.end() == 5
