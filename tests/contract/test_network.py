"""One network for containers and VMs: they reach each other by name, ports lead in, and nothing is left."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hybrid import network
from hybrid.driver import State
from hybrid.errors import HostError, SpecError
from hybrid.network import netlink
from hybrid.network.definitions import Definitions
from hybrid.network.model import Attachment
from hybrid.network.state import Place
from hybrid.network.words import Mode

if TYPE_CHECKING:
    from hybrid.driver import Instance
    from hybrid.home import Home
    from hybrid.image import Image
    from tests.contract.conftest import Bench

TIMEOUT = 120.0
SERVE = r"""
mkdir -p /tmp/www/cgi-bin
hostname >/tmp/www/index.html
printf '#!/bin/sh\necho Content-type: text/plain\necho\nexec sh 2>&1\n' >/tmp/www/cgi-bin/sh
chmod +x /tmp/www/cgi-bin/sh
udp-echo 53 &
exec busybox httpd -f -p 80 -h /tmp/www
"""
READY = {"test": ["CMD", "wget", "-q", "-O", "/dev/null", "http://127.0.0.1/"]}
UDP_ECHO = r"""
#include <arpa/inet.h>
#include <stdlib.h>
int main(int argc, char **argv)
{
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(argc > 1 ? atoi(argv[1]) : 53)}, peer;
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    char data[1500];
    if (bind(fd, (struct sockaddr *)&here, sizeof here) < 0)
        return 1;
    for (;;) {
        socklen_t length = sizeof peer;
        ssize_t n = recvfrom(fd, data, sizeof data, 0, (struct sockaddr *)&peer, &length);
        sendto(fd, data, n, 0, (struct sockaddr *)&peer, length);
    }
}
"""


@dataclass(frozen=True)
class Served:
    """An instance that serves HTTP (and a shell by it) at port 80, and echoes UDP at port 53."""

    instance: Instance

    @property
    def name(self) -> str:
        return self.instance.record.name

    @property
    def joined(self) -> Attachment:
        return network.of(self.instance.record)

    @property
    def address(self) -> str:
        return self.joined.interfaces[0].address

    @property
    def gateway(self) -> str:
        return self.joined.interfaces[0].gateway

    def port(self, protocol: str) -> int:
        return next(each.port for each in self.joined.ports if each.protocol == protocol)

    def sh(self, script: str) -> str:
        """What a script says that is run inside."""
        return fetch(self.address, 80, "/cgi-bin/sh", script)


def fetch(address: str, port: int, path: str = "/", body: str | None = None) -> str:
    connection = http.client.HTTPConnection(address, port, timeout=TIMEOUT)
    with contextlib.closing(connection):
        connection.request("GET" if body is None else "POST", path, body)
        return connection.getresponse().read().decode()


@pytest.fixture(scope="module")
def image(tiny_image: Image, shared_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Image:
    """The tiny image with a server for UDP."""
    directory = shared_home.images / ("6" * 64)
    directory.mkdir(parents=True)
    subprocess.run(["cp", "-a", tiny_image.tree, directory / "rootfs"], check=True)
    (directory / "rootfs/etc/nsswitch.conf").write_text("hosts: files\n")  # a static program's DNS is not to be trusted
    source = tmp_path_factory.mktemp("echo") / "echo.c"
    source.write_text(UDP_ECHO)
    subprocess.run(["gcc", "-static", "-O1", "-o", directory / "rootfs/bin/udp-echo", source], check=True)
    return replace(tiny_image, digest=f"sha256:{'6' * 64}", directory=directory)


@pytest.fixture(scope="module")
def benches(
    make_bench: Callable[..., Iterator[Bench]],
    shared_home: Home,
    image: Image,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, Bench]]:
    with contextlib.ExitStack() as stack:
        manager = contextlib.contextmanager(make_bench)
        made = {
            kind: stack.enter_context(manager(kind, shared_home, image, tmp_path_factory.mktemp(kind)))
            for kind in ("container", "vm")
        }
        yield made
        for bench in made.values():  # all, before the first looks for what is left
            for instance in bench.made:
                instance.destroy()


def serve(bench: Bench, name: str | None = None, **spec: Any) -> Served:
    instance = bench.make("sh", "-c", SERVE, name=name, healthcheck=READY, network_mode="bridge", **spec)
    instance.start(None)
    instance.wait_ready(TIMEOUT)
    return Served(instance)


@pytest.fixture(scope="module")
def both(benches: dict[str, Bench]) -> dict[str, Served]:
    """A container and a VM on the default network; the VM is told of the container when it comes later."""
    served = {}
    for kind in ("vm", "container"):
        served[kind] = serve(benches[kind], f"net-{kind}", hostname=f"{kind}-host", ports=["80", "53/udp"])
    return served


@pytest.fixture(params=["container", "vm"])
def one(request: pytest.FixtureRequest, both: dict[str, Served]) -> Served:
    return both[request.param]


@pytest.fixture
def other(one: Served, both: dict[str, Served]) -> Served:
    return next(each for each in both.values() if each is not one)


@pytest.fixture
def boxes(container: Bench, image: Image) -> Bench:
    """A bench for containers, each test's own."""
    container.image = image
    return container


