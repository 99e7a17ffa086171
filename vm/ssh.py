"""SSH into a guest, over a virtio port of its own for each connection: no guest network takes part.

The ports are sockets in the instance's run directory, `ssh.0` and on; who holds a port's lock has the port. The
guest's side is told in vm/init/ssh.c. The SSH server is the host's own dropbear, sent through the port to a guest
that nobody has entered yet. Both keys are made on the host, for one instance: the server's is known in advance, and
the only one that is accepted.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import fcntl
import io
import json
import os
import re
import socket
import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hybrid.errors import HostError, HybridError, InstanceError
from hybrid.process import need, run
from hybrid.store import locked, write_atomically
from vm.domain import SSH_PORTS

if TYPE_CHECKING:
    import paramiko

GREETING = 5.0
"""Seconds that the guest may take to answer at a port before another is tried."""
_LOG = "hybrid.ssh"
_KEX = "curve25519-sha256@libssh.org"
_CIPHER = "aes128-ctr"
_DIGEST = "hmac-sha2-256"
_KEY = "ssh-ed25519"


@dataclass(frozen=True, slots=True)
class Keys:
    """An instance's two keys."""

    host: bytes
    """The server's seed, 32 bytes."""
    host_public: bytes
    client: str
    """In OpenSSH's format."""
    client_public: str
    """As in authorized_keys."""

    @property
    def host_blob(self) -> bytes:
        """The server's public key as SSH sends it."""
        return _string(_KEY.encode()) + _string(self.host_public)


def keys(directory: Path) -> Keys:
    """The keys of the instance in `directory`, made when they are first asked for."""
    path = directory / "ssh.json"
    with locked(directory / "ssh.lock"):
        if not path.exists():
            write_atomically(path, json.dumps(_make_keys()).encode())
    saved = json.loads(path.read_bytes())
    host, public = bytes.fromhex(saved["host"]), bytes.fromhex(saved["host_public"])
    return Keys(host, public, saved["client"], saved["client_public"])


def _make_keys() -> dict[str, str]:
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    host, client = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    plain = form.NoEncryption()
    return {
        "host": host.private_bytes(form.Encoding.Raw, form.PrivateFormat.Raw, plain).hex(),
        "host_public": host.public_key().public_bytes(form.Encoding.Raw, form.PublicFormat.Raw).hex(),
        "client": client.private_bytes(form.Encoding.PEM, form.PrivateFormat.OpenSSH, plain).decode(),
        "client_public": client.public_key().public_bytes(form.Encoding.OpenSSH, form.PublicFormat.OpenSSH).decode(),
    }


# The server's files


def server_files(given: Keys) -> bytes:
    """What makes a bare initramfs an SSH server, in the form that vm/init/ssh.c reads."""
    dropbear = Path(need("dropbear", "dropbear-bin"))
    restricted = "no-port-forwarding,no-agent-forwarding,no-X11-forwarding"
    files = {
        "/dropbear": (0o755, dropbear.read_bytes()),
        **{place: (0o755, path.read_bytes()) for place, path in _libraries(dropbear)},
        "/etc/passwd": (0o644, b"root:x:0:0::/:/bin/sh\n"),
        "/.ssh/authorized_keys": (0o600, f"{restricted} {given.client_public}\n".encode()),
        "/hostkey": (0o600, dropbear_key(given)),
    }
    head = [f"{mode:o} {len(data)} {path}\n".encode() + data for path, (mode, data) in files.items()]
    return b"".join(head) + b"end\n"


def dropbear_key(given: Keys) -> bytes:
    """The server's key in dropbear's own format."""
    return _string(_KEY.encode()) + _string(given.host + given.host_public)


def _libraries(program: Path) -> Iterator[tuple[str, Path]]:
    """The shared libraries that a program needs, and where it looks for them: its loader at the loader's path."""
    for line in run([need("ldd", "libc-bin"), program]).decode().splitlines():
        if found := re.match(r"\s*(\S+) => (/\S+) \(0x", line):
            yield f"/lib/{found[1]}", Path(found[2])
        elif found := re.match(r"\s*(/\S+) \(0x", line):
            yield found[1], Path(found[1])


