"""`hybrid network`: networks that instances of both kinds join."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from hybrid.cli.format import Field, FormatOption, formatted, show

if TYPE_CHECKING:
    from hybrid.home import Home
    from hybrid.network.definitions import Definitions
    from hybrid.network.model import Network

app = typer.Typer(
    help="Create, list and remove networks.", no_args_is_help=True, add_completion=False, rich_markup_mode=None
)

_FIELDS = (
    Field("ID", "NETWORK ID", usual=True),
    Field("Name", "NAME", usual=True),
    Field("Driver", "DRIVER", usual=True),
    Field("Scope", "SCOPE"),
    Field("Subnet", "SUBNET", usual=True),
    Field("Internal", "INTERNAL"),
    Field("Labels", "LABELS"),
    Field("CreatedAt", "CREATED AT"),
)


def complete_network(incomplete: str) -> list[str]:
    """Names of networks that start so. Reads a directory and nothing else."""
    from hybrid.home import default_home

    try:
        names = [path.stem for path in (default_home().root / "networks").glob("*.json")]
    except OSError:
        return []
    return sorted(name for name in names if name.startswith(incomplete))


_Names = Annotated[
    list[str], typer.Argument(metavar="NAME...", help="Networks, by name or id.", autocompletion=complete_network)
]


@app.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its name.")],
    subnet: Annotated[str, typer.Option("--subnet", help="In CIDR notation; one that is free if not given.")] = "",
    gateway: Annotated[str, typer.Option("--gateway", help="The host's address on it; the first if not given.")] = "",
    internal: Annotated[bool, typer.Option("--internal", help="Let nothing lead out of it.")] = False,
    label: Annotated[list[str] | None, typer.Option("--label", help="NAME=VALUE, as often as wanted.")] = None,
) -> None:
    """Make a network and print its id. Specs join it by `networks: [NAME]`.

    Example:

      hybrid network create --subnet 10.20.0.0/24 backend
    """
    labels = dict(each.partition("=")[::2] for each in label or [])
    print(_definitions().create(name, subnet=subnet, gateway=gateway, internal=internal, labels=labels).id)


@app.command(name="ls")
def list_networks(
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Ids only.")] = False,
    whole: Annotated[bool, typer.Option("--no-trunc", help="Do not shorten ids.")] = False,
    form: FormatOption = "table",
) -> None:
    """List the networks.

    Example:

      hybrid network ls
    """
    rows = [_row(network, whole) for network in _all()]
    if quiet:
        show(str(row["ID"]) for row in rows)
    else:
        show(formatted(form, _FIELDS, rows, rows))


@app.command()
def inspect(names: _Names, form: FormatOption = "json") -> int:
    """Print all that is known of networks: who is on them, too.

    Example:

      hybrid network inspect hybrid
    """
    import json

    from hybrid.cli.errors import tell
    from hybrid.cli.template import Template
    from hybrid.errors import HybridError

    definitions, found, failed = _definitions(), [], False
    for name in names:
        try:
            found.append(_values(definitions.get(name)))
        except HybridError as error:
            failed = True
            tell(error)
    if "{{" in form:
        show(Template(form).render(each) for each in found)
    else:
        print(json.dumps(found, indent=4))
    return int(failed)


@app.command()
def rm(
    names: _Names,
    force: Annotated[bool, typer.Option("--force", "-f", help="A network that is not there is no error.")] = False,
) -> int:
    """Remove networks. One that an instance names stays, and is told with its users.

    Example:

      hybrid network rm backend
    """
    from hybrid.cli.each import each

    definitions = _definitions()
    return each(names, lambda name: definitions.remove(name, force=force))


@app.command()
def prune(force: Annotated[bool, typer.Option("--force", "-f", help="Do not ask.")] = False) -> None:
    """Remove networks that no instance names, and what killed instances left on this host's networks.

    Example:

      hybrid network prune --force
    """
    from hybrid import network

    if not force:
        typer.confirm("Remove every network that no instance uses?", abort=True)
    for name in _definitions().prune():
        print(name, flush=True)
    network.sweep(_home())


def _home() -> Home:
    from hybrid.home import default_home

    return default_home()


def _definitions() -> Definitions:
    from hybrid.network.definitions import Definitions

    return Definitions(_home())


def _all() -> list[Network]:
    from hybrid.network.definitions import default

    return sorted([default(), *_definitions()], key=lambda network: network.name)


def _row(network: Network, whole: bool) -> dict[str, Any]:
    up = _up(network)
    return {
        "ID": network.id if whole else network.id[:12],
        "Name": network.name,
        "Driver": "bridge",
        "Scope": "local",
        "Subnet": up.subnet if up else network.subnet or "-",
        "Internal": network.internal,
        "Labels": ",".join(f"{key}={value}" for key, value in network.labels.items()),
        "CreatedAt": _time(network.created),
    }


def _values(network: Network) -> dict[str, Any]:
    from hybrid.network.state import Place

    place = Place(_home().run)
    state, bridge = place.read(), place.bridge(network.id)
    up = state.networks.get(bridge)
    subnet, gateway = (up.subnet, up.gateway) if up else (network.subnet, network.gateway)
    return {
        "Name": network.name,
        "Id": network.id,
        "Created": _time(network.created),
        "Scope": "local",
        "Driver": "bridge",
        "EnableIPv6": False,
        "IPAM": {"Driver": "default", "Config": [{"Subnet": subnet, "Gateway": gateway}] if subnet else []},
        "Internal": network.internal,
        "Bridge": bridge,
        "Up": up is not None,
        "Containers": {
            lease.id: {
                "Name": lease.name,
                "MacAddress": interface.mac,
                "IPv4Address": f"{interface.address}/{interface.prefix}",
                "Names": list(interface.names),
            }
            for lease, interface in state.members(bridge)
        },
        "Labels": dict(network.labels),
    }


def _up(network: Network) -> Any:
    from hybrid.network.state import Place

    place = Place(_home().run)
    return place.read().networks.get(place.bridge(network.id))


def _time(seconds: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds") if seconds else ""
