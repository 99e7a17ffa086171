"""What a guest told of itself, and what confines its QEMU on the host."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

from hybrid.driver import Evidence


def from_guest(told: Iterable[tuple[str, str]], qemu: int | None) -> Evidence:
    """Evidence from the init's lines; what it did not tell stays empty."""
    values: dict[str, str] = {}
    status: dict[str, str] = {}
    namespaces: dict[str, str] = {}
    for key, text in told:
        if key == "status":
            name, _, value = text.partition(":")
            status[name] = value.strip()
        elif key == "namespace":
            namespaces[text.partition(":")[0]] = text
        else:
            values[key] = text.strip()
    return Evidence(
        kernel_release=values.get("release", ""),
        boot_id=values.get("boot_id", ""),
        os_name=os_name(values.get("os_release", "")),
        uid_map=values.get("uid_map", ""),
        namespaces=namespaces,
        capabilities=_number(status.get("CapEff", ""), 16),
        seccomp=_number(status.get("Seccomp", ""), 10),
        no_new_privs=status.get("NoNewPrivs") == "1",
        host_processes={} if qemu is None else {"qemu": qemu_confinement(qemu)},
    )


def qemu_confinement(pid: int) -> dict[str, str]:
    """How the host confines QEMU: its user, seccomp mode, capabilities and no_new_privs."""
    found: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in ("Uid", "Seccomp", "CapEff", "NoNewPrivs"):
                found[name] = value.split()[0]
    return found


def os_name(os_release: str) -> str:
    """PRETTY_NAME of an os-release file, bounded, empty when it has none."""
    for line in os_release.splitlines():
        key, _, value = line.partition("=")
        if key == "PRETTY_NAME":
            return value.strip().strip("\"'")[:100]
    return ""


def _number(text: str, base: int) -> int:
    try:
        return int(text, base)
    except ValueError:
        return 0
