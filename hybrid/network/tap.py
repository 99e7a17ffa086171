"""Taps: the host's end of a VM's interface, made before QEMU starts. See the kernel's tuntap.rst."""

from __future__ import annotations

import fcntl
import os
import struct

from hybrid.errors import HostError

_TUNSETIFF, _TUNSETPERSIST, _TUNSETOWNER = 0x400454CA, 0x400454CB, 0x400454CC
_TAP, _NO_PACKET_INFO, _VNET_HEADER = 0x0002, 0x1000, 0x4000


def create(name: str, owner: int) -> None:
    """Make a tap that stays until it is deleted, and that a user may open."""
    try:
        device = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(
            f"/dev/net/tun cannot be opened: {error.strerror}", mend="modprobe tun, or `network_mode: none`"
        ) from None
    try:
        fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _TAP | _NO_PACKET_INFO | _VNET_HEADER))
        fcntl.ioctl(device, _TUNSETOWNER, owner)
        fcntl.ioctl(device, _TUNSETPERSIST, 1)
    except OSError as error:
        raise HostError(f"the tap {name} cannot be made: {error.strerror}", mend="hybrid prune") from None
    finally:
        os.close(device)
