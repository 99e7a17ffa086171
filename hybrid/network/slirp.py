"""slirp4netns: what leads from an ordinary user's network namespace to everywhere else, as the user, and back.

One process serves all instances of a user. It is told by its API which ports of the host lead into the
namespace; there it has one address, and the same rules as root's lead from that on to the instances.
Its API: slirp4netns(1), "API socket".
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from hybrid import process, rootless, usage
from hybrid.errors import HostError
from hybrid.network.model import Published

_ADDRESS = "10.0.2.100"
"""That of its device in the namespace."""
_DEVICE = "slirp"
_PATIENCE = 30.0
"""Seconds that it may take to start, or to answer."""


class Slirp:
    """The one of this user, whether or not it runs. To be used under a lock."""

    def __init__(self, directory: Path) -> None:
        self._socket = directory / "slirp.sock"
        self._log = directory / "slirp.log"

    def publish(self, ports: Collection[Published]) -> None:
        """Have it run, with just these ports of the host leading into the namespace."""
        if not list(self.pids()):
            self._start()
        there = {_identity(entry): entry["id"] for entry in self._ask("list_hostfwd")["entries"]}
        wanted = {(port.protocol, port.host_ip or "0.0.0.0", port.port): port for port in ports}
        for key in there.keys() - wanted.keys():
            self._ask("remove_hostfwd", id=there[key])
        for protocol, address, number in wanted.keys() - there.keys():
            self._ask(
                *("add_hostfwd",),
                proto=protocol,
                host_addr=address,
                host_port=number,
                guest_addr=_ADDRESS,
                guest_port=number,
            )

    def end(self) -> None:
        """End it. Nothing happens when it does not run."""
        for pid in self.pids():
            process.send_signal(pid, process.start_time(pid))
        self._socket.unlink(missing_ok=True)

    def pids(self) -> Iterator[int]:
        """Its process, known by its socket; two of them, if one was killed between start and use."""
        yield from pids(self._socket)

    def _start(self) -> None:
        self._socket.unlink(missing_ok=True)
        told, telling = os.pipe2(os.O_CLOEXEC)
        namespace = rootless.network()
        argv = [
            process.need("slirp4netns"),
            *("--configure", "--mtu=65520", "--disable-host-loopback", f"--api-socket={self._socket}"),
            *(f"--ready-fd={telling}", "--netns-type=path", f"/proc/self/fd/{namespace}", _DEVICE),
        ]
        with self._log.open("wb") as log:
            child = process.launch(argv, stdout=log, stderr=log, pass_fds=[telling, namespace], new_session=True)
        os.close(telling)
        os.close(namespace)
        try:
            readable, _, _ = select.select([told], [], [], _PATIENCE)
            if not readable or not os.read(told, 1):
                child.kill()
                child.wait()
                raise _failed(self._log)
        except BaseException:
            child.kill()
            raise
        finally:
            os.close(told)
        process.disown(child)

    def _ask(self, what: str, **arguments: Any) -> Any:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as api:
            api.settimeout(_PATIENCE)
            try:
                api.connect(str(self._socket))
                api.sendall(json.dumps({"execute": what, "arguments": arguments}).encode())
                api.shutdown(socket.SHUT_WR)
                answer = json.loads(b"".join(iter(lambda: api.recv(65536), b"")))
            except (OSError, ValueError) as error:
                raise HostError(f"slirp4netns does not answer: {error}", mend="hybrid prune, and try again") from None
        if "error" in answer:
            raise _refused(arguments, str(answer["error"].get("desc", "")))
        return answer.get("return", answer)


def pids(socket_path: Path) -> Iterator[int]:
    """The living slirp4netns processes that have that API socket."""
    wanted = b"--api-socket=" + os.fsencode(socket_path)
    for pid in usage.processes():
        with contextlib.suppress(OSError):
            if wanted in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                yield pid


def _identity(entry: Any) -> tuple[str, str, int]:
    return entry["proto"], entry["host_addr"], int(entry["host_port"])


def _failed(log: Path) -> HostError:
    lines = log.read_text(errors="replace").strip().splitlines() or ["it did not say why"]
    why = next((line for line in reversed(lines) if "open" in line or "fail" in line.lower()), lines[-1])
    return HostError(
        f"slirp4netns does not start: {why.strip()}",
        mend="let users open /dev/net/tun (as root: chmod 666 /dev/net/tun), or `network_mode: none`",
    )


def _refused(arguments: Any, words: str) -> HostError:
    where = f"{arguments.get('host_addr', '')}:{arguments.get('host_port', '')}/{arguments.get('proto', '')}"
    if int(arguments.get("host_port", 65535)) < _first_port():
        return HostError(
            f"port {where} cannot be published by an ordinary user",
            mend="publish one from 1024 on, or as root: sysctl -w net.ipv4.ip_unprivileged_port_start=0",
        )
    return HostError(f"port {where} cannot be published: {words}", mend="publish another port")


def _first_port() -> int:
    with contextlib.suppress(OSError, ValueError):
        return int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    return 1024
