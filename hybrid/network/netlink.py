"""Links, addresses and routes by libnl, the C library of netlink; libvirt brings it along.

pyroute2 would do the same, but takes 160 ms to import, more than a container takes to start; libnl is there
in 2 ms. Format of the calls: libnl-route's API documentation. A handle speaks for the network namespace in
which it was opened, whichever thread uses it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, TypeVar

from hybrid.errors import HostError

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
_NETLINK_ROUTE = 0
_CREATE, _EXCLUSIVE = 0x400, 0x200
_UP = 1
_NLE_EXIST = 6
_NLE_NODEV = (12, 31)  # object not found, no such device
_SYS = Path("/sys/class/net")


class Netlink:
    """An open handle. Use `netlink`."""

    def __init__(self) -> None:
        self._nl, self._route = _libraries()
        self._socket = self._nl.nl_socket_alloc()
        self._check(self._nl.nl_connect(self._socket, _NETLINK_ROUTE), "netlink")

    def close(self) -> None:
        self._nl.nl_socket_free(self._socket)

    # ---- links ---------------------------------------------------------------------------

    def add_bridge(self, name: str, mac: str, mark: str) -> None:
        """Make a bridge and take it up. FileExistsError when there is a link of that name."""
        with self._object(self._route.rtnl_link_bridge_alloc, self._route.rtnl_link_put) as link:
            self._describe(link, name, mac)
            self._route.rtnl_link_set_flags(link, _UP)
            self._check(self._route.rtnl_link_add(self._socket, link, _CREATE | _EXCLUSIVE), f"the bridge {name}")
        self.change(name, alias=mark)

    def add_veth(self, name: str, bridge: str, mark: str, peer: str, mac: str, namespace: int) -> None:
        """Make a pair: `name` on the bridge, and `peer` in the network namespace of that file descriptor."""
        with self._object(self._route.rtnl_link_veth_alloc, self._route.rtnl_link_veth_release) as link:
            self._describe(link, name, None)
            self._route.rtnl_link_set_master(link, index(bridge))
            self._route.rtnl_link_set_flags(link, _UP)
            with self._object(lambda: self._route.rtnl_link_veth_get_peer(link), self._route.rtnl_link_put) as other:
                self._describe(other, peer, mac)
                self._route.rtnl_link_set_ns_fd(other, namespace)
                code = self._route.rtnl_link_add(self._socket, link, _CREATE | _EXCLUSIVE)
            self._check(code, f"the link {name}")
        self.change(name, alias=mark)

    def change(self, name: str, *, alias: str | None = None, bridge: str | None = None, up: bool = False) -> None:
        """Change a link that is there."""
        alloc, put = self._route.rtnl_link_alloc, self._route.rtnl_link_put
        with self._object(alloc, put) as old, self._object(alloc, put) as new:
            self._route.rtnl_link_set_ifindex(old, index(name))
            if alias is not None:
                self._route.rtnl_link_set_ifalias(new, alias.encode())
            if bridge is not None:
                self._route.rtnl_link_set_master(new, index(bridge))
            if up:
                self._route.rtnl_link_set_flags(new, _UP)
            self._check(self._route.rtnl_link_change(self._socket, old, new, 0), f"the link {name}")

    def delete(self, name: str) -> None:
        """Remove a link; nothing happens when there is none."""
        with self._object(self._route.rtnl_link_alloc, self._route.rtnl_link_put) as link:
            self._route.rtnl_link_set_name(link, name.encode())
            code = self._route.rtnl_link_delete(self._socket, link)
            if -code not in _NLE_NODEV:
                self._check(code, f"removing the link {name}")

    def _describe(self, link: int, name: str, mac: str | None) -> None:
        self._route.rtnl_link_set_name(link, name.encode())
        if mac is not None:
            with self._address(mac, socket.AF_UNSPEC) as address:
                self._route.rtnl_link_set_addr(link, address)

    # ---- addresses and routes ------------------------------------------------------------

    def add_address(self, link: str, address: str, prefix: int) -> None:
        """Give a link an IPv4 address, with its subnet's broadcast address."""
        network = IPv4Network(f"{address}/{prefix}", strict=False)
        with self._object(self._route.rtnl_addr_alloc, self._route.rtnl_addr_put) as what:
            self._route.rtnl_addr_set_ifindex(what, index(link))
            with self._address(f"{address}/{prefix}") as local, self._address(str(network.broadcast_address)) as all_:
                self._route.rtnl_addr_set_local(what, local)
                self._route.rtnl_addr_set_broadcast(what, all_)
                self._check(self._route.rtnl_addr_add(self._socket, what, 0), f"the address {address} of {link}")

    def add_default_route(self, link: str, gateway: str) -> None:
        """Send what goes nowhere else through a gateway."""
        with self._object(self._route.rtnl_route_alloc, self._route.rtnl_route_put) as route:
            hop = self._route.rtnl_route_nh_alloc()
            self._route.rtnl_route_nh_set_ifindex(hop, index(link))
            with self._address("0.0.0.0/0") as everything, self._address(gateway) as address:
                self._route.rtnl_route_set_dst(route, everything)
                self._route.rtnl_route_nh_set_gateway(hop, address)
                self._route.rtnl_route_add_nexthop(route, hop)  # the route's from now on
                code = self._route.rtnl_route_add(self._socket, route, _CREATE | _EXCLUSIVE)
            self._check(code, f"the route through {gateway}")

    def destinations(self) -> Iterator[IPv4Network]:
        """The subnets that this host has IPv4 routes to, its own addresses' among them, in all tables."""
        found = ctypes.c_void_p()
        code = self._route.rtnl_route_alloc_cache(self._socket, socket.AF_INET, 0, ctypes.byref(found))
        self._check(code, "the routes")
        try:
            text = ctypes.create_string_buffer(64)
            route = self._nl.nl_cache_get_first(found)
            while route:
                words = self._nl.nl_addr2str(self._route.rtnl_route_get_dst(route), text, len(text)).decode()
                with suppress(ValueError):  # "none", "default"
                    yield IPv4Network(words, strict=False)
                route = self._nl.nl_cache_get_next(route)
        finally:
            self._nl.nl_cache_free(found)

    # ---- odds and ends -------------------------------------------------------------------

    @contextmanager
    def _address(self, text: str, family: int = socket.AF_INET) -> Iterator[Any]:
        found = ctypes.c_void_p()
        self._check(self._nl.nl_addr_parse(text.encode(), family, ctypes.byref(found)), f"the address {text}")
        try:
            yield found
        finally:
            self._nl.nl_addr_put(found)

    @contextmanager
    def _object(self, make: Callable[[], Any], free: Callable[[Any], object]) -> Iterator[Any]:
        made = make()
        if not made:
            raise MemoryError
        try:
            yield made
        finally:
            free(made)

    def _check(self, code: int, what: str) -> None:
        if code >= 0:
            return
        if code == -_NLE_EXIST:
            raise FileExistsError(errno.EEXIST, f"{what} is there already")
        words = self._nl.nl_geterror(code).decode()
        raise HostError(f"the kernel refuses {what}: {words}", mend="hybrid doctor, or `network_mode: none`")


