"""An instance's life, alike for every kind: found by other processes, stopped, removed, never leaked."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from hybrid import process
from hybrid.driver import Kind, State, Stdio
from hybrid.errors import HybridError, InstanceError
from hybrid.evidence import of_host
from hybrid.home import Home
from hybrid.store import InstanceStore, Record
from tests.fakes import Behaviour

if TYPE_CHECKING:
    from tests.contract.conftest import Bench

TIMEOUT = 120.0
LIVES = Behaviour(b"up\n", b"log\n", exit_code=None, traps={signal.SIGTERM: 3})
LIVING = ("sh", "-c", "trap 'exit 3' TERM; echo up; echo log >&2; touch /tmp/up; while :; do sleep 0.05; done")
UP = {"test": ["CMD", "test", "-e", "/tmp/up"], "start_interval": "20ms"}
"""Passes once the command handles its stop signal: until then, a first process ignores it."""

CHILD = """
import os, sys
from pathlib import Path
from hybrid import drivers
from hybrid.driver import Kind, Request, Stdio
from hybrid.home import Home
from hybrid.image import Image, ImageConfig, merge
from hybrid.marks import Marks
from hybrid.spec import Spec

kind, root, run, images, digest, how, name = sys.argv[1:]
home = Home(Path(root), Path(run))
image = Image("sha256:" + digest, Path(images), ImageConfig())
spec = Spec(image="test/tiny")
argv = ("sh", "-c", "while :; do sleep 0.05; done")
driver = drivers.driver(Kind(kind), home)
instance = driver.create(Request(name, spec, image, merge(spec, image, argv, name), Marks()))
print("created", flush=True)
instance.start(Stdio(-1, os.open(os.devnull, os.O_WRONLY), 2) if how == "attached" else None)
instance.wait_entrypoint(120)
print("started", flush=True)
sys.stdin.read()
"""


def test_a_created_instance_has_not_run(bench: Bench) -> None:
    instance = bench.make(*LIVING, fake=LIVES)
    assert instance.status().state is State.CREATED
    with pytest.raises(HybridError):
        instance.usage()
    assert bench.again(instance).status().state is State.CREATED


def test_detached(bench: Bench) -> None:
    instance = bench.make(*LIVING, fake=LIVES, healthcheck=UP)
    instance.start(None)
    instance.wait_ready(TIMEOUT)
    other = bench.again(instance)
    status = other.status()
    assert status.state is State.RUNNING and status.pid
    with pytest.raises(InstanceError):
        other.start(None)
    assert other.stop(TIMEOUT) == 3
    assert instance.status().state is State.EXITED
    assert bench.again(instance).status().exit_code == 3
    assert other.stop(TIMEOUT) == 3
    assert [path.read_bytes() for path in instance.logs()] == [b"up\n", b"log\n"]


def test_the_exit_code_of_a_detached_command_is_seen(bench: Bench) -> None:
    instance = bench.make("sh", "-c", "sleep 0.1; exit 9", fake=Behaviour(exit_code=9))
    instance.start(None)
    instance.wait_entrypoint(TIMEOUT)
    assert bench.again(instance).wait(TIMEOUT) == 9


def test_a_command_that_ignores_the_stop_signal_is_killed(bench: Bench) -> None:
    script = "trap '' TERM; touch /tmp/up; while :; do sleep 0.05; done"
    instance = bench.make("sh", "-c", script, fake=Behaviour(exit_code=None), healthcheck=UP)
    instance.start(None)
    instance.wait_ready(TIMEOUT)
    assert instance.stop(0.3) == 128 + signal.SIGKILL


def test_what_it_wrote_is_there_when_it_starts_again(bench: Bench) -> None:
    if bench.kind == "fake":
        pytest.skip("a scripted command writes nothing")
    instance = bench.make("sh", "-c", "cat /root/note; echo again >>/root/note")
    for _ in range(2):
        instance.start(None)
        instance.wait_entrypoint(TIMEOUT)
        assert instance.wait(TIMEOUT) in (0, 1)
    assert instance.logs()[0].read_text().splitlines()[-1] == "again"
    assert not (bench.image.tree / "root/note").exists()


def test_usage(bench: Bench) -> None:
    with bench.attached(*LIVING, fake=LIVES) as (instance, _):
        instance.wait_ready(TIMEOUT)
        usage = instance.usage()
    assert usage.cpu_seconds > 0
    assert usage.pss_bytes >= usage.private_bytes > 0
    assert usage.processes >= 1
    assert usage.disk_bytes > 0


def test_evidence(bench: Bench) -> None:
    if bench.kind == "fake":
        pytest.skip("nothing to see")
    with bench.attached(*LIVING) as (instance, _):
        instance.wait_ready(TIMEOUT)
        seen, own = instance.evidence(), of_host()
    assert seen.os_name == "Tiny 1"
    assert (seen.boot_id == own.boot_id) is (instance.kind is not Kind.VM)
    shared = {name for name in seen.namespaces if seen.namespaces[name] == own.namespaces[name]}
    if instance.kind is Kind.HOST:
        assert set(own.namespaces) - shared == {"mnt"}
        assert (seen.seccomp, seen.capabilities, seen.uid_map) == (own.seccomp, own.capabilities, own.uid_map)
    if instance.kind is Kind.CONTAINER:
        assert shared == {"time", "time_for_children"}
        assert seen.seccomp == 2 and seen.no_new_privs
        assert f"{seen.capabilities:x}" == "a80425fb"
        assert seen.uid_map.split()[0] == "0" and seen.uid_map.split()[1] != "0"


@pytest.mark.parametrize("state", ["created", "running", "ended"])
def test_destroy_is_final_and_idempotent(bench: Bench, state: str) -> None:
    if bench.kind == "vm" and state == "ended":
        pytest.skip("a boot more would show nothing new")
    instance = bench.make(*(LIVING if state == "running" else ("true",)), fake=LIVES if state == "running" else None)
    other = bench.again(instance)
    if state != "created":
        instance.start(None)
        instance.wait_entrypoint(TIMEOUT)
    if state == "ended":
        instance.wait(TIMEOUT)
    bench.again(instance).destroy()
    instance.destroy()
    other.destroy()
    assert not instance.record.directory.exists()


def test_a_name_is_taken_once(bench: Bench) -> None:
    first = bench.make("true")
    with pytest.raises(InstanceError):
        bench.driver.create(bench.request("true", name=first.record.name))
    assert bench.again(first).record.id == first.record.id


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_create_that_fails_leaves_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    def fail(record: Record) -> None:
        raise failure

    with monkeypatch.context() as patch:
        patch.setattr(Record, "save", fail)
        with pytest.raises((HybridError, type(failure))):
            bench.driver.create(bench.request("true"))


def test_the_files_given_as_streams_keep_their_owner(bench: Bench) -> None:
    instance = bench.make("true")
    paths = [bench.directory / name for name in ("out", "err")]
    out, err = (os.open(path, os.O_WRONLY | os.O_CREAT, 0o640) for path in paths)
    try:
        instance.start(Stdio(-1, out, err))
        instance.wait_entrypoint(TIMEOUT)
        instance.wait(TIMEOUT)
    finally:
        os.close(out)
        os.close(err)
    instance.destroy()
    assert [(path.stat().st_uid, path.stat().st_mode & 0o777) for path in paths] == [(os.getuid(), 0o640)] * 2


@pytest.mark.parametrize("how", ["attached", "detached"])
@pytest.mark.parametrize("moment", ["created", "started"])
def test_nothing_is_left_when_its_maker_was_killed(bench: Bench, shared_home: Home, how: str, moment: str) -> None:
    """Another process makes an instance and is killed: just before it starts it, while it does, or after."""
    if bench.kind == "fake":
        pytest.skip("what is scripted lives in one process")
    name = InstanceStore(shared_home).free_name("killed")
    image = bench.image
    words = (bench.kind, *map(str, (shared_home.root, shared_home.run, image.directory)), image.digest[7:], how, name)
    with process.spawn([sys.executable, "-c", CHILD, *words], stdin=process.PIPE, stdout=process.PIPE) as child:
        assert child.stdout is not None
        while (line := child.stdout.readline().decode().strip()) != moment:
            assert line, "the maker failed"
        child.kill()
        child.wait()
    record = InstanceStore(shared_home).get(name)
    instance = bench.driver.open(record)
    bench.made.append(instance)
    if moment == "started":
        assert instance.status().state is State.RUNNING
    instance.destroy()
