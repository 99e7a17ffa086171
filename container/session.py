"""Programs executed in running instances: served, signalled and waited for by the process that asked for them."""

from __future__ import annotations

import os
import signal
import threading
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from container.runtime import exec_failure, in_view
from container.streams import Lent, without_null
from hybrid import process, usage
from hybrid.driver import Stdio
from hybrid.errors import HybridError, NotReadyError
from hybrid.process import Child
from hybrid.store import new_id

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from container.runtime import Runtime
    from container.terminal import ConsoleSocket, Terminal
    from hybrid.driver import Size


class ProcessSession(ABC):
    """See `hybrid.driver.Session`. `child` is a child of this process that ends when the program has."""

    def __init__(self, child: Child, terminal: Terminal | None) -> None:
        self._child = child
        self._ended = os.pidfd_open(child.pid)
        self._terminal = terminal
        self._code: int | None = None
        self._lock = threading.Lock()
        """Held while the program is signalled, and while it is reaped."""

    def wait(self, timeout: float | None = None) -> int:
        if self._code is None:
            if not self._serve(timeout):
                raise NotReadyError(f"the program did not end within {timeout:g} s", phase="exec")
            self._code = self._finish()
        return self._code

    def signal(self, number: int) -> None:
        with self._lock:
            if self._ended >= 0 and (program := self._program()) is not None:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(program, number)

    def resize(self, size: Size) -> None:
        if self._terminal is not None:
            self._terminal.resize(size)

    def close(self) -> None:
        if self._ended >= 0:
            self.signal(signal.SIGKILL)
            process.ended(self._ended, None)
            with suppress(HybridError):
                self._code = self._finish()

    @abstractmethod
    def _program(self) -> int | None:
        """The pidfd of the program; None when there is none, or none any more."""

    def _serve(self, timeout: float | None) -> bool:
        """Serve the streams until the program has ended: True, or for `timeout` seconds."""
        if self._terminal is not None:
            return self._terminal.serve(self._ended, timeout)
        return process.ended(self._ended, timeout)

    def _finish(self) -> int:
        """The ended program's exit code; all that the session holds is released."""
        with self._lock:
            ended, self._ended = self._ended, -1
            os.close(ended)
            process.reap(self._child)
        if self._terminal is not None:
            self._terminal.close()
        code = self._child.returncode
        return code if code >= 0 else 128 - code


class HostSession(ProcessSession):
    """The program is this process's child."""

    def _program(self) -> int | None:
        return self._ended


class ContainerSession(ProcessSession):
    """The program is the child of an OCI runtime's exec, which passes its exit code on.

    If this process is killed, the runtime stays the program's parent and ends with it.
    """

    def __init__(self, launched: Launched, stdio: Stdio, size: Size | None) -> None:
        self._launched = launched
        self._handle = -1
        super().__init__(launched.child, None)
        if launched.console is not None:
            try:
                self._terminal = launched.terminal(self._ended, stdio, size)
            except BaseException:
                self.close()
                raise

    def _program(self) -> int | None:
        if self._handle < 0:
            pid = self._launched.wait_pid(self._ended)
            if pid is None:
                return None
            with suppress(ProcessLookupError):
                self._handle = os.pidfd_open(pid)
                if process.ended(self._ended, 0):  # it may be another's pid by now
                    os.close(self._handle)
                    self._handle = -1
        return self._handle if self._handle >= 0 else None

    def _finish(self) -> int:
        try:
            code = super()._finish()
            if code != 0:
                self._launched.check()
            return code
        finally:
            bury()
            if self._handle >= 0:
                os.close(self._handle)
                self._handle = -1
            self._launched.release()


