"""`hybrid image`: make, fetch, send, list, check and remove images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hybrid.cli.export import export
from hybrid.cli.table import Format, show, size

if TYPE_CHECKING:
    from hybrid.image import Image
    from hybrid.images import ImageStore

app = typer.Typer(
    help="Make, fetch, send, list, check and remove images.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

app.command()(export)

_Names = Annotated[
    list[str], typer.Argument(metavar="NAME...", help="Names, digests, or the first twelve digits of one.")
]
_NamesOrAll = Annotated[list[str] | None, typer.Argument(metavar="[NAME...]", help="Names or digests; all, if none.")]
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

    Passwords are those of `skopeo login` and `docker login`. A registry's certificate is checked against the
    system's and against certs.d/REGISTRY in /etc/containers; one on this machine may speak plain HTTP.
    HYBRID_IMAGE_BYTES (64g), HYBRID_IMAGE_ENTRIES and HYBRID_IMAGE_RATIO bound what an image may expand to.

    Examples:

      hybrid image pull debian:bookworm

      hybrid image pull localhost:5000/web@sha256:…
    """
    from hybrid.cli.progress import progress

    with progress() as told:
        image = _store().pull(reference, told)
    print(image.digest)


@app.command()
def push(
    name: Annotated[str, typer.Argument(metavar="NAME", help="An image here.")],
    reference: Annotated[str | None, typer.Argument(metavar="[REF]", help="What it is called there.")] = None,
) -> None:
    """Send an image to a registry, layer by layer as it is, and print its name with its digest.

    Examples:

      hybrid image push localhost:5000/web:1

      hybrid image push web registry.example/team/web:1
    """
    from hybrid.cli.progress import progress

    with progress() as told:
        print(_store().push(name, reference, told))


@app.command()
def tag(
    name: Annotated[str, typer.Argument(metavar="NAME", help="An image here.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="One more name for it.")],
) -> None:
    """Give an image one more name.

    Example:

      hybrid image tag web:1 registry.example/team/web:1
    """
    _store().tag(name, new)


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
    from hybrid.images.upkeep import describe

    store = _store()
    images = [store.get(name) for name in names]
    _print_json([_values(image) | describe(store, image) | _config(image) for image in images])


@app.command()
def history(
    name: Annotated[str, typer.Argument(metavar="NAME", help="An image here.")], form: _Format = Format.TABLE
) -> None:
    """Print how an image was made, the latest step first.

    Example:

      hybrid image history web:1
    """
    from dataclasses import asdict

    from hybrid.images.upkeep import history as made

    store = _store()
    steps = made(store, store.get(name))
    if form is Format.JSON:
        _print_json([asdict(step) for step in steps])
        return
    rows = [
        (step.id[7:19] or "<missing>", step.created[:19], _short(step.created_by), size(step.size), step.comment)
        for step in steps
    ]
    show(("IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT"), rows)


@app.command()
def verify(names: _NamesOrAll = None, form: _Format = Format.TABLE) -> int:
    """Read every blob and every file of images (of all, if none is named) and say what is not as it was made.

    Exits with 1 if anything is.

    Example:

      hybrid image verify web:1
    """
    from hybrid.images.upkeep import verify as wrong

    store = _store()
    chosen = names or [f"sha256:{path.name}" for path in sorted(store.directory.glob("sha256/*"))]
    found = {name: list(wrong(store, name)) for name in chosen}
    if form is Format.JSON:
        _print_json([{"name": name, "ok": not each, "differences": each} for name, each in found.items()])
    else:
        show(("IMAGE", "FINDING"), [(name, line) for name, each in found.items() for line in each or ["ok"]])
    return int(any(found.values()))


@app.command(name="disk-usage")
def disk_usage(form: _Format = Format.TABLE) -> None:
    """Print the room that images take, and how much of it prune --all would free.

    Example:

      hybrid image disk-usage
    """
    from dataclasses import asdict

    from hybrid.images.upkeep import disk_usage as usage

    found = usage(_store())
    if form is Format.JSON:
        _print_json([asdict(each) for each in found])
        return
    rows = [(each.kind, str(each.total), str(each.active), size(each.size), size(each.reclaimable)) for each in found]
    show(("TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"), rows)


@app.command()
def prune(
    everything: Annotated[
        bool, typer.Option("--all", "-a", help="Also images with names, and the layers of earlier builds.")
    ] = False,
    form: _Format = Format.TABLE,
) -> None:
    """Remove images without a name, blobs that no image is made of, and what killed processes left.

    What an instance uses stays.

    Example:

      hybrid image prune --all
    """
    from hybrid.images.upkeep import prune as pruned

    found = list(pruned(_store(), everything=everything))
    removed, freed = [digest for digest, _ in found if digest], sum(amount for _, amount in found)
    if form is Format.JSON:
        _print_json({"removed": removed, "reclaimed": freed})
        return
    for digest in removed:
        print(digest)
    print(f"reclaimed {size(freed)}")


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


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 45 else f"{text[:44]}…"


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
