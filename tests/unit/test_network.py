"""Networks, as far as they are pure: addresses, rules, names, ports, the state on disk."""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest

from hybrid import network
from hybrid.driver import Kind
from hybrid.errors import HostError, HybridError, SpecError
from hybrid.home import Home
from hybrid.network import ipam, names, neighbours, nft, plan, ports, rules
from hybrid.network.definitions import Definitions
from hybrid.network.model import Attachment, Interface, Lease, Published, Up
from hybrid.network.state import Place, State
from hybrid.network.words import Mode, Port
from hybrid.spec import Spec
from hybrid.store import Record

DATA = Path(__file__).parent / "data"


def lease(number: int, *published: Published, name: str = "", bridge: str = "hyb-0", **changes: Any) -> Lease:
    name = name or f"box{number}"
    interface = Interface(
        network="hybrid",
        address=f"10.213.0.{number}",
        prefix=20,
        gateway="10.213.0.1",
        mac=f"02:00:00:00:00:{number:02x}",
        link=f"hp0{number}",
        bridge=bridge,
        names=(name, f"host{number}"),
    )
    values: dict[str, Any] = {"id": f"{number:016x}", "name": name, "directory": f"/home/{number}", "starter": (1, 2)}
    return Lease(**values | {"interfaces": (interface,), "ports": published, "hostname": f"host{number}"} | changes)


def state(*leases: Lease) -> State:
    outer = Up("hybrid", "hyb-0", "10.213.0.0/20", "10.213.0.1")
    inner = Up("inner", "hyb-ab12cd", "10.77.0.0/24", "10.77.0.1", internal=True)
    return State({up.bridge: up for up in (outer, inner)}, {each.id: each for each in leases})


WEB = lease(2, Published(8080, 80), Published(5353, 53, "127.0.0.1", "udp"))


def test_rules_are_golden() -> None:
    made = json.dumps(rules.ruleset("hybrid", state(WEB)), indent=1) + "\n"
    golden = DATA / "network-rules.json"
    if os.environ.get("GOLDEN") == "write":
        golden.write_text(made)
    assert made == golden.read_text()


def test_one_more_instance_is_a_few_elements() -> None:
    added = rules.published("hybrid", WEB)
    assert [set(command["add"]) for command in added] == [{"element"}] * 4
    assert {command["add"]["element"]["name"] for command in added} == {
        *("all_address", "all_port", "own_address", "own_port"),
    }
    assert rules.published("hybrid", lease(3)) == []
    assert [next(iter(command)) for command in rules.published("hybrid", WEB, "delete")] == ["delete"] * 4


def test_a_port_leads_to_the_network_with_a_way_out() -> None:
    inner = replace(WEB.interfaces[0], address="10.77.0.2", gateway="")
    assert rules.publishing_address(replace(WEB, interfaces=(inner, *WEB.interfaces))) == "10.213.0.2"


@pytest.mark.skipif(os.geteuid() != 0, reason="rules are for root")
def test_the_kernel_takes_the_rules() -> None:
    table = f"hybrid_test{os.getpid()}"
    nft.run([*rules.ruleset(table, state(WEB)), *rules.removal(table)])  # one transaction: nothing is left of it
    assert not nft.has("table", family="inet", name=table)


def test_docker_s_chain_is_left_as_it_was() -> None:
    added = [each["insert"] for each in neighbours.admission("hyb-", "hybrid /run/hybrid")]
    listed = [{"rule": {**each["rule"], "handle": number}} for number, each in enumerate(added)]
    other = {"rule": {"handle": 9, "expr": []}}
    removed = neighbours.dismissal([{"chain": {"name": "DOCKER-USER"}}, other, *listed], "hybrid /run/hybrid")
    assert [each["delete"]["rule"]["handle"] for each in removed] == [0, 1]
    assert neighbours.dismissal(listed, "hybrid /elsewhere") == []


# ---- addresses ---------------------------------------------------------------------------


