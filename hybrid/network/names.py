"""Names: what an instance finds in /etc/hosts and /etc/resolv.conf, and how those who run hear of changes.

There is no name server: every member's hosts file names all members of its networks, and is rewritten when
one joins, leaves or is renamed. A container's file lies in its directory and is mounted in it; a guest's init
writes the guest's, told by lines through its control socket.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

from hybrid.network.model import Lease
from hybrid.network.state import State

_LOOPBACK = ("127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback")
_PATIENCE = 1.0
"""Seconds that all guests together have to take note of a change."""
_REST = 30.0
"""Seconds for which nobody waits for a guest that took none."""
_RESOLVED = Path("/run/systemd/resolve/resolv.conf")
"""Where systemd-resolved says which servers it asks itself."""
_MOST_SERVERS = 3
"""That the C library asks."""


def entries(lease: Lease, state: State) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Address and names of everyone whom an instance knows: itself first."""
    for interface in lease.interfaces:
        yield interface.address, _unique(lease.hostname, *interface.names)
    gateway = next((each.gateway for each in lease.interfaces if each.gateway), "127.0.0.1")
    for name, address in lease.extra_hosts:
        yield gateway if address == "host-gateway" else address, (name,)
    for interface in lease.interfaces:
        for other, its in state.members(interface.bridge):
            if other.id != lease.id:
                yield its.address, its.names


def hosts(lease: Lease, state: State) -> str:
    """The content of an instance's /etc/hosts."""
    known = (f"{address}\t{' '.join(names)}" for address, names in entries(lease, state))
    return "".join(f"{line}\n" for line in (*_LOOPBACK, *known))


def hosts_of_host(hostname: str, path: Path = Path("/etc/hosts")) -> str:
    """The content of /etc/hosts on the host's own network: the host's, and the instance's own name."""
    known = path.read_text(errors="replace") if path.exists() else "".join(f"{line}\n" for line in _LOOPBACK)
    return f"{known.rstrip()}\n127.0.0.1\t{hostname}\n"


def resolv_conf_of_host(path: Path = Path("/etc/resolv.conf")) -> str:
    """The content of /etc/resolv.conf on the host's own network: the host's loopback can be reached."""
    return path.read_text(errors="replace") if path.exists() else ""


def names(name: str, hostname: str, aliases: Iterable[str]) -> tuple[str, ...]:
    """The names under which others find an instance; none of them says where they are themselves."""
    return tuple(each for each in _unique(name, hostname, *aliases) if each.lower().partition(".")[0] != "localhost")


def _unique(*words: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(words))


def resolv_conf(servers: Sequence[str], path: Path = Path("/etc/resolv.conf"), resolved: Path = _RESOLVED) -> str:
    """The content of an instance's /etc/resolv.conf: the host's, with `servers` in place of its servers if given.

    A server on the host's loopback cannot be reached from an instance: those that systemd-resolved asks take
    its place. Without any there is none.
    """
    lines = _lines(path)
    found = [words[1] for words in lines if words[0] == "nameserver" and len(words) > 1]
    if not servers and found and not _reachable(found):
        found = [words[1] for words in _lines(resolved) if words[0] == "nameserver" and len(words) > 1]
    chosen = list(servers) or _reachable(found)
    rest = [" ".join(words) for words in lines if words[0] in ("search", "domain", "options")]
    return "".join(f"{line}\n" for line in (*rest, *(f"nameserver {each}" for each in chosen[:_MOST_SERVERS])))


def _lines(path: Path) -> list[list[str]]:
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return []
    return [words for line in text.splitlines() if (words := line.partition("#")[0].split())]


def _reachable(servers: Iterable[str]) -> list[str]:
    return [each for each in servers if ":" not in each and not each.startswith("127.") and each != "0.0.0.0"]


# ---- telling those who run ---------------------------------------------------------------


def tell(state: State, bridges: Iterable[str], but: str = "") -> State:
    """Give every member of these networks, all but the instance `but`, its hosts as they are now.

    Returns the state with it noted which guests heard. One that is not up yet is told when it is; one that took
    no note in time (it is paused, or means ill) keeps nobody waiting again for a while.
    """
    now, guests = time.monotonic(), []
    for lease in {lease.id: lease for bridge in bridges for lease, _ in state.members(bridge)}.values():
        if lease.id == but:
            continue
        if not lease.control:
            write_hosts(Path(lease.directory), hosts(lease, state), lease.owner)
        elif lease.listens and not (lease.deaf and now - lease.deaf < _REST):
            guests.append(lease)
    return tell_guests(state, guests)


def tell_guests(state: State, guests: Sequence[Lease]) -> State:
    """Give these guests their hosts as they are now, all at once; the state with it noted who heard."""
    if not guests:
        return state
    deaf = _say({lease.control: control_lines(lease, state) for lease in guests})
    for lease in guests:
        state = state.with_lease(replace(lease, deaf=time.monotonic() if lease.control in deaf else 0.0))
    return state


def write_hosts(directory: Path, text: str, owner: int) -> None:
    """Write the hosts file that a container sees, in place: it is mounted, so it must stay the same file."""
    _write(directory / "etc/hosts", text, owner)


def write_resolv_conf(directory: Path, text: str, owner: int) -> None:
    """Write the resolv.conf that a container sees, likewise."""
    _write(directory / "etc/resolv.conf", text, owner)


def _write(path: Path, text: str, owner: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    with suppress(FileNotFoundError):  # the instance was removed meanwhile
        file = os.open(path, flags, 0o644)
        with os.fdopen(file, "wb") as stream:
            os.fchown(file, owner, owner)
            stream.write(text.encode())  # first the new, then the end: a reader never finds it empty
            stream.truncate()


def control_lines(lease: Lease, state: State) -> list[str]:
    """What a guest's init is told: one name a line, so that none is too long for it."""
    pairs = [f"{address} {name}" for address, names in entries(lease, state) for name in names]
    return ["hosts", *(f"host {pair}" for pair in pairs), "hosts-end"]


def _say(guests: Mapping[str, Sequence[str]]) -> set[str]:
    """Say lines to many guests at once, by their sockets, and wait for at most `_PATIENCE`; who took no note."""
    deadline = time.monotonic() + _PATIENCE
    deaf = set(guests)
    poller = select.poll()
    waiting: dict[int, tuple[str, socket.socket, int]] = {}
    with ExitStack() as stack:
        for path, lines in guests.items():
            control = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            control.settimeout(_PATIENCE / 10)
            with suppress(OSError):
                control.connect(path)
                control.sendall("".join(f"{line}\n" for line in lines).encode())
                waiting[control.fileno()] = (path, control, len(lines))
                poller.register(control, select.POLLIN)
        while waiting and (left := deadline - time.monotonic()) > 0:
            for descriptor, _ in poller.poll(left * 1000):
                path, control, missing = waiting.pop(descriptor)
                missing -= (answered := _heard(control, missing))
                if answered and missing:
                    waiting[descriptor] = (path, control, missing)
                    continue
                poller.unregister(descriptor)
                if not missing:
                    deaf.discard(path)
    return deaf


def _heard(control: socket.socket, most: int) -> int:
    """How many lines were answered just now; 0 when the other end has hung up."""
    try:
        return len(control.recv(most))
    except OSError:
        return 0
