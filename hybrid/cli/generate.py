"""`hybrid generate`: files for other programs, made of what there is."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from hybrid.cli.arguments import Name

app = typer.Typer(
    help="Make files for other programs: a systemd unit.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


@app.callback()
def _group() -> None:
    """Options of `hybrid generate` itself: there are none."""


@app.command()
def systemd(
    name: Name,
    policy: Annotated[
        str | None,
        typer.Option(
            "--restart-policy",
            metavar="POLICY",
            help="no, always, unless-stopped, on-failure[:N]; else as the spec says.",
        ),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option("--time", "--stop-timeout", "-t", min=0, help="Seconds until SIGKILL; else the spec's."),
    ] = None,
) -> None:
    """Print a systemd unit that starts an instance at boot and restarts it by its policy.

    systemd restarts it, not a daemon of ours. What the command writes goes to the journal (journalctl -u).

    Example:

      hybrid generate systemd web > /etc/systemd/system/web.service; systemctl enable --now web
    """
    from hybrid.home import default_home
    from hybrid.store import InstanceStore
    from hybrid.systemd import Service, unit

    home = default_home()
    record = InstanceStore(home).get(name)
    root = os.getuid() == 0
    service = Service(
        record.name,
        str(Path(sys.argv[0]).absolute()),
        f"hybrid {record.kind.value} {record.name} ({record.image_name or record.image})",
        restart=policy or record.spec.get("restart") or "no",
        stop_signal=record.stop_signal,
        stop_timeout=record.stop_timeout if timeout is None else timeout,
        environment={name: os.environ[name] for name in ("HYBRID_HOME",) if name in os.environ},
        needs=(str(home.root),),
        root=root,
    )
    print(unit(service), end="")
