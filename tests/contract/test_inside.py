"""What a running instance shows of its inside, and what can be done to it from outside, alike for every kind."""

from __future__ import annotations

import io
import os
import signal
import stat
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hybrid.driver import Execution, FileStatus, InsideProcess, Instance, Size, State, Stdio
from hybrid.errors import HybridError, InstanceError, NotReadyError

if TYPE_CHECKING:
    from tests.contract.conftest import Bench

TIMEOUT = 120.0
LIVING = ("sh", "-c", "trap 'exit 3' TERM; touch /tmp/up; while :; do sleep 0.05; done")
UP = {"test": ["CMD", "test", "-e", "/tmp/up"], "start_interval": "20ms"}
TIME = 1_700_000_000


@pytest.fixture
def real(bench: Bench) -> Bench:
    if bench.kind == "fake":
        pytest.skip("a scripted instance has no inside")
    return bench


def living(bench: Bench, *argv: str, **keys: object) -> Instance:
    """A detached instance whose command handles its stop signal by now."""
    instance = bench.make(*(argv or LIVING), healthcheck=UP, **keys)
    instance.start(None)
    instance.wait_ready(TIMEOUT)
    return instance


def run(instance: Instance, *argv: str, stdin: int = -1, **keys: object) -> tuple[int, bytes]:
    """Execute a program inside to its end: exit code and output."""
    output = os.memfd_create("output")
    try:
        session = instance.inside.exec(Execution(argv, **keys), Stdio(stdin, output, 2))  # type: ignore[arg-type]
        try:
            return session.wait(TIMEOUT), os.pread(output, 1 << 20, 0)
        finally:
            session.close()
    finally:
        os.close(output)


def packed(instance: Instance, path: str) -> tarfile.TarFile:
    """What `pack` gives, read through a pipe while it is written."""
    reads, writes = os.pipe()
    found = bytearray()
    failures: list[BaseException] = []

    def write() -> None:
        try:
            instance.inside.pack(path, writes)
        except BaseException as error:
            failures.append(error)
        finally:
            os.close(writes)

    thread = threading.Thread(target=write)
    thread.start()
    with os.fdopen(reads, "rb") as pipe:
        found += pipe.read()
    thread.join(TIMEOUT)
    if failures:
        raise failures[0]
    return tarfile.open(fileobj=io.BytesIO(bytes(found)), errorlevel=2)


def unpack(instance: Instance, directory: str, *members: tuple[tarfile.TarInfo, bytes]) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as file:
        for info, data in members:
            file.addfile(info, io.BytesIO(data))
    reads, writes = os.pipe()

    def write() -> None:
        with os.fdopen(writes, "wb") as pipe, suppress(BrokenPipeError):
            pipe.write(out.getvalue())

    thread = threading.Thread(target=write)
    thread.start()
    try:
        instance.inside.unpack(directory, reads)
    finally:
        os.close(reads)
        thread.join(TIMEOUT)


