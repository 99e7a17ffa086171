"""`hybrid port`: at which ports of this host an instance is reached."""

from __future__ import annotations

from typing import Annotated

import typer

from hybrid.cli import view
from hybrid.cli.arguments import Name


def port(
    name: Name,
    target: Annotated[
        str | None, typer.Argument(metavar="[PORT[/PROTOCOL]]", help="A port in the instance; else all of them.")
    ] = None,
) -> int:
    """List the published ports of a running instance.

    Examples:

      hybrid port web

      curl http://$(hybrid port web 80)/
    """
    from hybrid.errors import InstanceError
    from hybrid.home import default_home
    from hybrid.store import InstanceStore

    record = InstanceStore(default_home()).get(name)
    found = view.attachment(record).ports
    if target is None:
        for each in found:
            print(f"{each.target}/{each.protocol} -> {each.host_ip or '0.0.0.0'}:{each.port}")
        return 0
    number, _, protocol = target.partition("/")
    chosen = [each for each in found if str(each.target) == number and each.protocol == (protocol or "tcp")]
    if not chosen:
        raise InstanceError(
            f"{name} publishes no port {number}/{protocol or 'tcp'}", mend=f"hybrid port {name} lists them"
        )
    for each in chosen:
        print(f"{each.host_ip or '0.0.0.0'}:{each.port}")
    return 0
