"""`hybrid run`: one instance, in the foreground or detached."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from hybrid.cli.signals import forwarded, held
from hybrid.driver import Kind, Stdio

if TYPE_CHECKING:
    from hybrid.driver import Instance
    from hybrid.interrupt import Interrupts

CONTEXT = {"allow_interspersed_args": False}

START_SECONDS = 120.0
"""How long an instance may take until its command is executed. An emulated VM on a busy host needs most of it."""


def run(
    context: typer.Context,
    target: Annotated[str, typer.Argument(metavar="SPEC|IMAGE", help="A spec's file, or an image's name.")],
    command: Annotated[
        list[str] | None, typer.Argument(metavar="[--] COMMAND...", help="What to run instead of the spec's command.")
    ] = None,
    kind: Annotated[
        Kind | None, typer.Option("--as", help="The isolation model; else the spec's `isolation`, else container.")
    ] = None,
    remove: Annotated[bool, typer.Option("--rm", help="Remove the instance when it ends.")] = False,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Leave it running and print its name.")] = False,
    name: Annotated[str | None, typer.Option("--name", help="The instance's name; else one is made up.")] = None,
) -> int:
    """Run a spec or an image: as a VM, a container or on the host.

    Standard input, output, error and signals pass through to the command, and its exit status is
    ours: 125 when hybrid itself failed, 126 when the command cannot be executed, 127 when it is not
    there, 128+n when signal n ended it. All that follows SPEC belongs to the command.

    Examples:

      hybrid run --rm --as vm web.yaml

      hybrid run --rm --as container web.yaml -- sh -c 'echo hello'

      hybrid run -d --name cache redis.yaml
    """
    if remove and detach:
        raise typer.BadParameter("no daemon stays behind to remove a detached instance", param_hint="--rm with -d")
    words = command or []
    make = _plan(target, kind)
    return _live(context.obj, lambda: make(words[1:] if words[:1] == ["--"] else words, name), detach, remove)


def _live(interrupts: Interrupts, make: Callable[[], Instance], detach: bool, remove: bool) -> int:
    """One instance's life, as far as we take part in it. Whatever comes, it is destroyed unless it is to stay."""
    with (
        interrupts.shield(),
        ExitStack() as ending,
        forwarded(lambda number: instance.signal(number)) as send,
    ):
        with held(interrupts) as waiting:
            instance = make()
            ending.callback(instance.destroy)
            instance.start(None if detach else Stdio(0, 1, 2))
            with interrupts.expose():
                instance.wait_entrypoint(START_SECONDS)
        if detach:
            _interrupt_late(interrupts, waiting)
            ending.pop_all()
            print(instance.record.name)
            return 0
        for number in waiting:
            send(number)
        code = instance.wait()
        if not remove:
            ending.pop_all()
        return code


def _interrupt_late(interrupts: Interrupts, waiting: Sequence[int]) -> None:
    """A detached command has no use for the signals that we got while it was started; they were for us."""
    with interrupts.expose():
        for number in waiting:
            interrupts.handle(number)


def _plan(target: str, kind: Kind | None) -> Callable[[list[str], str | None], Instance]:
    """All that takes long or can be refused before there is an instance; returns what makes it."""
    from hybrid import drivers, launch
    from hybrid.cli.progress import progress
    from hybrid.home import default_home
    from hybrid.images import ImageStore

    home = default_home()
    spec = launch.load(target)
    driver = drivers.driver(launch.kind_of(spec, kind), home)
    launch.check(driver)
    with progress() as told:
        image = ImageStore(home).ensure(spec, told)
    driver.prepare(image)
    return lambda command, name: launch.create(spec, image, driver, home, command=command, name=name)
