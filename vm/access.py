"""The inside of a VM: programs beside the command, its processes and its files."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from hybrid.driver import Execution, FileStatus, InsideProcess, Session, Size, Stdio
from hybrid.errors import CommandError, HybridError, InstanceError, NotReadyError
from vm import ssh

if TYPE_CHECKING:
    import paramiko

Up: TypeAlias = Callable[[], AbstractContextManager[None]]

CONNECTING = 60.0
"""Seconds within which there must be a way into the guest."""
_LONGEST_COMMAND = 8000
"""Bytes; dropbear takes 9000."""
_KILLED = 128 + signal.SIGKILL


class VmInside:
    """A `hybrid.driver.Inside` by SSH."""

    def __init__(self, directory: Path, run: Path, check: Callable[[], None], up: Up) -> None:
        """`check` raises InstanceError unless the guest can be entered, and returns once it can.

        `up` is for files: within it there is a guest to be entered, whether the instance runs or not.
        """
        self._directory, self._run, self._check, self._up = directory, run, check, up

    def exec(self, execution: Execution, stdio: Stdio) -> Session:
        if not execution.argv or not execution.argv[0]:
            raise CommandError("an empty word is no command", exit_code=127, mend="name a program")
        self._check()
        from vm.keeper import Remote

        return Remote(self._directory, self._run, execution, stdio)

    def processes(self) -> Sequence[InsideProcess]:
        from vm.processes import parse

        self._check()
        with self._connected() as connection:
            return parse(ssh.command(connection, "inside processes"))

    def stat(self, path: str) -> FileStatus:
        from vm import files

        with self._up(), self._connected() as connection, ssh.Exchange(connection, "inside stat", path) as exchange:
            return files.status(exchange.read)

    def pack(self, path: str, sink: int) -> None:
        from vm import files

        with self._up(), self._connected() as connection, ssh.Exchange(connection, "inside pack", path) as exchange:
            files.pack(exchange.read, lambda data: _write_all(sink, data), path)

    def unpack(self, directory: str, source: int) -> None:
        from vm import files

        with (
            self._up(),
            self._connected() as connection,
            ssh.Exchange(connection, "inside unpack", directory) as exchange,
        ):
            files.unpack(source, exchange.write)

    @contextlib.contextmanager
    def _connected(self) -> Iterator[ssh.Connection]:
        connection = ssh.Connection(self._directory, self._run, CONNECTING)
        try:
            yield connection
        finally:
            connection.close()


class Program:
    """A `hybrid.driver.Session`: one program with its own way into the guest, served by threads."""

    def __init__(self, connection: ssh.Way, execution: Execution, stdio: Stdio) -> None:
        self._connection = connection
        self._id = os.urandom(16).hex()
        self._name = execution.argv[0] if execution.argv else ""
        self._refusal = b""
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []
        self._wake_reads, self._wake_writes = os.pipe2(os.O_CLOEXEC)
        self._closing = threading.Lock()
        self._closed = False
        try:
            self._channel = self._execute(execution)
            self._serve(stdio, terminal=execution.terminal is not None)
        except BaseException:
            self.close()
            raise

    def _execute(self, execution: Execution) -> paramiko.Channel:
        words = ssh.encode(_request(execution, self._id))
        if len(words) > _LONGEST_COMMAND:
            ssh.command(self._connection, f"put {self._id}", _decoded(words))
            words = f"run-file {self._id}"
        else:
            words = f"run {words}"
        channel = self._connection.open()
        if (size := execution.terminal) is not None:
            channel.get_pty("xterm", size.columns, size.rows)
        channel.exec_command(words)
        return channel

    # ---- streams -------------------------------------------------------------------------

    def _serve(self, stdio: Stdio, *, terminal: bool) -> None:
        channel = self._channel
        parts: list[Callable[[], None]] = [
            lambda: self._drain(channel.recv, stdio.stdout, marked=terminal),
            lambda: self._feed(stdio.stdin),
        ]
        if not terminal:
            parts.append(lambda: self._drain(channel.recv_stderr, stdio.stderr, marked=True))
        self._threads = [threading.Thread(target=part, daemon=True, name="exec") for part in parts]
        for thread in self._threads:
            thread.start()

    def _drain(self, receive: Callable[[int], bytes], descriptor: int, *, marked: bool) -> None:
        """Pass on what the program writes. What starts with this program's mark is why it could not be executed."""
        held, mark, broken = b"", self._id.encode(), False
        while data := receive(1 << 16):
            if marked:
                held += data
                if held[: len(mark)] == mark[: len(held)]:
                    continue
                data, marked = held, False
            broken = broken or not _write(descriptor, data)
        if held.startswith(mark) and marked:
            self._refusal = held[len(mark) + 1 :]
        elif marked and held and not broken:
            _write(descriptor, held)

    def _feed(self, descriptor: int) -> None:
        """Pass on the caller's input to its end, or until the program has ended."""
        with contextlib.suppress(OSError, EOFError):
            while descriptor >= 0:
                ready = select.select([descriptor, self._wake_reads], [], [])[0]
                if self._wake_reads in ready:
                    return
                try:
                    data = os.read(descriptor, 1 << 16)
                except BlockingIOError:
                    continue
                if not data:
                    break
                self._channel.sendall(data)
            self._channel.shutdown_write()

    # ---- what the caller may do ----------------------------------------------------------

    def wait(self, timeout: float | None = None) -> int:
        if not self._channel.status_event.wait(timeout):
            raise NotReadyError(f"{self._name} did not end within {timeout:g} s", phase="exec")
        code = self._channel.exit_status
        self._stop_feeding()
        for thread in self._threads:
            thread.join()
        self.close()
        if self._refusal:
            raise self._refused(code)
        return code if 0 <= code < 256 else _KILLED

    def _refused(self, code: int) -> HybridError:
        text = self._refusal.decode(errors="replace")
        words = "".join(character if character.isprintable() else "?" for character in text)
        if code in (126, 127):
            return CommandError(words, exit_code=code, mend="check the command, as seen inside the instance")
        return InstanceError(f"nothing can be executed: {words}")

    def signal(self, number: int) -> None:
        if not self._is_over():
            with contextlib.suppress(HybridError):
                ssh.command(self._connection, f"signal {self._id} {int(number)}")

    def resize(self, size: Size) -> None:
        if not self._is_over():
            with contextlib.suppress(Exception):
                self._channel.resize_pty(size.columns, size.rows)

    def _is_over(self) -> bool:
        return self._closed or self._channel.status_event.is_set()

    def _stop_feeding(self) -> None:
        with self._closing, contextlib.suppress(OSError):
            if not self._closed:
                os.write(self._wake_writes, b".")

    def close(self) -> None:
        self._stop_feeding()
        with self._closing:
            if self._closed:
                return
            self._closed = True
        self._connection.close()
        for thread in self._threads:
            thread.join(1)
        os.close(self._wake_writes)
        os.close(self._wake_reads)


def _request(execution: Execution, identity: str) -> list[tuple[str, str]]:
    """What vm/init/session.c is to run."""
    pairs = [("id", identity), *(("arg", word) for word in execution.argv)]
    pairs += [("env", f"{key}={value}") for key, value in execution.env.items()]
    if execution.cwd is not None:
        pairs.append(("cwd", execution.cwd))
    if execution.user is not None:
        pairs.append(("user", execution.user))
    if execution.terminal is not None:
        pairs.append(("tty", "1"))
    return pairs


def _decoded(words: str) -> bytes:
    import base64

    return base64.b64decode(words)


def _write(descriptor: int, data: bytes) -> bool:
    """Write all of it; false when nobody reads any more."""
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:
            select.select([], [descriptor], [])
        except OSError:
            return False
    return True


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