def test_a_subnet_overlaps_nothing() -> None:
    chance = random.Random(4)
    for _ in range(200):
        prefix = chance.randint(8, 30)
        taken = {
            IPv4Network((chance.choice((0x0AD50000, 0xAC1E0000, chance.getrandbits(32))), prefix), strict=False)
            for _ in range(chance.randint(0, 20))
        }
        subnet = ipam.free_subnet(taken)
        assert subnet.is_private and not any(subnet.overlaps(each) for each in taken)


def test_no_subnet_is_left() -> None:
    with pytest.raises(HostError, match="overlaps"):
        ipam.free_subnet({IPv4Network("10.0.0.0/8"), IPv4Network("172.16.0.0/12"), IPv4Network("192.168.0.0/16")})
    assert ipam.free_subnet({IPv4Network("0.0.0.0/0")})  # the default route is everybody's


def test_addresses_go_round_and_are_never_shared() -> None:
    subnet, taken, last = IPv4Network("10.9.0.0/29"), {"10.9.0.1"}, "10.9.0.1"
    for expected in ("10.9.0.2", "10.9.0.3", "10.9.0.4", "10.9.0.5", "10.9.0.6"):
        last = str(ipam.free_address(subnet, taken, last))
        assert last == expected
        taken.add(last)
    with pytest.raises(HostError, match="all addresses"):
        ipam.free_address(subnet, taken, last)
    taken.remove("10.9.0.3")
    assert str(ipam.free_address(subnet, taken, last)) == "10.9.0.3"
    assert str(ipam.free_address(subnet, {"10.9.0.1"}, "10.9.0.3")) == "10.9.0.4"


@pytest.mark.parametrize(
    ("subnet", "gateway", "what"),
    [
        ("10.1.0.0", "", "prefix from"),
        ("10.1.0.1/24", "", "no IPv4 subnet"),
        ("10.1.0.0/30", "", "prefix from"),
        ("127.0.0.0/24", "", "not for networks"),
        ("fd00::/64", "", "no IPv4 subnet"),
        ("10.1.0.0/24", "10.2.0.1", "no address in"),
        ("10.1.0.0/24", "10.1.0.255", "no address in"),
        ("10.1.0.0/24", "x", "no IPv4 address"),
    ],
)
def test_subnets_that_cannot_be(subnet: str, gateway: str, what: str) -> None:
    with pytest.raises(HybridError) as caught:
        ipam.check(subnet, gateway)
    assert what in f"{caught.value.what} {caught.value.mend}"


def test_macs() -> None:
    first, second = (ipam.mac("00ff00fffe123456", number) for number in range(2))
    assert first == "02:00:ff:00:ff:fe" and second == "02:00:ff:00:ff:ff"
    assert ipam.check("10.1.0.0/24", "10.1.0.9") == (IPv4Network("10.1.0.0/24"), IPv4Address("10.1.0.9"))


# ---- ports -------------------------------------------------------------------------------


def taken_port() -> tuple[socket.socket, int]:
    server = socket.create_server(("127.0.0.1", 0))
    return server, int(server.getsockname()[1])


def test_a_free_port_is_free() -> None:
    first, second, third = ports.choose([Port(80), Port(80, protocol="udp"), Port(81, None, "127.0.0.1")], [])
    assert first.port and second.protocol == "udp" and third.host_ip == "127.0.0.1"
    assert first.port != third.port


def test_ports_that_are_taken() -> None:
    server, number = taken_port()
    with server:
        for port in (Port(80, (number, number)), Port(80, (number, number), "127.0.0.1")):
            with pytest.raises(HostError, match="in use by a program"):
                ports.choose([port], [])
    held = lease(2, Published(number, 80), name="web")
    for port in (Port(80, (number, number)), Port(80, (number, number), "127.0.0.1")):
        with pytest.raises(HostError, match="published by the instance web"):
            ports.choose([port], [held])
    assert ports.choose([Port(80, (number, number), protocol="udp")], [held])
    with pytest.raises(HostError, match="published twice"):
        ports.choose([Port(80, (number, number)), Port(81, (number, number))], [])


