"""Outside programs. The only module that imports subprocess; nothing it starts is left behind."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeAlias

from hybrid.errors import HostError, ToolError
from hybrid.interrupt import deferred

Argument: TypeAlias = str | os.PathLike[str]
Stream: TypeAlias = int | IO[bytes] | None
Child: TypeAlias = subprocess.Popen[bytes]

DEVNULL = subprocess.DEVNULL
PIPE = subprocess.PIPE
STDOUT = subprocess.STDOUT

_PR_SET_CHILD_SUBREAPER = 36


def find(tool: str) -> str | None:
    """The path of a program, looked up in PATH and in the places for administrators; None if absent."""
    path = os.environ.get("PATH", os.defpath)
    return shutil.which(tool, path=f"{path}:/usr/local/sbin:/usr/sbin:/sbin")


def need(tool: str, package: str | None = None) -> str:
    """The path of a program that must be there; HostError names the package that brings it."""
    if (path := find(tool)) is None:
        raise HostError(f"{tool} is not installed", mend=f"apt-get install {package or tool}")
    return path


def run(
    argv: Sequence[Argument],
    *,
    input: bytes | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float | None = None,
    stdout: Stream = PIPE,
    pass_fds: Sequence[int] = (),
    setup: Callable[[], None] | None = None,
) -> bytes:
    """Run a program to its end and return what it wrote to standard output.

    ToolError when it fails, with the end of what it wrote to standard error; HostError when it is
    not there. `setup` runs in the child before the program does.
    """
    with spawn(
        argv,
        stdin=PIPE if input is not None else DEVNULL,
        stdout=stdout,
        stderr=PIPE,
        env=env,
        cwd=cwd,
        pass_fds=pass_fds,
        setup=setup,
    ) as child:
        try:
            out, err = child.communicate(input, timeout)
        except subprocess.TimeoutExpired:
            raise ToolError(f"{Path(argv[0]).name} did not end within {timeout:g} s", returncode=-1) from None
    if child.returncode != 0:
        raise failed(argv, child.returncode, err or b"")
    return out or b""


def failed(argv: Sequence[Argument], returncode: int, stderr: bytes) -> ToolError:
    """The error that says how a program failed, in its own last words."""
    text = stderr.decode(errors="replace").strip()
    last = text.splitlines()[-1] if text else f"exit status {returncode}"
    return ToolError(f"{Path(argv[0]).name}: {last}", returncode=returncode, stderr=text[-4000:])


@contextmanager
def spawn(
    argv: Sequence[Argument],
    *,
    stdin: Stream = DEVNULL,
    stdout: Stream = None,
    stderr: Stream = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    pass_fds: Sequence[int] = (),
    setup: Callable[[], None] | None = None,
    new_session: bool = False,
) -> Iterator[subprocess.Popen[bytes]]:
    """A running program; when the block ends, however it ends, so has the program."""
    child = None
    try:
        with deferred():
            child = launch(
                argv,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                env=env,
                cwd=cwd,
                pass_fds=pass_fds,
                setup=setup,
                new_session=new_session,
            )
        yield child
    finally:
        if child is not None:
            _end(child)


def _end(child: Child) -> None:
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(5)
        except subprocess.TimeoutExpired:
            child.kill()
    child.wait()
    for stream in (child.stdin, child.stdout, child.stderr):
        if stream is not None:
            stream.close()


class _Started(subprocess.Popen[bytes]):
    """A program that ends when a signal interrupts its start, when nobody has a name for it yet."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        try:
            super().__init__(*args, **settings)
        except BaseException:
            if getattr(self, "pid", None) is not None and self.returncode is None:
                self.kill()
                self.wait()
            raise


def launch(
    argv: Sequence[Argument],
    *,
    stdin: Stream = DEVNULL,
    stdout: Stream = None,
    stderr: Stream = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    pass_fds: Sequence[int] = (),
    setup: Callable[[], None] | None = None,
    new_session: bool = False,
    executable: Argument | None = None,
) -> Child:
    """Start a program that may outlive this process; the caller waits for it. See `spawn` for the rest.

    `executable` is what is executed when argv[0] is only to be its name.
    """
    try:
        return _Started(
            [os.fspath(argument) for argument in argv],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=None if env is None else dict(env),
            cwd=cwd,
            pass_fds=tuple(pass_fds),
            preexec_fn=setup,
            start_new_session=new_session,
            executable=executable,
        )
    except FileNotFoundError:
        if setup is not None:  # it may have changed the root directory: what is missing is not the host's
            raise
        raise HostError(f"{argv[0]} is not installed") from None


def reap(child: Child) -> float:
    """Wait for a launched program's end; the CPU seconds that it and the children it waited for took."""
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime


def _reap_group(leader: int) -> None:
    """Reap what a killed session leader has left to us (a subreaper) in its process group."""
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-leader, 0)


def disown(child: Child) -> None:
    """Let a launched program live on: it is for others to wait for."""
    child.returncode = 0


def reap_adopted(pid: int, timeout: float) -> float:
    """Wait for a child that this process did not start itself, if it is one; its CPU seconds, once it has ended."""
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        handle = os.pidfd_open(pid)
    except (ChildProcessError, ProcessLookupError):
        return 0.0
    try:
        if not ended(handle, timeout):
            return 0.0
        usage = os.wait4(pid, 0)[2]
        return usage.ru_utime + usage.ru_stime
    finally:
        os.close(handle)


def bounded(child: Child, timeout: float, give_up: Callable[[], None] | None = None) -> int | None:
    """A launched session leader's exit code as a shell tells it; None, and it is killed, after `timeout` seconds.

    `give_up` comes before the kill, and may get the program to end by itself within a second.
    """
    handle = os.pidfd_open(child.pid)
    in_time = False
    try:
        in_time = ended(handle, timeout)
    finally:
        if not in_time and give_up is not None:
            give_up()
            ended(handle, 1.0)
        os.close(handle)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        reap(child)
        _reap_group(child.pid)
    code = child.returncode
    return None if not in_time else code if code >= 0 else 128 - code


def ended(pidfd: int, timeout: float | None) -> bool:
    """Whether a process has ended, after waiting for that for at most `timeout` seconds (None: for ever)."""
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(None if timeout is None else max(0.0, timeout) * 1000))


def become_subreaper() -> None:
    """Make orphaned descendants children of this process, so that it can wait for them.

    An engine's process daemonises; where PID 1 reaps slowly, whoever waits for that pid to vanish
    would wait for seconds.
    """
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise HostError(f"prctl(PR_SET_CHILD_SUBREAPER): {os.strerror(ctypes.get_errno())}")


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None when there is no such living process.

    With the boot's identifier it names a process for good: pids are used again, this pair is not.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def exit_code(status: int) -> int:
    """A shell's exit code, 0 to 255, from a wait status."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def send_signal(pid: int, started: int | None, number: int = signal.SIGKILL) -> None:
    """Signal a process, but only the one that started at `started`; nothing happens when it is gone."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if start_time(pid) == started:
            signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        pass
    finally:
        os.close(handle)
