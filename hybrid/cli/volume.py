"""`hybrid volume`: directories that outlive instances, and that both kinds mount."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hybrid.cli.table import Format, show, size

if TYPE_CHECKING:
    from hybrid.volumes import Volume, VolumeStore

app = typer.Typer(
    help="Create, list and remove volumes.", no_args_is_help=True, add_completion=False, rich_markup_mode=None
)

_Names = Annotated[list[str], typer.Argument(metavar="NAME...", help="Volumes.")]
_Format = Annotated[Format, typer.Option("--format", help="How the list is printed.")]


@app.command()
def create(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Its name; else one is made up.")] = None,
    label: Annotated[list[str] | None, typer.Option("--label", help="NAME=VALUE, as often as wanted.")] = None,
) -> None:
    """Make a volume, if there is none of that name, and print its name. Specs make those that they name.

    Example:

      hybrid volume create data
    """
    from os import urandom

    labels = dict(each.partition("=")[::2] for each in label or [])
    print(_store().create(name or urandom(32).hex(), labels).name)


@app.command(name="ls")
def list_volumes(
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Names only.")] = False,
    dangling: Annotated[bool, typer.Option("--dangling", help="Those that no instance uses.")] = False,
    form: _Format = Format.TABLE,
) -> None:
    """List the volumes, and which instances use them.

    Example:

      hybrid volume ls
    """
    store = _store()
    found = [(volume, store.users(volume.name)) for volume in store]
    found = [(volume, users) for volume, users in found if not (dangling and users)]
    if form is Format.JSON:
        print(json.dumps([_values(volume, users) for volume, users in found], indent=2))
    elif quiet:
        for volume, _ in found:
            print(volume.name)
    else:
        show(("VOLUME", "USED BY"), [(volume.name, ", ".join(users) or "-") for volume, users in found])


@app.command()
def inspect(names: _Names) -> int:
    """Print all that is known of volumes, as JSON.

    Example:

      hybrid volume inspect data
    """
    from hybrid.cli.errors import lines, printable
    from hybrid.errors import HybridError

    store, found, failed = _store(), [], False
    for name in names:
        try:
            found.append(_values(store.get(name), store.users(name)))
        except HybridError as error:
            failed = True
            for line in lines(error):
                print(printable(line), file=sys.stderr)
    print(json.dumps(found, indent=2))
    return int(failed)


@app.command()
def rm(
    names: _Names,
    force: Annotated[bool, typer.Option("--force", "-f", help="A volume that is not there is no error.")] = False,
) -> int:
    """Remove volumes with all that is in them. One that an instance uses stays, and is told with its users.

    Example:

      hybrid volume rm data
    """
    from hybrid.cli.each import each

    store = _store()
    return each(names, lambda name: store.remove(name, force=force))


@app.command()
def prune(
    everything: Annotated[bool, typer.Option("--all", "-a", help="Also those that were given a name.")] = False,
    force: Annotated[bool, typer.Option("--force", "-f", help="Do not ask.")] = False,
) -> None:
    """Remove volumes that no instance uses and that nobody gave a name.

    The volumes of an image, and those of a spec without a name, go with their instance and never need this.

    Example:

      hybrid volume prune --all --force
    """
    if not force:
        what = "every volume that no instance uses" if everything else "volumes without a name that no instance uses"
        typer.confirm(f"Remove {what}?", abort=True)
    freed = 0
    for name, amount in _store().prune(everything=everything):
        print(name, flush=True)
        freed += amount
    print(f"reclaimed {size(freed)}")


def _store() -> VolumeStore:
    from hybrid.home import default_home
    from hybrid.volumes import VolumeStore

    return VolumeStore(default_home())


def _values(volume: Volume, users: list[str]) -> dict[str, Any]:
    from datetime import UTC, datetime

    return {
        "Name": volume.name,
        "Driver": "local",
        "Mountpoint": str(volume.data),
        "CreatedAt": datetime.fromtimestamp(volume.created, UTC).isoformat(timespec="seconds"),
        "Labels": dict(volume.labels),
        "Scope": "local",
        "UsedBy": users,
    }