class Launched:
    """A runtime's exec that has been started, and the files through which it tells how it went."""

    def __init__(
        self, runtime: Runtime, id: str, directory: Path, spec: Mapping[str, Any], stdio: Stdio, null: int
    ) -> None:
        """`null` is a null device that the container may have."""
        process.become_subreaper()  # for what a runtime leaves that fails
        token = new_id()
        self.command = str(spec["args"][0])
        self.console: ConsoleSocket | None = None
        self._runtime = runtime
        self._directory = directory
        self._pid_file = directory / f"exec-{token}.pid"
        self._log = os.memfd_create("log")
        self._lent: Lent | None = None
        given = os.memfd_create("process")
        try:
            options = self._options(spec, given, token)
            argv = runtime.argv("exec", *options, id, log=f"/proc/self/fd/{self._log}")
            streams = without_null(stdio if self.console is None else Stdio(-1, -1, -1), null)
            self._lent = Lent(streams)
            self.child = in_view(
                lambda: process.launch(
                    argv,
                    stdin=streams.stdin,
                    stdout=streams.stdout,
                    stderr=streams.stderr,
                    pass_fds=[given, self._log],
                    new_session=True,
                )
            )
        except BaseException:
            self.release()
            raise
        finally:
            os.close(given)

    def _options(self, spec: Mapping[str, Any], given: int, token: str) -> list[str]:
        import json

        os.write(given, json.dumps(spec).encode())
        options = ["--process", f"/proc/self/fd/{given}", "--pid-file", str(self._pid_file)]
        if spec["terminal"]:
            from container.terminal import ConsoleSocket

            self.console = ConsoleSocket(self._directory, f"exec-{token}.tty")
            options += ["--tty", "--console-socket", self.console.path]
        return options

    def wait_pid(self, ended: int) -> int | None:
        """The program's pid, once it is there; None when the runtime has ended before."""
        from inotify_simple import INotify, flags

        with INotify() as notify:
            notify.add_watch(str(self._directory), flags.CREATE | flags.MODIFY | flags.MOVED_TO | flags.CLOSE_WRITE)
            while not process.ended(ended, 0):
                with suppress(FileNotFoundError, ValueError):
                    return int(self._pid_file.read_text())
                process.either(ended, notify.fileno())
                notify.read(timeout=0)
        return None

    def terminal(self, ended: int, stdio: Stdio, size: Size | None) -> Terminal | None:
        """The program's terminal, once the runtime has delivered it; None when it has ended before."""
        from container.terminal import Terminal, set_size

        assert self.console is not None
        process.either(ended, self.console.fileno())
        master = self.console.receive()
        self.console.close()
        if master is None:
            return None
        if size is not None:
            set_size(master, size)
        return Terminal(master, stdio)

    def check(self) -> None:
        """The error that the runtime logged, if it is what failed, and not the program."""
        if error := exec_failure(self._runtime, os.pread(self._log, 65536, 0).decode(errors="replace"), self.command):
            raise error

    def release(self) -> None:
        if self._lent is not None:
            self._lent.give_back()
        if self._log >= 0:
            os.close(self._log)
            self._log = -1
        if self.console is not None:
            self.console.close()
        self._pid_file.unlink(missing_ok=True)


def bury() -> None:
    """Kill and reap children of ours that live in a pid namespace without being its first process.

    They are what an exec leaves to its adopter when its runtime ends before it. A namespace ends only
    when all in it are reaped, so one of these would keep its container from ever ending.
    """
    for pid in usage.children():
        with suppress(OSError):
            status = Path(f"/proc/{pid}/status").read_text()
            inner = next(line.split()[2:] for line in status.splitlines() if line.startswith("NSpid:"))
            if inner and inner[-1] != "1":
                os.kill(pid, signal.SIGKILL)  # cannot be another's: a child's pid is not used again before it is reaped
                os.waitpid(pid, 0)


class FailedSession:
    """See `hybrid.driver.Session`: of a program that could not be executed."""

    def __init__(self, error: HybridError) -> None:
        self._error = error

    def wait(self, timeout: float | None = None) -> int:
        raise self._error

    def signal(self, number: int) -> None:
        pass

    def resize(self, size: Size) -> None:
        pass

    def close(self) -> None:
        pass
