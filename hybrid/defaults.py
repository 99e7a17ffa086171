"""What a command finds alike in every kind, whatever its image says."""

from __future__ import annotations

OPEN_FILES = (1024, 1 << 20)
"""Soft and hard limit of open files, as systemd's and Docker's defaults have them. vm/init.c has them too."""


def hosts(hostname: str) -> str:
    """/etc/hosts without a network: the loopback names, and the instance's own."""
    return f"127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n"
