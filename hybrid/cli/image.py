"""`hybrid image`: make, fetch, list and remove images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hybrid.cli.table import Format, show, size

if TYPE_CHECKING:
    from hybrid.image import Image
    from hybrid.images import ImageStore

app = typer.Typer(
    help="Make, fetch, list and remove images.", no_args_is_help=True, add_completion=False, rich_markup_mode=None
)

_Names = Annotated[
    list[str], typer.Argument(metavar="NAME...", help="Names, digests, or the first twelve digits of one.")
]
_Format = Annotated[Format, typer.Option("--format", help="How to print them.")]


@app.command()
def build(
    path: Annotated[Path, typer.Argument(metavar="SPEC", help="A spec's file.")],
    tag: Annotated[str | None, typer.Option("--tag", "-t", help="The image's name; else the file's.")] = None,
) -> None:
    """Make the image of a spec, even if there is one, and print its digest.

    Example:

      hybrid image build web.yaml --tag web:1
    """
    from hybrid import spec
    from hybrid.cli.progress import progress

    wanted = spec.load(path)
    with progress() as told:
        image = _store().build(wanted, tag, told)
    print(image.digest)


@app.command()
def pull(
    reference: Annotated[str, typer.Argument(metavar="REF", help="A name in a registry, as Docker writes it.")],
) -> None:
    """Fetch an image from a registry and print its digest.

    Examples:

      hybrid image pull debian:bookworm

      hybrid image pull localhost:5000/web@sha256:…
    """
    from hybrid.cli.progress import progress

    with progress() as told:
        image = _store().pull(reference, told)
    print(image.digest)


@app.command(name="ls")
def list_images(form: _Format = Format.TABLE) -> None:
    """List the images, the latest first.

    Example:

      hybrid image ls --format json
    """
    images = list(_store())
    if form is Format.JSON:
        _print_json([_values(image) for image in images])
        return
    rows = [
        (name, image.digest[7:19], size(image.tree_bytes), image.source) for image in images for name in _names(image)
    ]
    show(("NAME", "DIGEST", "SIZE", "SOURCE"), rows)


@app.command()
def inspect(names: _Names) -> None:
    """Print all that is known of images, as JSON.

    Example:

      hybrid image inspect web:1
    """
    store = _store()
    _print_json([_values(store.get(name)) | _config(store.get(name)) for name in names])


@app.command()
def rm(names: _Names) -> int:
    """Remove names, and the images that no name is left for. One that an instance uses stays.

    Example:

      hybrid image rm web:1
    """
    from hybrid.cli.each import each

    return each(names, _store().remove)


def _store() -> ImageStore:
    from hybrid.home import default_home
    from hybrid.images import ImageStore

    return ImageStore(default_home())


def _names(image: Image) -> tuple[str, ...]:
    return image.names or ("-",)


def _values(image: Image) -> dict[str, Any]:
    return {
        "digest": image.digest,
        "names": list(image.names),
        "source": image.source,
        "bytes": image.tree_bytes,
        "tree": str(image.tree),
    }


def _config(image: Image) -> dict[str, Any]:
    from dataclasses import asdict

    return {"config": asdict(image.config)}


def _print_json(values: Any) -> None:
    import json

    print(json.dumps(values, indent=2, default=dict))
