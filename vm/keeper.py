"""The connection that stays: a process that keeps one SSH connection into a guest for the programs that come next.

Importing SSH and agreeing on keys takes an emulated guest a second; a program on a connection that is there, a few
hundredths. The first `exec` starts the keeper, and those that follow find it at a socket in the instance's run
directory and hand it their streams. It ends with the guest, or when nobody has asked for IDLE seconds.

    python -P -m vm.keeper DIRECTORY RUN    for the instance in DIRECTORY, whose run directory is RUN

A request is one connection. It begins with a length, the description of the program as JSON, and the three
descriptors; lines of JSON follow: from the client `{"signal": 15}` and `{"resize": [24, 80]}`, from the keeper at the
end `{"exit": 0}` or what went wrong. A client that hangs up, or is killed, kills its program.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybrid import process
from hybrid.driver import Execution, Size, Stdio
from hybrid.errors import CommandError, HybridError, InstanceError, NotReadyError
from hybrid.store import locked

if TYPE_CHECKING:
    import paramiko

    from vm import ssh
    from vm.access import Program

IDLE = 60.0
"""Seconds after which a keeper that nobody needs ends."""
STARTING = 90.0
"""Seconds that a keeper may take to connect. The first way into an emulated guest on a busy host needs some."""
LONGEST = 8 << 20
"""Bytes of a request."""
_SOCKET = "exec"
_TRIES = 200
_PAUSE = 0.05
"""Seconds between them."""


# The client's side


class Remote:
    """A `hybrid.driver.Session` that a keeper serves."""

    def __init__(self, directory: Path, run: Path, execution: Execution, stdio: Stdio) -> None:
        self._name = execution.argv[0] if execution.argv else ""
        self._sending = threading.Lock()
        self._socket = _connect(directory, run)
        try:
            self._ask(execution, stdio)
        except BaseException:
            self.close()
            raise

    def _ask(self, execution: Execution, stdio: Stdio) -> None:
        values = asdict(execution) | {"env": dict(execution.env)}
        body = json.dumps(values).encode()
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            streams = [each if each >= 0 else null for each in (stdio.stdin, stdio.stdout, stdio.stderr)]
            socket.send_fds(self._socket, [struct.pack(">I", len(body))], streams)
            self._socket.sendall(body)
        except OSError:
            raise _lost() from None
        finally:
            os.close(null)

    def wait(self, timeout: float | None = None) -> int:
        answer = self._answer(timeout)
        self.close()
        if "exit" in answer:
            return int(answer["exit"])
        what, mend = str(answer["what"]), str(answer["mend"])
        if answer["code"] in (126, 127):
            raise CommandError(what, exit_code=int(answer["code"]), mend=mend)
        raise InstanceError(what, mend=mend)

    def _answer(self, timeout: float | None) -> Mapping[str, Any]:
        data = b""
        while not data.endswith(b"\n"):
            if not select.select([self._socket], [], [], timeout)[0]:
                raise NotReadyError(f"{self._name} did not end within {timeout:g} s", phase="exec")
            try:
                more = self._socket.recv(1 << 16)
            except OSError:
                more = b""
            if not more:
                self.close()
                raise _lost()
            data += more
        answer: Mapping[str, Any] = json.loads(data)
        return answer

    def signal(self, number: int) -> None:
        self._tell({"signal": int(number)})

    def resize(self, size: Size) -> None:
        self._tell({"resize": [size.rows, size.columns]})

    def _tell(self, what: Mapping[str, Any]) -> None:
        with self._sending, contextlib.suppress(OSError):
            self._socket.sendall(json.dumps(what).encode() + b"\n")

    def close(self) -> None:
        self._socket.close()


def _lost() -> InstanceError:
    return InstanceError("the connection into the guest is lost", mend="hybrid ps -a shows whether it runs")


def _connect(directory: Path, run: Path) -> socket.socket:
    """A connection to the instance's keeper, which is started when there is none."""
    if (found := _try(run)) is not None:
        return found
    try:
        with locked(run / "exec.lock"):
            if (found := _try(run)) is not None:  # another has started it meanwhile
                return found
            _start(directory, run)
            if (found := _try(run)) is not None:
                return found
    except FileNotFoundError:
        raise InstanceError("the instance has ended") from None
    raise _lost()


def _try(run: Path) -> socket.socket | None:
    found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        found.connect(str(run / _SOCKET))
        return found
    except (ConnectionRefusedError, FileNotFoundError):
        found.close()
        return None


def _start(directory: Path, run: Path) -> None:
    """Start a keeper and return when it listens; its own error when it does not come to that."""
    told, telling = os.pipe2(os.O_CLOEXEC)
    argv = [sys.executable, "-P", "-m", "vm.keeper", str(directory), str(run)]
    try:
        child = process.launch(argv, stdin=process.DEVNULL, stdout=telling, stderr=process.DEVNULL, new_session=True)
        os.close(telling)
        telling = -1
        ready = select.select([told], [], [], STARTING)[0]
        words = os.read(told, 65536) if ready else b""
        if words == b"ready\n":
            process.disown(child)
            return
        process.bounded(child, 0)
        raise InstanceError(words.decode(errors="replace").strip() or f"no way into the guest within {STARTING:g} s")
    finally:
        os.close(told)
        if telling >= 0:
            os.close(telling)


