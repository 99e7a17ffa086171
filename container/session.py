"""Programs executed in running instances: served, signalled and waited for by the process that asked for them."""

from __future__ import annotations

import os
import signal
import threading
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from hybrid import process, usage
from hybrid.errors import HybridError, NotReadyError
from hybrid.process import Child

if TYPE_CHECKING:
    from container.launched import Launched
    from container.terminal import Terminal
    from hybrid.driver import Size, Stdio


class ProcessSession(ABC):
    """See `hybrid.driver.Session`. `child` is a child of this process that ends when the program has."""

    def __init__(self, child: Child, terminal: Terminal | None) -> None:
        self._pid = child.pid
        self._ended = os.pidfd_open(child.pid)
        process.disown(child)  # it is waited for by its pid
        self._terminal = terminal
        self._code: int | None = None
        self._error: HybridError | None = None
        """Why it could not be executed."""
        self._lock = threading.Lock()
        """Held while the program is signalled, and while it is reaped."""

    def wait(self, timeout: float | None = None) -> int:
        if self._code is None and self._error is None:
            if not self._serve(timeout):
                raise NotReadyError(f"the program did not end within {timeout:g} s", phase="exec")
            self._conclude()
        if self._error is not None:
            raise self._error
        assert self._code is not None
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
            self._conclude()

    def _conclude(self) -> None:
        try:
            self._code = self._finish()
        except HybridError as error:
            self._error = error

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
            try:
                status = os.waitpid(self._pid, 0)[1]
            except ChildProcessError:  # this process has destroyed the instance meanwhile, and reaped what it killed
                status = signal.SIGKILL
        if self._terminal is not None:
            self._terminal.close()
        return process.exit_code(status)


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
                if launched.detached:
                    self._adopt()
            except BaseException:
                self.close()
                raise

    def _adopt(self) -> None:
        """Become the program's parent, once the runtime has made it, left it to us and ended."""
        process.ended(self._ended, None)
        pid = self._launched.pid()
        if pid is None:
            return  # the runtime has failed: who waits is told
        os.waitpid(self._pid, 0)
        os.close(self._ended)
        _ADOPTED.add(pid)
        self._pid, self._ended = pid, os.pidfd_open(pid)
        self._handle = os.dup(self._ended)

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
            _ADOPTED.discard(self._pid)
            bury()
            if self._handle >= 0:
                os.close(self._handle)
                self._handle = -1
            self._launched.release()


_ADOPTED: set[int] = set()
"""Programs that are this process's children because a runtime left them to it."""


def bury() -> None:
    """Kill and reap children of ours that live in a pid namespace without being its first process.

    They are what an exec leaves to its adopter when its runtime ends before it. A namespace ends only
    when all in it are reaped, so one of these would keep its container from ever ending.
    """
    for pid in usage.children():
        with suppress(OSError):
            status = Path(f"/proc/{pid}/status").read_text()
            inner = next(line.split()[2:] for line in status.splitlines() if line.startswith("NSpid:"))
            if inner and inner[-1] != "1" and pid not in _ADOPTED:
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