@contextmanager
def netlink() -> Iterator[Netlink]:
    """A handle on the network namespace of this thread."""
    handle = Netlink()
    try:
        yield handle
    finally:
        handle.close()


def inside(namespace: int, work: Callable[[], T]) -> T:
    """The result of `work`, done in the network namespace of a file descriptor, by a thread that enters it."""
    outcome: list[T] = []
    failure: list[BaseException] = []

    def body() -> None:
        try:
            if ctypes.CDLL(None, use_errno=True).setns(namespace, _CLONE_NEWNET) != 0:
                code = ctypes.get_errno()
                raise OSError(code, f"setns to a network namespace: {os.strerror(code)}")
            outcome.append(work())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=body, name="network-namespace", daemon=True)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


def index(name: str) -> int:
    """The number of a link in this thread's namespace; HostError when there is none."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        raise HostError(f"the link {name} has gone", mend="try again; hybrid prune removes what is left") from None


def exists(name: str) -> bool:
    return (_SYS / name).exists()


def has_carrier(name: str) -> bool:
    """Whether the other end of a link that is up is there: of a tap, whether a program has it open."""
    try:
        return (_SYS / name / "carrier").read_text().strip() == "1"
    except OSError:
        return False


def marked(mark: str) -> list[str]:
    """The links of this host whose alias is `mark`."""
    found = []
    for path in _SYS.iterdir():
        with suppress(OSError):
            if (path / "ifalias").read_text().strip() == mark:
                found.append(path.name)
    return found


@cache
def _libraries() -> tuple[Any, Any]:
    try:
        nl, route = ctypes.CDLL("libnl-3.so.200"), ctypes.CDLL("libnl-route-3.so.200")
    except OSError:
        raise HostError(
            "libnl is not installed, and networks need it",
            mend="apt-get install libnl-route-3-200, or `network_mode: none`",
        ) from None
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "nl_socket_alloc": (pointer, []),
        "nl_socket_free": (None, [pointer]),
        "nl_connect": (number, [pointer, number]),
        "nl_geterror": (text, [number]),
        "nl_addr_parse": (number, [text, number, pointer]),
        "nl_addr_put": (None, [pointer]),
        "nl_addr2str": (text, [pointer, pointer, ctypes.c_size_t]),
        "nl_cache_get_first": (pointer, [pointer]),
        "nl_cache_get_next": (pointer, [pointer]),
        "nl_cache_free": (None, [pointer]),
        "rtnl_link_alloc": (pointer, []),
        "rtnl_link_bridge_alloc": (pointer, []),
        "rtnl_link_veth_alloc": (pointer, []),
        "rtnl_link_veth_get_peer": (pointer, [pointer]),
        "rtnl_link_veth_release": (None, [pointer]),
        "rtnl_link_put": (None, [pointer]),
        "rtnl_link_set_name": (None, [pointer, text]),
        "rtnl_link_set_ifalias": (None, [pointer, text]),
        "rtnl_link_set_ifindex": (None, [pointer, number]),
        "rtnl_link_set_master": (None, [pointer, number]),
        "rtnl_link_set_flags": (None, [pointer, ctypes.c_uint]),
        "rtnl_link_set_addr": (None, [pointer, pointer]),
        "rtnl_link_set_ns_fd": (None, [pointer, number]),
        "rtnl_link_add": (number, [pointer, pointer, number]),
        "rtnl_link_change": (number, [pointer, pointer, pointer, number]),
        "rtnl_link_delete": (number, [pointer, pointer]),
        "rtnl_addr_alloc": (pointer, []),
        "rtnl_addr_put": (None, [pointer]),
        "rtnl_addr_set_ifindex": (None, [pointer, number]),
        "rtnl_addr_set_local": (number, [pointer, pointer]),
        "rtnl_addr_set_broadcast": (number, [pointer, pointer]),
        "rtnl_addr_add": (number, [pointer, pointer, number]),
        "rtnl_route_alloc": (pointer, []),
        "rtnl_route_put": (None, [pointer]),
        "rtnl_route_set_dst": (number, [pointer, pointer]),
        "rtnl_route_get_dst": (pointer, [pointer]),
        "rtnl_route_nh_alloc": (pointer, []),
        "rtnl_route_nh_set_ifindex": (None, [pointer, number]),
        "rtnl_route_nh_set_gateway": (None, [pointer, pointer]),
        "rtnl_route_add_nexthop": (None, [pointer, pointer]),
        "rtnl_route_add": (number, [pointer, pointer, number]),
        "rtnl_route_alloc_cache": (number, [pointer, number, number, pointer]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(nl if name.startswith("nl_") else route, name)
        function.restype, function.argtypes = result, arguments
    return nl, route
