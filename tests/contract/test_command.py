"""The command, alike for every kind: what it gets, what it says, how it ends."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hybrid import usage
from hybrid.driver import Kind
from hybrid.errors import CommandError, HybridError, NotReadyError
from hybrid.image import Image
from hybrid.marks import Mark
from tests.fakes import Behaviour

if TYPE_CHECKING:
    from tests.contract.conftest import Bench

TIMEOUT = 120.0
LIVES = Behaviour(exit_code=None, traps={signal.SIGTERM: 3})
LIVING = ("sh", "-c", "trap 'exit 3' TERM; touch /tmp/up; while :; do sleep 0.05; done")
UP = {"test": ["CMD", "test", "-e", "/tmp/up"], "start_interval": "20ms"}
"""Passes once the command handles its stop signal: until then, a first process ignores it."""


def test_streams_and_exit_code_pass_through(bench: Bench) -> None:
    fake = Behaviour(b"out\n", b"err\n", 7)
    result = bench.run("sh", "-c", "echo out; echo err >&2; exit 7", fake=fake)
    assert (result.code, result.out, result.err) == (7, b"out\n", b"err\n")


def test_input_passes_through_to_its_end_whatever_is_in_it(bench: Bench) -> None:
    data = os.urandom(200_000) + bytes(range(256)) + b"\x04\x03\r\n\0"
    result = bench.run("cat", stdin=data, fake=Behaviour(echo=True))
    assert result.code == 0
    assert result.out == data


def test_no_input_is_end_of_file(bench: Bench) -> None:
    assert bench.run("cat", fake=Behaviour(echo=True)).out == b""


def test_large_output(bench: Bench) -> None:
    line = b"0123456789abcdef" * 4 + b"\n"
    script = f"yes {line.decode().strip()} | head -n 4000"
    assert bench.run("sh", "-c", script, fake=Behaviour(line * 4000)).out == line * 4000


@pytest.mark.parametrize("code", [0, 1, 125, 126, 127, 128, 143, 255])
def test_every_exit_code_is_the_commands_own(bench: Bench, code: int) -> None:
    if bench.kind == "vm" and code not in (126, 255):
        pytest.skip("a boot for each code would only cost time: two are tried")
    assert bench.run("sh", "-c", f"exit {code}", fake=Behaviour(exit_code=code)).code == code


def test_a_command_that_dies_of_a_signal(bench: Bench) -> None:
    with bench.attached(*LIVING, fake=LIVES) as (instance, result):
        instance.wait_entrypoint(TIMEOUT)
        instance.signal(signal.SIGKILL)
        assert result(instance).code == 128 + signal.SIGKILL


def test_a_command_that_handles_a_signal(bench: Bench) -> None:
    script = "trap 'echo caught; exit 3' TERM; echo ready; while :; do sleep 0.05; done"
    fake = Behaviour(b"ready\ncaught\n", exit_code=None, traps={signal.SIGTERM: 3})
    with bench.attached("sh", "-c", script, fake=fake) as (instance, result):
        instance.wait_entrypoint(TIMEOUT)
        seen = bench.directory / f"{instance.record.name}.out"
        if bench.kind != "vm":  # a VM's output is passed on only while it is waited for
            while b"ready" not in seen.read_bytes():
                time.sleep(0.01)
        else:
            with pytest.raises(NotReadyError):
                instance.wait(2)
        instance.signal(signal.SIGTERM)
        ended = result(instance)
    assert ended.code == 3
    assert b"caught" in ended.out


@pytest.mark.parametrize(("argv", "code"), [(("/nowhere",), 127), (("/etc/plain",), 126), (("/bin/broken",), 126)])
def test_a_command_that_cannot_be_executed(bench: Bench, argv: tuple[str, ...], code: int) -> None:
    with pytest.raises(CommandError) as failure:
        bench.run(*argv, change={"executable": argv[0]}, fake=Behaviour(refused=code))
    assert failure.value.exit_code == code


def test_environment_directory_and_ids(bench: Bench) -> None:
    if bench.kind == "fake":
        pytest.skip("a scripted command sees nothing")
    script = 'echo "$A|$HOME|$(pwd)|$(id -u):$(id -g)|$(id -G)"; touch mine; stat -c %u:%g mine /home/app/last'
    result = bench.run("sh", "-c", script, environment={"A": "b c\td'\""}, working_dir="/home/app", user="app")
    lines = result.out.decode().splitlines()
    assert lines[0] == "b c\td'\"|/home/app|/home/app|1000:1000|1000 2000"
    assert lines[1:] == ["1000:1000", "65534:65534"]


def test_a_working_directory_that_the_image_lacks_is_made(bench: Bench) -> None:
    if bench.kind == "fake":
        pytest.skip("a scripted command sees nothing")
    assert bench.run("pwd", working_dir="/new/one").out == b"/new/one\n"


def test_argv_zero_is_as_given(bench: Bench) -> None:
    if bench.kind == "fake":
        pytest.skip("a scripted command sees nothing")
    assert bench.run("sh", "-c", "head -c 3 /proc/$$/cmdline | cut -c1-2").out == b"sh\n"


def test_host_name(bench: Bench) -> None:
    if bench.kind in ("fake", "host"):
        pytest.skip("nothing is isolated: the host's own name is seen")
    assert bench.run("sh", "-c", "hostname; cat /etc/hostname", hostname="box").out == b"box\nbox\n"


def test_loopback_is_up(bench: Bench) -> None:
    if bench.kind == "fake":
        pytest.skip("a scripted command sees nothing")
    assert bench.run("ping", "-c", "1", "localhost").code == 0


def test_an_image_of_one_static_binary(bench: Bench, scratch_image: Image) -> None:
    bench.driver.prepare(scratch_image)
    fake = Behaviour(b"hello\n")
    result = bench.run("/busybox", "echo", "hello", image=scratch_image, fake=fake)
    assert (result.code, result.out) == (0, b"hello\n")


def test_marks_come_in_order(bench: Bench) -> None:
    with bench.attached(*LIVING, fake=LIVES, healthcheck=UP) as (instance, _):
        instance.wait_entrypoint(TIMEOUT)
        instance.wait_ready(TIMEOUT)
        assert instance.stop(TIMEOUT) == 3
    instance.destroy()
    own = [Mark.KERNEL, Mark.INIT] if instance.kind is Kind.VM else []
    seen = [mark for mark in Mark if mark in instance.marks]
    assert seen == [mark for mark in Mark if mark in own or mark not in (Mark.KERNEL, Mark.INIT)]
    stamps = [instance.marks[mark] for mark in seen]
    assert stamps == sorted(stamps)


def test_without_a_healthcheck_the_entrypoint_is_ready(bench: Bench) -> None:
    with bench.attached(*LIVING, fake=LIVES) as (instance, _):
        instance.wait_ready(TIMEOUT)
        assert instance.marks[Mark.READY] == instance.marks[Mark.ENTRYPOINT]


def test_a_healthcheck_is_probed_until_it_passes(bench: Bench) -> None:
    script = "sleep 0.3; touch /tmp/up; trap 'exit 3' TERM; while :; do sleep 0.05; done"
    check = {"test": ["CMD-SHELL", "echo looking; test -e /tmp/up"], "start_interval": "50ms"}
    with bench.attached("sh", "-c", script, fake=LIVES, healthcheck=check) as (instance, _):
        instance.wait_ready(TIMEOUT)
        assert instance.marks[Mark.READY] > instance.marks[Mark.ENTRYPOINT]


def test_a_healthcheck_that_never_passes(bench: Bench) -> None:
    check = {"test": ["CMD-SHELL", "echo sick; false"], "interval": "200ms", "retries": 2, "start_interval": "50ms"}
    fake = Behaviour(exit_code=None, healthy=False)
    with bench.attached(*LIVING, fake=fake, healthcheck=check) as (instance, _):
        instance.wait_entrypoint(TIMEOUT)
        with pytest.raises(NotReadyError) as failure:
            instance.wait_ready(20)
    assert failure.value.phase == "ready"
    assert "sick" in failure.value.tail


def test_a_probe_that_hangs_is_ended(bench: Bench) -> None:
    check = {"test": ["CMD", "sleep", "98765"], "timeout": "200ms", "interval": "300ms", "retries": 1}
    fake = Behaviour(exit_code=None, healthy=False)
    with bench.attached(*LIVING, fake=fake, healthcheck=check) as (instance, _):
        instance.wait_entrypoint(TIMEOUT)
        with pytest.raises(NotReadyError):
            instance.wait_ready(20)
        assert not [pid for pid in usage.processes() if b"98765" in words(pid).split(b"\0")]


def words(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_a_command_that_ends_before_it_is_healthy(bench: Bench) -> None:
    check = {"test": ["CMD", "false"], "start_interval": "50ms"}
    fake = Behaviour(exit_code=5)
    with bench.attached("sh", "-c", "sleep 0.3; exit 5", fake=fake, healthcheck=check) as (instance, result):
        with pytest.raises(HybridError):
            instance.wait_ready(TIMEOUT)
        assert result(instance).code == 5


def test_waiting_has_a_bound(bench: Bench) -> None:
    with bench.attached(*LIVING, fake=LIVES) as (instance, _):
        instance.wait_entrypoint(TIMEOUT)
        with pytest.raises(NotReadyError):
            instance.wait(0.2)