def test_each_has_an_address_of_its_own(one: Served, other: Served) -> None:
    [interface] = one.joined.interfaces
    shown = one.sh("ip -4 addr; ip route; cat /sys/class/net/eth0/address")
    assert f"{interface.address}/{interface.prefix}" in shown
    assert f"default via {interface.gateway}" in shown
    assert interface.mac in shown
    assert one.address != other.address
    assert interface.network == "hybrid" and one.joined.mode is Mode.BRIDGE


def test_names_lead_to_the_other(one: Served, other: Served) -> None:
    kind = other.instance.kind.value
    assert "1 packets received" in one.sh(f"ping -c 1 -W 10 {other.name}")
    assert one.sh(f"wget -q -O - http://{kind}-host/") == f"{kind}-host\n"
    assert one.sh("wget -q -O - http://$(hostname)/") == one.sh("hostname")


def test_a_published_port_leads_in(one: Served, other: Served) -> None:
    name = one.sh("hostname")
    own = [one.gateway, *([outward] if (outward := outward_address()) else [])]
    for address in ("127.0.0.1", *own):
        assert fetch(address, one.port("tcp")) == name, address
    for address in own:  # from an instance, to the host's address: another's port, and its own
        assert other.sh(f"wget -q -O - http://{address}:{one.port('tcp')}/") == name, address
        assert one.sh(f"wget -q -O - http://{address}:{one.port('tcp')}/") == name, address


def test_a_published_udp_port_leads_in(one: Served) -> None:
    for address in ("127.0.0.1", one.gateway):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(TIMEOUT)
            client.connect((address, one.port("udp")))
            client.send(b"hello")
            assert client.recv(100) == b"hello"


def test_it_reaches_the_host_and_what_the_host_reaches(one: Served) -> None:
    for address in [one.gateway, *([outward] if (outward := outward_address()) else [])]:
        with answering(address, b"from the host\n") as port:
            assert one.sh(f"busybox nc -w 30 {address} {port} </dev/null") == "from the host\n"


def test_it_does_not_reach_the_host_s_loopback(one: Served) -> None:
    """Not even as the root of a VM, who may send what it likes through the bridge."""
    if one.instance.kind.value != "vm":
        pytest.skip("a container's root has no power over its routes")
    with answering("127.0.0.77", b"secret\n") as port:
        assert fetch_host("127.0.0.77", port) == b"secret\n"
        one.sh("ip route del local 127.0.0.0/8 table local; ip route add 127.0.0.77/32 dev eth0 via " + one.gateway)
        sent = one.sh(
            f"echo 1 >/proc/sys/net/ipv4/conf/all/route_localnet; busybox nc -w 3 127.0.0.77 {port} </dev/null"
        )
        one.sh("ip route add local 127.0.0.0/8 dev lo table local; ip route del 127.0.0.77/32")
        assert "secret" not in sent


def test_a_new_name_is_known(one: Served, other: Served, benches: dict[str, Bench]) -> None:
    renamed = replace(one.instance.record, name="quite-another")
    network.renamed(renamed)
    try:
        assert "1 packets received" in other.sh("ping -c 1 -W 10 quite-another")
        assert f"{one.address}\t{one.name}" not in other.sh("cat /etc/hosts")
    finally:
        network.renamed(one.instance.record)
    assert "1 packets received" in other.sh(f"ping -c 1 -W 10 {one.name}")


def test_who_has_gone_is_not_named(one: Served, boxes: Bench) -> None:
    passing = serve(boxes, "passing")
    address = passing.address
    assert address in one.sh("cat /etc/hosts")
    passing.instance.destroy()
    assert address not in one.sh("cat /etc/hosts")
    assert network.of(passing.instance.record).interfaces == ()


def test_two_instances_do_not_get_one_port(boxes: Bench, both: dict[str, Served], tmp_path: Path) -> None:
    port = both["vm"].port("tcp")
    before = Place(boxes.home.run).read()
    for wish in (f"{port}:80", f"127.0.0.1:{port}:80"):
        second = boxes.make("true", network_mode="bridge", ports=[wish])
        with pytest.raises(HostError, match=f"{port}/tcp.*published by the instance net-vm"):
            second.start(None)
        assert second.status().state is not State.RUNNING
    assert Place(boxes.home.run).read().leases == before.leases


def test_a_port_that_a_program_listens_at_is_taken(boxes: Bench) -> None:
    with answering("0.0.0.0", b"") as port:
        second = boxes.make("true", network_mode="bridge", ports=[f"{port}:80"])
        with pytest.raises(HostError, match=f"{port}/tcp is in use by a program"):
            second.start(None)