def test_the_next_port_of_a_range() -> None:
    server, number = taken_port()
    with server:
        [found] = ports.choose([Port(80, (number, min(65535, number + 50)))], [])
        assert number < found.port <= number + 50
        with pytest.raises(HostError, match="in use"):
            ports.choose([Port(80, (number, number))], [])


def test_an_address_that_is_not_the_host_s() -> None:
    with pytest.raises(HostError, match="no address of this host"):
        ports.choose([Port(80, (8080, 8080), "203.0.113.9")], [])


# ---- names -------------------------------------------------------------------------------


def test_everyone_on_a_network_is_named() -> None:
    web, db, far = lease(2), lease(3, name="db"), lease(4, bridge="hyb-ab12cd")
    web = replace(web, extra_hosts=(("up", "host-gateway"), ("six", "fd00::1")))
    assert names.hosts(web, state(web, db, far)) == (
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
        "10.213.0.2\thost2 box2\n10.213.0.1\tup\nfd00::1\tsix\n10.213.0.3\tdb host3\n"
    )
    lines = names.control_lines(web, state(web, db, far))
    assert lines[0] == "hosts" and lines[-1] == "hosts-end" and "host 10.213.0.3 db" in lines


@contextlib.contextmanager
def guest(path: Path, *, answers: bool) -> Iterator[list[str]]:
    """What stands for a guest's control socket; the lines it heard."""
    heard: list[str] = []
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = server.accept()
                    with client, client.makefile("r") as lines:
                        for line in lines:
                            heard.append(line.strip())
                            if answers:
                                client.send(b"+")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield heard
        server.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def test_guests_are_told_and_a_deaf_one_keeps_nobody_waiting_twice(tmp_path: Path) -> None:
    with guest(tmp_path / "a", answers=True) as heard, guest(tmp_path / "b", answers=False) as unheard:
        quick = lease(2, control=str(tmp_path / "a"), listens=True)
        deaf = lease(3, control=str(tmp_path / "b"), listens=True)
        booting = lease(4, control=str(tmp_path / "nobody"))
        first = names.tell(state(quick, deaf, booting), ["hyb-0"])
        assert first.leases[quick.id].deaf == 0.0 and first.leases[deaf.id].deaf > 0.0
        assert first.leases[booting.id] == booting
        assert heard == names.control_lines(quick, state(quick, deaf, booting))
        before = list(unheard)
        second = names.tell(first.without_lease(booting.id), ["hyb-0"])
        assert len(heard) > len(before) and unheard == before
        assert second.leases[deaf.id] == first.leases[deaf.id]


def test_nobody_is_called_localhost() -> None:
    assert names.names("localhost", "LocalHost.localdomain", ["db", "db"]) == ("db",)


@pytest.mark.parametrize(
    ("host", "servers", "expected"),
    [
        ("nameserver 10.0.0.1\nsearch a.b\n", [], "search a.b\nnameserver 10.0.0.1\n"),
        ("nameserver 10.0.0.1\nsearch a.b\n", ["9.9.9.9"], "search a.b\nnameserver 9.9.9.9\n"),
        ("nameserver 127.0.0.53\noptions edns0\n", [], "options edns0\nnameserver 10.0.0.7\n"),
        ("nameserver 127.0.0.1\nnameserver 10.0.0.1\n", [], "nameserver 10.0.0.1\n"),
        ("nameserver fd00::1 # six\n", [], "nameserver 10.0.0.7\n"),
        ("", [], ""),
    ],
)
def test_name_servers(tmp_path: Path, host: str, servers: list[str], expected: str) -> None:
    (tmp_path / "resolv.conf").write_text(host)
    (tmp_path / "resolved").write_text("nameserver 10.0.0.7\n")
    assert names.resolv_conf(servers, tmp_path / "resolv.conf", tmp_path / "resolved") == expected


# ---- state, definitions, plans -----------------------------------------------------------


def test_the_state_is_read_as_it_was_written(tmp_path: Path) -> None:
    place, kept = Place(tmp_path), state(WEB, lease(3, extra_hosts=(("a", "1.2.3.4"),)))
    with place.held():
        place.write(kept)
    assert place.read() == kept
    text = place.file.read_text()
    place.file.write_text(text.replace('"boot": "', '"boot": "of another '))
    assert place.read() == State()
    place.file.write_text("{")
    assert place.read() == State()
    place.write(State())
    assert not place.file.exists()


