"""The commands by name. Each lives in a module of its own that is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from hybrid.interrupt import Interrupts

COMMANDS = ("run", "ps", "stop", "rm", "prune", "compare", "image", "spec", "doctor")

_HELP = """One image spec, run as a virtual machine or as a container, and measured.

A SPEC is a YAML file that reads like one Compose service. HYBRID_HOME says where images and instances are kept.

Examples:

  hybrid doctor

  hybrid run --rm --as vm web.yaml

  hybrid compare web.yaml --runs 10
"""


class Commands(TyperGroup):
    """The group of all commands, none of them imported before its name is said."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> TyperCommand | TyperGroup | None:
        return load(cmd_name) if cmd_name in COMMANDS else None


def load(name: str) -> TyperCommand | TyperGroup:
    """The command of that name, made from its module: the function of that name, or the group `app`."""
    module = import_module(f"hybrid.cli.{name}")
    group: typer.Typer | None = getattr(module, "app", None)
    if group is None:
        group = _typer()
        group.command(name, context_settings=getattr(module, "CONTEXT", None))(getattr(module, name))
    command = typer.main.get_command(group)
    assert isinstance(command, TyperCommand | TyperGroup)
    command.name = name
    return command


def run(words: Sequence[str], interrupts: Interrupts) -> int:
    """Run one command line and return its exit code. What fails is raised.

    Commands find `interrupts` in their context's `obj`.
    """
    app = _typer(cls=Commands, add_completion=True, help=_HELP, no_args_is_help=True)
    app.callback()(_root)
    return int(typer.main.get_command(app).main(words, prog_name="hybrid", standalone_mode=False, obj=interrupts) or 0)


def _typer(**settings: Any) -> typer.Typer:
    return typer.Typer(**({"add_completion": False, "rich_markup_mode": None} | settings))


def _version(asked: bool) -> None:
    if asked:
        from hybrid import __version__

        print(f"hybrid {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which version this is.")
    ] = False,
) -> None:
    """Options of `hybrid` itself."""
