"""Which ports of the host an instance gets. Taken is what another instance publishes or a program listens at.

No process of ours stays to hold a port: a program that starts later and listens at one that leads to an
instance gets no connections from elsewhere.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable, Sequence
from contextlib import ExitStack

from hybrid.errors import HostError
from hybrid.home import ordinary_user
from hybrid.network.model import Lease, Published
from hybrid.network.namespace import outside
from hybrid.network.words import Port

_KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
_TRIES = 100


def choose(wanted: Sequence[Port], leases: Iterable[Lease]) -> tuple[Published, ...]:
    """The host's port for each; HostError names the first that cannot be had, and who has it."""
    taken = [(port, lease.name) for lease in leases for port in lease.ports]
    chosen: list[Published] = []
    with ExitStack() as held:  # what is chosen stays bound until all are
        for port in wanted:
            found = _one(port, [*taken, *((each, "") for each in chosen)], held)
            chosen.append(found)
    return tuple(chosen)


def _one(port: Port, taken: Sequence[tuple[Published, str]], held: ExitStack) -> Published:
    if port.published is None:
        return _any(port, taken, held)
    first, last = port.published
    failure = HostError("no port")
    for number in range(first, last + 1):
        try:
            return _bound(Published(number, port.target, port.host_ip, port.protocol), taken, held)
        except HostError as error:
            failure = error
    if first != last:
        raise HostError(f"none of the ports {first} to {last} is free: {failure.what}", mend="give another range")
    raise failure


def _any(port: Port, taken: Sequence[tuple[Published, str]], held: ExitStack) -> Published:
    for _ in range(_TRIES):
        found = _bind(Published(0, port.target, port.host_ip, port.protocol), held)
        if not any(_clash(found, other) for other, _ in taken):
            return found
    raise HostError("no port of this host is free", mend="hybrid ps shows what is published")


def _bound(port: Published, taken: Sequence[tuple[Published, str]], held: ExitStack) -> Published:
    for other, name in taken:
        if _clash(port, other):
            whose = f"by the instance {name}" if name else "twice"
            raise HostError(
                f"port {port.port}/{port.protocol} of this host is published {whose}", mend="publish another port"
            )
    return _bind(port, held)


def _clash(one: Published, other: Published) -> bool:
    same = (one.port, one.protocol) == (other.port, other.protocol)
    one_address = ordinary_user() is not None  # the network of an ordinary user has but one
    return same and (one_address or one.host_ip == other.host_ip or not one.host_ip or not other.host_ip)


def _bind(port: Published, held: ExitStack) -> Published:
    """Bind the port as a server would, which fails when one has it; which one it is if any was asked for."""
    where = f"{port.host_ip or '0.0.0.0'}:{port.port}/{port.protocol}"
    trial = held.enter_context(outside(lambda: socket.socket(socket.AF_INET, _KINDS[port.protocol])))
    try:
        if port.protocol == "tcp":  # connections that have ended are no server
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        trial.bind((port.host_ip, port.port))
        if port.protocol == "tcp":
            trial.listen(1)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise HostError(
                f"port {where} is in use by a program of this host",
                mend=f"end it (`ss -lnp sport = :{port.port}` shows it), or publish another port",
            ) from None
        if error.errno == errno.EADDRNOTAVAIL:
            raise HostError(f"{port.host_ip} is no address of this host", mend="`ip address` lists them") from None
        raise HostError(f"port {where} cannot be published: {os.strerror(error.errno or 0)}") from None
    return Published(trial.getsockname()[1], port.target, port.host_ip, port.protocol)
