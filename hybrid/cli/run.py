"""`hybrid run`: one instance, in the foreground or detached."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from hybrid.cli import deeds
from hybrid.cli.arguments import complete_image
from hybrid.cli.connect import Connect
from hybrid.cli.options import with_options
from hybrid.cli.signals import held
from hybrid.driver import Kind
from hybrid.specoptions import Option

if TYPE_CHECKING:
    from hybrid.driver import Instance
    from hybrid.interrupt import Interrupts

CONTEXT = {"allow_interspersed_args": False}

Target = Annotated[
    str,
    typer.Argument(metavar="SPEC|IMAGE", help="A spec's file, or an image's name.", autocompletion=complete_image),
]
Command = Annotated[
    list[str] | None, typer.Argument(metavar="[--] COMMAND...", help="What to run instead of the spec's command.")
]
AsKind = Annotated[
    Kind | None, typer.Option("--as", help="The isolation model; else the spec's `isolation`, else container.")
]
OwnName = Annotated[str | None, typer.Option("--name", help="The instance's name; else one is made up.")]


@with_options
def run(
    context: typer.Context,
    options: list[Option],
    target: Target,
    command: Command = None,
    kind: AsKind = None,
    remove: Annotated[
        bool, typer.Option("--rm", help="Remove the instance when it ends; with -d a process waits for that.")
    ] = False,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Leave it running and print its name.")] = False,
    name: OwnName = None,
    connect: Connect = None,
) -> int:
    """Run a spec or an image: as a VM, a container or on the host.

    Standard input, output, error and signals pass through to the command, and its exit status is
    ours: 125 when hybrid itself failed, 126 when the command cannot be executed, 127 when it is not
    there, 128+n when signal n ended it. All that follows SPEC belongs to the command.

    Examples:

      hybrid run --rm --as vm web.yaml

      hybrid run --rm --as container web.yaml -- sh -c 'echo hello'

      hybrid run -it --rm debian:bookworm bash

      hybrid run -d --name cache -m 256m redis.yaml
    """
    from hybrid.cli import foreground, terminal

    if not detach:
        terminal.check(*(any(each.key == key for each in options) for key in ("tty", "stdin_open")))
    make = plan(target, kind, options, command or [], name, connect)
    if detach:
        return _detached(context.obj, make, remove=remove)
    return foreground.live(context.obj, make, made=True, remove=remove)


def _detached(interrupts: Interrupts, make: Callable[[], Instance], *, remove: bool) -> int:
    """Start an instance that goes on without us. Whatever comes before it runs, it is destroyed."""
    with interrupts.shield(), ExitStack() as ending, held(interrupts) as waiting:
        instance = make()
        ending.callback(deeds.destroy, instance)
        instance.start(None)
        with interrupts.expose():
            instance.wait_entrypoint(deeds.START_SECONDS)
            for number in waiting:  # a detached command has no use for them; they were for us
                interrupts.handle(number)
        if remove:
            deeds.remove_at_end(instance)
        ending.pop_all()
        deeds.started(instance)
        print(instance.record.name)
    return 0


def plan(
    target: str,
    kind: Kind | None,
    options: Sequence[Option],
    command: Sequence[str],
    name: str | None,
    connect: str | None,
) -> Callable[[], Instance]:
    """All that takes long or can be refused before there is an instance; returns what makes it."""
    from hybrid import drivers, launch
    from hybrid.cli.progress import progress
    from hybrid.home import default_home
    from hybrid.images import ImageStore

    home = default_home()
    spec = launch.load(target, options)
    driver = drivers.driver(launch.kind_of(spec, kind), home, connect)
    launch.check(driver, home, connect)
    with progress() as told:
        image = ImageStore(home).ensure(spec, told)
    driver.prepare(image)
    words = command[1:] if command[:1] == ["--"] else command

    def make() -> Instance:
        instance = launch.create(spec, image, driver, home, command=words, name=name)
        deeds.journal().note("create", instance.record)
        return instance

    return make