def test_none_has_a_loopback_interface_only(benches: dict[str, Bench], image: Image) -> None:
    for bench in benches.values():
        result = bench.run("sh", "-c", "ls /sys/class/net; ip route; cat /etc/hosts", network_mode="none")
        lines = result.out.decode().splitlines()
        assert lines[0] == "lo" and "default" not in result.out.decode() and "10." not in result.out.decode()


def test_the_host_s_network(boxes: Bench, benches: dict[str, Bench]) -> None:
    result = boxes.run("ls", "/sys/class/net", network_mode="host")
    assert set(result.out.decode().split()) >= {"lo", *(name for _, name in socket.if_nameindex() if name == "eth0")}
    namespace = boxes.run("sh", "-c", "stat -L -c %i /proc/self/ns/net", network_mode="host").out.decode().strip()
    assert int(namespace) == Path("/proc/self/ns/net").stat().st_ino
    with pytest.raises(SpecError, match="network_mode: a VM has a kernel of its own"):
        benches["vm"].make("true", network_mode="host")


def test_ports_on_the_host_s_network_are_what_they_are(boxes: Bench) -> None:
    assert boxes.run("true", network_mode="host", ports=["8080:8080"]).code == 0
    with pytest.raises(SpecError, match="ports: 80 cannot be published as another"):
        boxes.make("true", network_mode="host", ports=["8080:80"])


def test_networks_do_not_reach_each_other(boxes: Bench) -> None:
    definitions = Definitions(boxes.home)
    made = [definitions.create(name, labels={}, internal=name == "inner") for name in ("first", "second", "inner")]
    try:
        first = serve(boxes, networks={"first": {"aliases": ["web"]}, "inner": {}})
        second = serve(boxes, networks=["second"])
        inner = serve(boxes, networks=["inner"])
        assert "1 packets received" in first.sh("ping -c 1 -W 10 web")
        assert "bad address" in second.sh("ping -c 1 web")
        assert "0 packets received" in second.sh(f"ping -c 1 -W 2 {first.address}")
        assert inner.sh(f"wget -q -O - http://{first.name}/") == first.sh("hostname")
        assert inner.joined.interfaces[0].gateway == "" and "default" not in inner.sh("ip route")
        assert "default via" in first.sh("ip route") and len(first.joined.interfaces) == 2
    finally:
        for instance in boxes.made:
            instance.destroy()
        for each in made:
            definitions.remove(each.name)


def test_what_a_killed_container_held_is_swept(boxes: Bench) -> None:
    killed = serve(boxes, ports=["80"])
    pid = killed.instance.status().pid
    assert pid is not None and netlink.exists(killed.joined.interfaces[0].link)
    os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(HostError):
        boxes.again(killed.instance).wait(TIMEOUT)
    network.sweep(boxes.home)
    assert killed.joined == Attachment(Mode.BRIDGE)


def test_a_start_that_fails_holds_nothing(boxes: Bench) -> None:
    broken = boxes.make("true", network_mode="bridge", ports=["80"])
    shutil.move(broken.record.directory / "config.json", broken.record.directory / "gone.json")
    with pytest.raises(Exception, match=r"config\.json"):
        broken.start(None)
    assert network.of(broken.record) == Attachment(Mode.BRIDGE)


def test_dns_and_extra_hosts(boxes: Bench) -> None:
    spec: dict[str, Any] = {
        "dns": ["192.0.2.53"],
        "extra_hosts": ["db=192.0.2.9", "up=host-gateway"],
        "network_mode": "bridge",
    }
    result = boxes.run("sh", "-c", "cat /etc/resolv.conf /etc/hosts; ip route", **spec)
    said = result.out.decode()
    assert "nameserver 192.0.2.53\n" in said and said.count("nameserver") == 1
    assert "192.0.2.9\tdb\n" in said
    gateway = said.partition("default via ")[2].split()[0]
    assert f"{gateway}\tup\n" in said


def outward_address() -> str | None:
    """The host's own address by which it reaches others, if it has one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as trial, contextlib.suppress(OSError):
        trial.connect(("198.51.100.1", 9))
        return str(trial.getsockname()[0])
    return None


def fetch_host(address: str, port: int) -> bytes:
    with socket.create_connection((address, port), TIMEOUT) as client:
        return client.recv(100)


@contextlib.contextmanager
def answering(address: str, words: bytes) -> Iterator[int]:
    """A server of the host that says words to who connects; its port."""
    with socket.create_server((address, 0)) as server:
        thread = threading.Thread(target=_answer, args=(server, words), daemon=True)
        thread.start()
        yield int(server.getsockname()[1])
        server.shutdown(socket.SHUT_RDWR)
        thread.join(TIMEOUT)


def _answer(server: socket.socket, words: bytes) -> None:
    with contextlib.suppress(OSError):
        while True:
            client, _ = server.accept()
            with client:
                client.sendall(words)
