"""The option that says which libvirt runs VMs."""

from __future__ import annotations

from typing import Annotated

import typer

Connect = Annotated[
    str | None,
    typer.Option(
        "--connect",
        envvar="HYBRID_CONNECT",
        metavar="URI",
        help="The libvirt that runs new VMs: qemu:///system or qemu:///session; else one inside this process.",
    ),
]
"""LIBVIRT_DEFAULT_URI is not read: set for other programs, it would change here what a VM costs."""
