"""IP forwarding of the host: on while a network is up, and then as it was before the first.

It is one switch of the host's, whatever places the networks are kept in, so there is one note of it.
"""

from __future__ import annotations

from pathlib import Path

from hybrid.home import ordinary_user
from hybrid.network import nft

_SWITCH = Path("/proc/sys/net/ipv4/ip_forward")
_NOTE = Path("/run/hybrid/network/forwarding")
"""It is there when we switched it on; a reboot takes it away."""


def switch_on() -> None:
    """Let the host forward. In an ordinary user's network namespace that is nobody's to restore."""
    if _SWITCH.read_text().strip() != "0":
        return
    if ordinary_user() is None:
        _NOTE.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        _NOTE.touch(0o644)
    _SWITCH.write_text("1")


def switch_back() -> None:
    """A place's last network has gone. Whoever has rules in the kernel by now may need it: then it stays on."""
    if ordinary_user() is not None or not _NOTE.exists() or nft.run([{"list": {"tables": None}}]):
        return
    _SWITCH.write_text("0")
    _NOTE.unlink(missing_ok=True)