def test_names_of_links_fit_the_kernel() -> None:
    for run in (Path("/run/hybrid"), Path("/tmp/elsewhere")):
        assert len(Place(run).bridge("0123456789abcdef")) <= 15
    assert (Place(Path("/run/hybrid")).table, Place(Path("/run/hybrid")).bridge("0")) == ("hybrid", "hyb-0")


def test_definitions(tmp_path: Path) -> None:
    definitions = Definitions(Home(tmp_path / "home", tmp_path / "run"))
    made = definitions.create("back", subnet="10.123.45.0/24", labels={"a": "b"}, internal=True)
    assert (made.gateway, made.internal, made.labels) == ("10.123.45.1", True, {"a": "b"})
    assert definitions.get("back") == definitions.get(made.id[:6]) == made and list(definitions) == [made]
    assert IPv4Network(made.subnet) in definitions.taken()
    for name, subnet in (("back", ""), ("other", "10.123.0.0/16"), ("host", ""), ("a/b", "")):
        with pytest.raises(HybridError):
            definitions.create(name, subnet=subnet, labels={})
    assert definitions.get("default").name == "hybrid"
    definitions.remove("back")
    with pytest.raises(HybridError, match="no network is named"):
        definitions.remove("back")
    definitions.remove("back", force=True)


def made_plan(tmp_path: Path, kind: Kind, **keys: Any) -> dict[str, Any]:
    return plan.make(Spec(image="x", **keys), kind, Home(tmp_path / "home", tmp_path / "run"), "box")


def test_plans(tmp_path: Path) -> None:
    made = made_plan(tmp_path, Kind.VM, network_mode="bridge" if os.geteuid() == 0 else "none", ports=[])
    if os.geteuid() == 0:
        assert [each["name"] for each in made["networks"]] == ["hybrid"]
    assert made_plan(tmp_path, Kind.CONTAINER, network_mode="none") == {"mode": "none", "hostname": "box"}
    assert made_plan(tmp_path, Kind.HOST, ports=["80:80"]) == {"mode": "host", "hostname": "box"}


@pytest.mark.parametrize(
    ("kind", "keys", "what"),
    [
        (Kind.VM, {"network_mode": "host"}, "network_mode: a VM has a kernel of its own"),
        (Kind.HOST, {"ports": ["8080:80"]}, "ports: 80 cannot be published as another port"),
        (Kind.HOST, {"ports": ["80"]}, "ports: 80 cannot be published as another port"),
        (Kind.CONTAINER, {"networks": ["nope"]}, "networks: no network is named 'nope'"),
    ],
)
def test_what_cannot_be_had(tmp_path: Path, kind: Kind, keys: dict[str, Any], what: str) -> None:
    with pytest.raises(SpecError, match=what) as caught:
        made_plan(tmp_path, kind, **keys)
    assert all(error.mend for error in caught.value.errors)


def test_an_internal_network_publishes_nothing(tmp_path: Path) -> None:
    Definitions(Home(tmp_path / "home", tmp_path / "run")).create(
        "inner", subnet="10.123.45.0/24", internal=True, labels={}
    )
    with pytest.raises(SpecError, match="publishes nothing"):
        made_plan(tmp_path, Kind.CONTAINER, networks=["inner"], ports=["80:80"])


def test_without_a_network_nothing_is_joined(tmp_path: Path) -> None:
    engine: dict[str, Any] = {"network": {"mode": "none", "hostname": "box"}}
    record = Record("a", "0" * 16, Kind.CONTAINER, "", "", (), 0.0, tmp_path, engine=engine)
    assert network.of(record) == Attachment(Mode.NONE)
    assert network.of(replace(record, engine={})) == Attachment(Mode.NONE)
    network.detach(record)
    network.renamed(record)
    assert list(tmp_path.iterdir()) == []