# The keeper's side


class Lease:
    """What a program has of the keeper's connection: its own channels. Closing it closes no more than those."""

    def __init__(self, connection: ssh.Connection) -> None:
        self._connection = connection
        self._channels: list[paramiko.Channel] = []

    def open(self) -> paramiko.Channel:
        channel = self._connection.open()
        self._channels.append(channel)
        return channel

    def close(self) -> None:
        for channel in self._channels:
            channel.close()


class Keeper:
    """Serves requests until nobody asks any more, or the guest has gone."""

    def __init__(self, directory: Path, run: Path) -> None:
        from vm import ssh

        self._busy = 0
        self._changing = threading.Lock()
        self._opening = threading.Lock()
        self._woken, self._wake = os.pipe2(os.O_CLOEXEC)
        self._path = run / _SOCKET
        self._connection = ssh.Connection(directory, run, STARTING)
        self._path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._listener.bind(str(self._path))
        self._path.chmod(0o600)
        self._listener.listen(64)
        threading.Thread(target=self._await_end, daemon=True).start()

    def serve(self) -> None:
        while True:
            ready = select.select([self._listener.fileno(), self._woken], [], [], IDLE)[0]
            if self._woken in ready or (not ready and self._is_idle()):
                break
            if ready:
                request, _ = self._listener.accept()
                self._count(1)
                threading.Thread(target=self._handle, args=(request,), daemon=True).start()
        self._path.unlink(missing_ok=True)

    def _await_end(self) -> None:
        self._connection.transport.join()
        os.write(self._wake, b".")

    def _is_idle(self) -> bool:
        with self._changing:
            return self._busy == 0

    def _count(self, change: int) -> None:
        with self._changing:
            self._busy += change

    def _handle(self, request: socket.socket) -> None:
        with request:
            try:
                answer = self._run(request)
            except HybridError as error:
                answer = {"code": error.exit_code, "what": error.what, "mend": error.mend}
            except Exception as error:  # whatever it is, the others' programs go on
                answer = {"code": 125, "what": f"{type(error).__name__}: {error}", "mend": ""}
            with contextlib.suppress(OSError):
                request.sendall(json.dumps(answer).encode() + b"\n")
        self._count(-1)

    def _run(self, request: socket.socket) -> dict[str, Any]:
        from vm.access import Program

        execution, streams = _received(request)
        try:
            program = self._begin(lambda: Program(Lease(self._connection), execution, Stdio(*streams)))
            threading.Thread(target=_obey, args=(request, program), daemon=True).start()
            return {"exit": program.wait()}
        finally:
            for descriptor in streams:
                os.close(descriptor)

    def _begin(self, make: Callable[[], Program]) -> Program:
        """Start a program. dropbear refuses one now and then when many start at once: nothing ran then."""
        from paramiko import SSHException

        for _ in range(_TRIES):
            try:
                with self._opening:
                    return make()
            except (InstanceError, SSHException):
                if not self._connection.transport.is_active():
                    raise _lost() from None
            time.sleep(_PAUSE)
        raise InstanceError("the guest's SSH server refuses to start a program", mend="try again, with fewer at once")


def _received(request: socket.socket) -> tuple[Execution, list[int]]:
    head, streams, _, _ = socket.recv_fds(request, 4, 3)
    try:
        size = struct.unpack(">I", head)[0] if len(head) == 4 else LONGEST + 1
        if size > LONGEST or len(streams) != 3:
            raise HybridError("no request")
        body = bytearray()
        while len(body) < size:
            if not (more := request.recv(size - len(body))):
                raise HybridError("the request ended early")
            body += more
        values = json.loads(bytes(body))
        terminal = values.pop("terminal")
        argv = tuple(values.pop("argv"))
        return Execution(argv, **values, terminal=None if terminal is None else Size(**terminal)), streams
    except BaseException:
        for descriptor in streams:
            os.close(descriptor)
        raise


def _obey(request: socket.socket, program: Any) -> None:
    """Do what the client says to its program; kill it when the client has gone before its end."""
    with contextlib.suppress(OSError), request.makefile("rb") as lines:
        for line in lines:
            said = json.loads(line)
            if "signal" in said:
                program.signal(said["signal"])
            elif "resize" in said:
                program.resize(Size(*said["resize"]))
    program.signal(signal.SIGKILL)


def main() -> int:
    """Keep a connection; on standard output say "ready" once, or what is wrong."""
    directory, run = (Path(word) for word in sys.argv[1:3])
    try:
        keeper = Keeper(directory, run)
    except HybridError as error:
        print(error.what, flush=True)
        return 1
    os.write(1, b"ready\n")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    keeper.serve()
    os._exit(0)  # a thread that waits for the guest would hold up an orderly end


if __name__ == "__main__":
    sys.exit(main())
