"""Other firewalls of this host. An accept of ours does not undo a drop of theirs: each base chain is asked.

Docker drops what it does not know, and gives others the chain DOCKER-USER to say what they want passed: two
rules of ours go there, told from all others by their comment. Where other chains drop what is forwarded,
that is their owner's will, and `hybrid doctor` says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from hybrid.driver import Problem
from hybrid.errors import HybridError
from hybrid.network import nft
from hybrid.network.rules import Command
from hybrid.network.state import Place

_DOCKER = {"family": "ip", "table": "filter"}
_CHAIN = "DOCKER-USER"


def admission(prefix: str, mark: str) -> list[Command]:
    """Commands that let pass, in Docker's chain, what goes to and from our bridges."""
    return [
        {
            "insert": {
                "rule": {**_DOCKER, "chain": _CHAIN, "comment": mark, "expr": [_of(key, prefix), {"accept": None}]}
            }
        }
        for key in ("iifname", "oifname")
    ]


def _of(key: str, prefix: str) -> Command:
    return {"match": {"op": "==", "left": {"meta": {"key": key}}, "right": f"{prefix}*"}}


def dismissal(listed: Sequence[dict[str, Any]], mark: str) -> list[Command]:
    """Commands that remove those rules, of what is listed of the chain."""
    return [
        {"delete": {"rule": {**_DOCKER, "chain": _CHAIN, "handle": each["rule"]["handle"]}}}
        for each in listed
        if each.get("rule", {}).get("comment") == mark
    ]


def admit(place: Place) -> None:
    """See to it that Docker, if it is here, lets our networks be."""
    listed = _listed()
    if listed is not None and not dismissal(listed, place.mark):
        nft.run(admission(place.bridge(""), place.mark))


def dismiss(place: Place) -> None:
    """Leave Docker's chain as it was."""
    if commands := dismissal(_listed() or [], place.mark):
        nft.run(commands)


def _listed() -> list[dict[str, Any]] | None:
    try:
        return nft.run([{"list": {"chain": {**_DOCKER, "name": _CHAIN}}}])
    except HybridError:  # there is none
        return None


def problems() -> Iterator[Problem]:
    """Other firewalls that drop what goes to and from our networks."""
    chains = [each["chain"] for each in nft.run([{"list": {"chains": None}}])]
    if any((each["family"], each["table"]) == ("inet", "firewalld") for each in chains):
        yield Problem(
            "firewalld rejects what goes to and from networks of ours",
            "firewall-cmd --permanent --zone=trusted --add-interface=hyb-0, then firewall-cmd --reload",
        )
    has_docker = any((each["table"], each["name"]) == ("filter", _CHAIN) for each in chains)
    for each in chains:
        where = f"{each['family']} {each['table']} {each['name']}"
        if (
            each.get("hook") == "forward"
            and each.get("policy") == "drop"
            and not (has_docker and each["family"] == "ip")
        ):
            yield Problem(
                f"the firewall's chain {where} drops what it does not know, networks of ours too",
                f'nft \'insert rule {where} iifname "hyb*" accept; insert rule {where} oifname "hyb*" accept\'',
            )