def _string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


# A port


class Port:
    """One of the instance's ports, held by this process, with the guest's SSH server behind it."""

    def __init__(self, directory: Path, run_directory: Path, timeout: float) -> None:
        """InstanceError when none was to be had within `timeout` seconds."""
        self._directory, self._run = directory, run_directory
        deadline = time.monotonic() + timeout
        while True:
            self._lock, path = self._take(deadline)
            try:
                self.socket = self._greet(path, min(GREETING, max(0.1, deadline - time.monotonic())))
                return
            except (OSError, EOFError):
                self._release()
                if time.monotonic() >= deadline:
                    raise InstanceError(
                        "the guest does not answer", mend="its log may say why: hybrid logs, or the file console.log"
                    ) from None
            except BaseException:
                self._release()
                raise

    def _take(self, deadline: float) -> tuple[int, Path]:
        """The lock and the path of the port that was left alone for longest; waits for one to be left."""
        import inotify_simple

        with inotify_simple.INotify() as news:
            news.add_watch(self._run, inotify_simple.flags.CLOSE_WRITE)
            while True:
                for number in sorted(range(SSH_PORTS), key=self._last_use):
                    if (lock := self._try(number)) is not None:
                        return lock, self._run / f"ssh.{number}"
                left = deadline - time.monotonic()
                if left <= 0:
                    raise InstanceError(
                        f"all {SSH_PORTS} ways into this VM are in use", mend="end another exec, or wait"
                    )
                news.read(timeout=int(left * 1000) + 1)

    def _lock_path(self, number: int) -> Path:
        return self._run / f"ssh.{number}.lock"

    def _last_use(self, number: int) -> float:
        try:
            return self._lock_path(number).stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def _try(self, number: int) -> int | None:
        try:
            lock = os.open(self._lock_path(number), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            raise InstanceError("the instance has ended") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.utime(lock)
            return lock
        except BlockingIOError:
            os.close(lock)
            return None

    def _greet(self, path: Path, timeout: float) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            connection.settimeout(timeout)
            connection.connect(str(path))
            connection.sendall(b"ssh\n")
            answer = _line(connection)
            if answer == b"send":
                connection.settimeout(30)
                connection.sendall(server_files(keys(self._directory)))
                answer = _line(connection)
            if answer != b"ready":
                raise EOFError
            connection.settimeout(None)
            return connection
        except BaseException:
            connection.close()
            raise

    def _release(self) -> None:
        os.close(self._lock)

    def close(self) -> None:
        """Hang up, and leave the port to others."""
        self.socket.close()
        self._release()


def _line(connection: socket.socket) -> bytes:
    """A short line. Byte by byte: what follows it is SSH's."""
    line = b""
    while not line.endswith(b"\n"):
        byte = connection.recv(1)
        if not byte or len(line) > 16:
            raise EOFError
        line += byte
    return line[:-1]


# SSH


class Way(Protocol):
    """Opens channels into a guest: a connection, or somebody's part of one."""

    def open(self) -> paramiko.Channel:
        """A new channel for one command; InstanceError when the guest has gone."""

    def close(self) -> None:
        """Close what was opened. Idempotent."""


class Connection:
    """An authenticated SSH connection into a guest."""

    def __init__(self, directory: Path, run_directory: Path, timeout: float) -> None:
        paramiko = _load()
        own = keys(directory)
        self._port = Port(directory, run_directory, timeout)
        try:
            self.transport = paramiko.Transport(self._port.socket)
            self.transport.daemon = True
            self.transport.set_log_channel(_LOG)
            options = self.transport.get_security_options()
            options.kex, options.ciphers, options.digests, options.key_types = (_KEX,), (_CIPHER,), (_DIGEST,), (_KEY,)
            self.transport.banner_timeout = self.transport.auth_timeout = timeout
            self.transport.start_client(timeout=timeout)
            if self.transport.get_remote_server_key().asbytes() != own.host_blob:
                raise HybridError("another than the instance's own SSH server answered in the guest")
            self.transport.auth_publickey("root", paramiko.Ed25519Key(file_obj=io.StringIO(own.client)))
        except BaseException as error:
            self.close()
            if isinstance(error, (paramiko.SSHException, EOFError, OSError)):
                raise InstanceError(f"no SSH connection into the guest: {error}") from None
            raise

    def open(self) -> paramiko.Channel:
        """A new channel for one command; InstanceError when the guest has gone."""
        try:
            channel: paramiko.Channel = self.transport.open_session(window_size=1 << 21)
            return channel
        except Exception as error:
            if isinstance(error, _load().SSHException | EOFError | OSError):
                raise InstanceError("the connection into the guest is lost") from None
            raise

    def close(self) -> None:
        """Hang up: the guest kills what runs on this connection. Idempotent."""
        transport = getattr(self, "transport", None)
        if transport is not None:
            transport.close()
        with contextlib.suppress(OSError):
            self._port.close()


def _load() -> Any:
    """paramiko without what it only needs to run programs for a configuration file: that would double its time."""
    hidden = "invoke" not in sys.modules
    if hidden:
        sys.modules["invoke"] = None  # type: ignore[assignment]
    try:
        import paramiko
    except ImportError as error:
        raise HostError(f"paramiko cannot be used: {error}", mend="pip install paramiko") from None
    finally:
        if hidden:
            del sys.modules["invoke"]
    return paramiko


def encode(pairs: list[tuple[str, str]]) -> str:
    """Words for a session in the guest: NUL-terminated `key=value` in base64. HybridError for a NUL in one."""
    for key, value in pairs:
        if "\0" in value:
            raise HybridError(f"a NUL byte in {key} cannot be passed to a program", mend="remove it")
    data = b"".join(f"{key}={value}".encode(errors="surrogateescape") + b"\0" for key, value in pairs)
    return base64.b64encode(data).decode()


def command(connection: Way, words: str, data: bytes = b"") -> bytes:
    """Run one of the session's commands with `data` as its input; what it wrote. InstanceError when it failed."""
    channel = connection.open()
    try:
        channel.exec_command(words)
        if data:
            channel.sendall(data)
        channel.shutdown_write()
        out = b"".join(iter(lambda: channel.recv(1 << 16), b""))
        if (code := channel.recv_exit_status()) != 0:
            raise InstanceError(f"the guest refused {words.split()[0]!r} ({code})")
        return out
    except (EOFError, OSError):
        raise InstanceError("the connection into the guest is lost") from None
    finally:
        channel.close()


class Exchange:
    """One of the session's commands at work on a path, with bytes that go both ways.

    Leaving it waits for the command's end, and raises what it failed of: an OSError of the guest's.
    """

    def __init__(self, connection: Connection, words: str, path: str) -> None:
        if "\0" in path:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        self._path = path
        self._channel = connection.open()
        self._channel.exec_command(f"{words} {base64.b64encode(os.fsencode(path)).decode()}")

    def read(self, size: int) -> bytes:
        """At most that many bytes; none at the end, or when the command has failed."""
        try:
            data = self._channel.recv(size)
        except (EOFError, OSError):
            data = b""
        if not data:
            self._finish()
        return data

    def write(self, data: bytes) -> None:
        try:
            self._channel.sendall(data)
        except OSError:
            self._finish()
            raise InstanceError("the connection into the guest is lost") from None

    def _finish(self) -> None:
        told = b"".join(iter(lambda: self._channel.recv_stderr(1 << 12), b""))[:8192]
        code = self._channel.recv_exit_status()
        number, _, path = told.partition(b" ")
        if code == 1 and number.isdigit() and 0 < int(number) < 4096:
            raise OSError(int(number), os.strerror(int(number)), os.fsdecode(path) or self._path)
        if code != 0:
            raise InstanceError(f"the guest gave up ({code})", mend="its file console.log may say why")

    def __enter__(self) -> Exchange:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._channel.shutdown_write()
                while self._channel.recv(1 << 16):
                    pass
                self._finish()
        finally:
            self._channel.close()