def member(
    name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o640, owner: int = 0
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode, info.size, info.mtime = kind, link, mode, len(data), TIME
    info.uid = info.gid = owner
    return info, data


@contextmanager
def stopped_and_running(bench: Bench, *argv: str) -> Iterator[Callable[[], Iterator[tuple[str, Instance]]]]:
    instance = bench.make(*(argv or LIVING), healthcheck=UP)

    def states() -> Iterator[tuple[str, Instance]]:
        yield "created", instance
        instance.start(None)
        instance.wait_ready(TIMEOUT)
        yield "running", instance
        instance.stop(TIMEOUT)
        yield "exited", instance

    yield states


# ---- processes -----------------------------------------------------------------------


def test_top(real: Bench) -> None:
    instance = living(real)
    session = instance.inside.exec(Execution(("sleep", "777"), user="app"), Stdio(-1, 1, 2))
    deadline = time.monotonic() + TIMEOUT
    found: list[InsideProcess] = []
    while not found and time.monotonic() < deadline:
        found = [each for each in instance.inside.processes() if each.command == "sleep 777"]
    session.close()
    (own,) = found
    every = {each.pid: each for each in instance.inside.processes()}
    assert own.user == "app"
    assert own.resident_bytes > 0 and own.started > 0 and own.cpu_seconds >= 0
    if real.kind != "host":  # there pids are the host's
        assert every[1].command.startswith("sh -c trap")
        assert every[1].user == "root" and every[1].parent == 0
        assert max(every) < 30000
    assert any(each.command.startswith("sh -c trap") for each in every.values())


def test_nothing_is_told_of_what_does_not_run(real: Bench) -> None:
    instance = real.make("true")
    for ask in (
        instance.stats,
        instance.inside.processes,
        instance.pause,
        instance.unpause,
        lambda: instance.inside.exec(Execution(("true",)), Stdio(-1, 1, 2)),
        lambda: instance.attach(Stdio(-1, 1, 2)),
    ):
        with pytest.raises(InstanceError):
            ask()


# ---- files ---------------------------------------------------------------------------


def test_files_go_in_and_come_out(real: Bench) -> None:
    """Contents, owners, modes, times and links, whether it runs or not."""
    with stopped_and_running(real) as states:
        for state, instance in states():
            sent = [
                member(state, kind=tarfile.DIRTYPE, mode=0o751, owner=1000),
                member(f"{state}/file", b"hello\0\n" * 5000, mode=0o4755, owner=1000),
                member(f"{state}/link", kind=tarfile.SYMTYPE, link="/etc/passwd"),
                member(f"{state}/hard", kind=tarfile.LNKTYPE, link=f"{state}/file"),
                member(f"{state}/pipe", kind=tarfile.FIFOTYPE, mode=0o600),
                member(f"{state}/" + "n" * 200, b"long"),
            ]
            unpack(instance, "/root", *sent)
            seen = instance.inside.stat(f"/root/{state}/file")
            assert stat.S_ISREG(seen.mode) and stat.S_IMODE(seen.mode) == 0o4755
            assert (seen.size, seen.modified) == (35000, TIME)
            seen = instance.inside.stat(f"/root/{state}/link")
            assert stat.S_ISLNK(seen.mode) and seen.target == "/etc/passwd"
            with packed(instance, f"/root/{state}") as archive:
                found = {each.name: each for each in archive}
                file = archive.extractfile(f"{state}/file")
                assert file is not None and file.read() == b"hello\0\n" * 5000
                regular, hard = sorted((found[f"{state}/file"], found[f"{state}/hard"]), key=lambda each: each.islnk())
                assert regular.isreg() and hard.islnk() and hard.linkname == regular.name
                assert {info.name for info, _ in sent} == set(found)
                directory = found[state]
                assert (directory.isdir(), directory.mode, directory.uid, directory.mtime) == (True, 0o751, 1000, TIME)
                assert (regular.mode, regular.uid, regular.gid) == (0o4755, 1000, 1000)
                assert found[f"{state}/link"].linkname == "/etc/passwd"
                assert found[f"{state}/pipe"].isfifo()
            if state == "running":
                code, out = run(instance, "stat", "-c", "%u:%g %a %s", "/root/running/file", "/root/running")
                assert code == 0 and out.split(b"\n")[0] == b"1000:1000 4755 35000"
                assert out.split(b"\n")[1].startswith(b"1000:1000 751")


def test_links_that_point_out_stay_inside(real: Bench) -> None:
    outside = real.directory / "outside"
    outside.mkdir()
    (outside / "secret").write_text("of the host")
    with stopped_and_running(real) as states:
        for state, instance in states():
            up = "../" * 20
            links = [
                member(f"{state}-abs", kind=tarfile.SYMTYPE, link=str(outside)),
                member(f"{state}-up", kind=tarfile.SYMTYPE, link=f"{up}{outside}"),
                member(f"{state}-in", kind=tarfile.SYMTYPE, link="/etc"),
            ]
            unpack(instance, "/root", *links)
            for name in (f"{state}-abs", f"{state}-up"):
                with pytest.raises((FileNotFoundError, NotADirectoryError)):
                    instance.inside.stat(f"/root/{name}/secret")
                with pytest.raises((FileNotFoundError, NotADirectoryError)):
                    packed(instance, f"/root/{name}/secret")
                with pytest.raises((OSError, HybridError)):
                    unpack(instance, f"/root/{name}", member("made", b"x"))
            assert instance.inside.stat(f"/root/{state}-in/passwd").size > 0
            with packed(instance, f"/root/{state}-in/passwd") as archive:
                assert archive.getnames() == ["passwd"]
    assert [path.name for path in outside.iterdir()] == ["secret"]


def test_an_archive_does_not_leave_its_directory(real: Bench) -> None:
    instance = living(real)
    unpack(instance, "/root", member("into", kind=tarfile.DIRTYPE, mode=0o755))
    for hostile in (
        [member("../escaped", b"x")],
        [member("a/../../escaped", b"x")],
        [member("door", kind=tarfile.SYMTYPE, link="/etc"), member("door/escaped", b"x")],
        [member("door", kind=tarfile.SYMTYPE, link=".."), member("door/escaped", b"x")],
    ):
        with suppress(OSError, HybridError):
            unpack(instance, "/root/into", *hostile)
        for path in ("/root/escaped", "/etc/escaped", "/escaped"):
            with pytest.raises(FileNotFoundError):
                instance.inside.stat(path)


def test_what_is_not_there(real: Bench) -> None:
    instance = living(real)
    with pytest.raises(FileNotFoundError):
        instance.inside.stat("/nowhere")
    with pytest.raises(NotADirectoryError):
        instance.inside.stat("/etc/passwd/x")
    with pytest.raises(FileNotFoundError):
        packed(instance, "/nowhere/x")
    with pytest.raises((FileNotFoundError, HybridError)):
        unpack(instance, "/nowhere", member("x"))
    assert stat.S_ISDIR(instance.inside.stat("/").mode)
    assert isinstance(instance.inside.stat("/etc/"), FileStatus)


# ---- pause ---------------------------------------------------------------------------


def test_pause(real: Bench) -> None:
    counting = "trap 'exit 3' TERM; i=0; touch /tmp/up; while :; do i=$((i+1)); echo $i >/tmp/n; sleep 0.02; done"
    instance = living(real, "sh", "-c", counting)
    instance.pause()
    other = real.again(instance)
    assert other.status().state is State.PAUSED
    with pytest.raises(InstanceError):
        other.pause()
    with pytest.raises(InstanceError):
        other.inside.exec(Execution(("true",)), Stdio(-1, 1, 2))
    other.unpause()
    assert instance.status().state is State.RUNNING
    with pytest.raises(InstanceError):
        instance.unpause()
    before = run(instance, "cat", "/tmp/n")[1]
    deadline = time.monotonic() + TIMEOUT
    while run(instance, "cat", "/tmp/n")[1] == before:
        assert time.monotonic() < deadline
    instance.pause()
    assert real.again(instance).stop(TIMEOUT) == 3
    assert instance.status().state is State.EXITED


def test_a_paused_instance_is_killed(real: Bench) -> None:
    instance = living(real)
    instance.pause()
    instance.signal(signal.SIGKILL)
    assert instance.wait(TIMEOUT) == 128 + signal.SIGKILL


def test_a_paused_instance_is_destroyed(real: Bench) -> None:
    instance = living(real)
    instance.pause()
    real.again(instance).destroy()
    assert not instance.record.directory.exists()


# ---- log and attach ------------------------------------------------------------------


def test_log(real: Bench) -> None:
    """Bytes as they were written, in order, with times; also when followed by another process while it runs."""
    script = (
        "printf 'one\\n'; sleep 0.3; printf 'two\\n' >&2; sleep 0.3; printf 'a\\000b\\377'; sleep 0.3; "
        "printf 'c\\n\\n'; sleep 0.3; printf 'end'; exit 4"
    )
    instance = real.make("sh", "-c", script)
    began = time.time()
    instance.start(None)
    followed = list(real.again(instance).log(follow=True))
    assert real.again(instance).wait(TIMEOUT) == 4
    parts = list(instance.log())
    for told in (parts, followed):
        assert b"".join(part.data for part in told if part.stream == 1) == b"one\na\0b\xffc\n\nend"
        assert b"".join(part.data for part in told if part.stream == 2) == b"two\n"
        assert [part.stream for part in told[:3]] == [1, 2, 1]
    times = [part.time for part in parts if part.time is not None]
    assert len(times) == len(parts) and times == sorted(times)
    assert began - 5 < times[0] and times[-1] - times[0] > 0.5


def test_a_flood_is_logged_whole(real: Bench) -> None:
    instance = real.make("sh", "-c", "yes 0123456789abcdef | head -n 200000")
    instance.start(None)
    assert instance.wait(TIMEOUT) == 0
    assert b"".join(part.data for part in instance.log()) == b"0123456789abcdef\n" * 200000


def test_logs_of_all_runs(real: Bench) -> None:
    instance = real.make("sh", "-c", "echo run; exit 6")
    for _ in range(2):
        instance.start(None)
        assert instance.wait(TIMEOUT) == 6
    assert [part.data for part in real.again(instance).log()] == [b"run\n", b"run\n"]


def test_attach(real: Bench) -> None:
    """Input goes to the command until it ends, and what it writes from then on comes out."""
    script = "echo before; touch /tmp/up; while read line; do echo got $line; echo err >&2; done; echo end; exit 5"
    instance = living(real, "sh", "-c", script, stdin_open=True)
    while not any(part.data for part in instance.log()):
        time.sleep(0.05)
    out, err = (os.memfd_create(name) for name in ("out", "err"))
    reads, writes = os.pipe()
    try:
        other = real.again(instance)
        other.attach(Stdio(reads, out, err))
        os.write(writes, b"a\nb\n")
        with pytest.raises(NotReadyError):
            other.wait(1.5)
        os.close(writes)
        assert other.wait(TIMEOUT) == 5
        assert os.pread(out, 1 << 16, 0) == b"got a\ngot b\nend\n"
        assert os.pread(err, 1 << 16, 0) == b"err\nerr\n"
    finally:
        for descriptor in (out, err, reads):
            os.close(descriptor)


def test_input_that_was_not_kept_open_stays_empty(real: Bench) -> None:
    instance = real.make("sh", "-c", "cat; echo end")
    instance.start(None)
    assert instance.wait(TIMEOUT) == 0
    assert b"".join(part.data for part in instance.log()) == b"end\n"


def test_a_large_input_is_attached(real: Bench) -> None:
    data = os.urandom(300_000) + b"\x04\0\x03"
    instance = living(real, "sh", "-c", "touch /tmp/up; sleep 0.5; md5sum; wc -c </dev/null", stdin_open=True)
    out = os.memfd_create("out")
    source = os.memfd_create("in")
    os.write(source, data)
    os.lseek(source, 0, os.SEEK_SET)
    try:
        instance.attach(Stdio(source, out, out))
        assert instance.wait(TIMEOUT) == 0
        import hashlib

        assert os.pread(out, 100, 0).split()[0].decode() == hashlib.md5(data).hexdigest()
    finally:
        os.close(out)
        os.close(source)


# ---- the command's terminal ----------------------------------------------------------


TTY = "test -t 0 && test -t 1 && test -t 2 && echo tty; read x; echo got $x; stty size; exit 7"


def test_a_terminal_attached(real: Bench) -> None:
    out = os.memfd_create("out")
    reads, writes = os.pipe()
    instance = real.make("sh", "-c", TTY, tty=True)
    try:
        instance.start(Stdio(reads, out, -1))
        instance.wait_entrypoint(TIMEOUT)
        instance.resize(Size(33, 111))
        os.write(writes, b"word\n")
        assert instance.wait(TIMEOUT) == 7
        text = os.pread(out, 1 << 16, 0)
        assert text.startswith(b"tty\r\n") and b"got word\r\n" in text and b"33 111\r\n" in text
    finally:
        for descriptor in (out, reads, writes):
            os.close(descriptor)


def test_a_terminal_detached(real: Bench) -> None:
    instance = real.make("sh", "-c", TTY, tty=True, stdin_open=True)
    instance.start(None)
    instance.wait_entrypoint(TIMEOUT)
    while not any(b"tty" in part.data for part in instance.log()):
        time.sleep(0.05)
    out = os.memfd_create("out")
    reads, writes = os.pipe()
    try:
        other = real.again(instance)
        other.attach(Stdio(reads, out, -1))
        other.resize(Size(44, 122))
        with pytest.raises(NotReadyError):
            other.wait(1)
        os.write(writes, b"word\n")
        assert other.wait(TIMEOUT) == 7
        assert b"got word\r\n44 122\r\n" in os.pread(out, 1 << 16, 0)
        assert {part.stream for part in instance.log()} == {1}
    finally:
        for descriptor in (out, reads, writes):
            os.close(descriptor)


# ---- figures -------------------------------------------------------------------------


def test_stats(real: Bench) -> None:
    script = "trap 'exit 3' TERM; touch /tmp/up; while :; do :; done"
    instance = living(real, "sh", "-c", script, mem_limit="128m")
    first = real.again(instance).stats()
    deadline = time.monotonic() + TIMEOUT
    while instance.stats().cpu_seconds <= first.cpu_seconds:
        assert time.monotonic() < deadline
    assert first.cpu_seconds > 0 and first.memory_bytes > 0 and first.processes >= 1
    if real.kind == "container":
        assert first.memory_limit == 128 << 20
        assert first.memory_bytes < 128 << 20


def test_when_it_ran(real: Bench) -> None:
    instance = real.make("sh", "-c", "sleep 0.2; exit 2")
    assert instance.status().started is None
    before = time.time()
    instance.start(None)
    instance.wait_entrypoint(TIMEOUT)
    assert instance.wait(TIMEOUT) == 2
    status = real.again(instance).status()
    assert status.started is not None and status.finished is not None
    assert before - 1 <= status.started <= status.finished <= time.time() + 1
    assert not status.oom_killed


def test_two_starts_at_once(real: Bench) -> None:
    """One of them wins; the other is told."""
    instance = real.make(*LIVING, healthcheck=UP)
    results: list[object] = []

    def start() -> None:
        try:
            real.again(instance).start(None)
            results.append(True)
        except InstanceError as error:
            results.append(error)

    threads = [threading.Thread(target=start) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert len(results) == 2 and results.count(True) == 1
    other = real.again(instance)
    other.wait_ready(TIMEOUT)
    assert other.stop(TIMEOUT) == 3


def test_removed_while_a_program_is_executed(real: Bench) -> None:
    instance = living(real)
    session = instance.inside.exec(Execution(("sleep", "1000")), Stdio(-1, 1, 2))
    real.again(instance).destroy()
    try:
        assert session.wait(TIMEOUT) != 0
    except HybridError:
        pass
    finally:
        session.close()
    assert not Path(instance.record.directory).exists()
