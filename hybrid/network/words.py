"""The words in which a spec speaks of networks: cheap to import, since all specs load them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

NETWORK_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}")
MOST_NETWORKS = 8
"""That one instance may join."""
DEFAULT = "hybrid"
"""The network of instances that name none; Compose's word for it is `default`."""


class Mode(StrEnum):
    """What network an instance has."""

    NONE = "none"
    """A loopback interface only."""
    HOST = "host"
    """The host's own."""
    BRIDGE = "bridge"
    """Interfaces on networks of ours."""


@dataclass(frozen=True, slots=True)
class Port:
    """A port that a spec publishes."""

    target: int
    """In the instance."""
    published: tuple[int, int] | None = None
    """First and last of the host's ports to choose from; None takes any free one."""
    host_ip: str = ""
    """The host's address to publish at; empty for all of them."""
    protocol: str = "tcp"
    """Or udp."""
