"""`kill -9` at every step: of hybrid, of the runtime and its helpers, of QEMU; nothing leaks and nothing lies.

strace counts the system calls by which each process of a command changes something, each sort for itself, and kills
a process as it makes the n-th of a sort. So each place of a command's life is hit on purpose, and not by the clock.
The process is hybrid itself, or whichever of its children (the runtime, conmon, QEMU) comes as far.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hybrid import process

pytestmark = [
    pytest.mark.usefixtures("prepared"),
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace is needed"),
    pytest.mark.timeout(3600),
]

STEPS = (
    "mkdir,mkdirat,rename,renameat,renameat2,symlink,symlinkat,link,unlink,unlinkat,rmdir,write,pwrite64,mount,"
    "move_mount,umount2,unshare,setns,clone,clone3,vfork,fork,execve,flock,chown,fchown,fchmod,chmod,kill,"
    "pidfd_send_signal,sendto,sendmsg,connect,bind,ftruncate,wait4,waitid,exit_group"
)
FEW = {"container": 6, "vm": 3}
"""How many steps of each verb are killed at, unless --kills says another number."""
VERBS = ("create", "start", "stop", "rm")


@dataclass(frozen=True)
class Step:
    """The n-th system call of a sort that a process makes."""

    call: str
    number: int


@dataclass
class Ledger:
    """How many commands had a process of theirs killed, by verb and kind."""

    kills: Counter[str]


@pytest.fixture(scope="module")
def ledger() -> Iterator[Ledger]:
    made = Ledger(Counter())
    yield made
    total = sum(made.kills.values())
    print(f"\n{total} commands had a process killed: 0 leaks, 0 lies: {dict(made.kills)}")


@pytest.fixture(params=list(FEW))
def kind(request: pytest.FixtureRequest, able: Callable[[str], None]) -> str:
    able(request.param)
    return str(request.param)


class Traced:
    """A command under strace, which kills a process at a step, or only notes the steps."""

    def __init__(self, cli: Any, folder: Path, words: tuple[str | Path, ...], step: Step | None) -> None:
        self.log = folder / "trace"
        inject = [] if step is None else ["-e", f"inject={step.call}:signal=KILL:when={step.number}"]
        argv = [
            "strace",
            "-D",
            "-I2",
            "-f",
            "-q",
            "-s0",
            "-o",
            self.log,
            "-e",
            f"trace={STEPS}",
            *inject,
        ]
        self.words = [*map(str, argv), *cli.argv(*words)]
        self.environment = cli.environment

    def run(self) -> int:
        """Run it to the end of hybrid itself; the rest goes on untraced. Returns the exit code."""
        with subprocess.Popen(
            self.words, env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as child:
            assert child.stdout is not None
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(120)
            for tracer in self._tracers():
                handle = os.pidfd_open(tracer)
                os.kill(tracer, signal.SIGTERM)  # it writes its log to the end and lets the others go
                assert process.ended(handle, 10)
                os.close(handle)
            if child.poll() is None:
                child.kill()
                pytest.fail(f"{self.words[-4:]} hangs")
            return child.returncode

    def _tracers(self) -> Iterator[int]:
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (entry / "cmdline").read_bytes().startswith(b"strace\0") and str(self.log) in str(
                    (entry / "cmdline").read_bytes()
                ):
                    yield int(entry.name)

    def steps(self) -> list[Step]:
        """Every step of any process, in the order in which they came."""
        seen: Counter[tuple[str, str]] = Counter()
        found: dict[Step, None] = {}
        for line in self.log.read_text().splitlines():
            if match := re.match(r"(\d+) +(\w+)\(", line):
                seen[match[1], match[2]] += 1
                found[Step(match[2], seen[match[1], match[2]])] = None
        return list(found)

    def killed(self) -> int:
        """How many processes were killed on purpose."""
        return len(re.findall(r"\+\+\+ killed by SIGKILL", self.log.read_text()))


def words_of(verb: str, kind: str, tools: Path) -> tuple[str | Path, ...]:
    match verb:
        case "create":
            return ("create", "--as", kind, "--name", "victim", tools, "sleep", "1000")
        case "stop":
            return ("stop", "-t", "0", "victim")
        case "rm":
            return ("rm", "-f", "victim")
        case _:
            return (verb, "victim")


def bring_to(cli: Any, verb: str, kind: str, tools: Path) -> None:
    """An instance in the state in which the verb has most to do."""
    done = []
    if verb != "create":
        done.append(cli(*words_of("create", kind, tools)))
    if verb in ("stop", "rm"):
        done.append(cli("start", "victim"))
    for each in done:
        assert each.returncode == 0, each.stderr


def told_truly(cli: Any) -> None:
    """What `ps` says of the victim is what the host shows."""
    rows = cli.ps()
    assert set(rows) <= {"victim"}
    for row in rows.values():
        assert row["state"] in ("created", "running", "exited"), row
        alive = row["pid"] is not None and Path(f"/proc/{row['pid']}").exists()
        assert alive == (row["state"] == "running"), row


def removed(cli: Any, left: Callable[[], list[str]]) -> None:
    for name in cli.ps():
        done = cli("rm", "-f", name)
        assert done.returncode == 0, done.stderr
    done = cli("prune")
    assert done.returncode == 0, done.stderr
    assert cli.ps() == {}
    assert left() == []


@pytest.mark.parametrize("verb", VERBS)
def test_killed_at_each_step(
    cli: Any,
    tools: Path,
    kind: str,
    verb: str,
    tmp_path: Path,
    ledger: Ledger,
    nothing_left: Callable[[], list[str]],
    pytestconfig: pytest.Config,
) -> None:
    words = words_of(verb, kind, tools)
    bring_to(cli, verb, kind, tools)
    counted = Traced(cli, tmp_path, words, None)
    assert counted.run() == 0
    steps = counted.steps()
    removed(cli, nothing_left)
    many = pytestconfig.getoption("kills") or FEW[kind]
    for number in range(many):
        step = steps[number * (len(steps) - 1) // max(1, many - 1)]
        bring_to(cli, verb, kind, tools)
        traced = Traced(cli, tmp_path, words, step)
        traced.run()
        ledger.kills[f"{verb} {kind}"] += traced.killed() > 0
        told_truly(cli)
        removed(cli, nothing_left)
