"""`hybrid create`: an instance that is made and not started."""

from __future__ import annotations

from hybrid.cli.connect import Connect
from hybrid.cli.options import with_options
from hybrid.cli.run import AsKind, Command, OwnName, Target, plan
from hybrid.specoptions import Option

CONTEXT = {"allow_interspersed_args": False}


@with_options
def create(
    options: list[Option],
    target: Target,
    command: Command = None,
    kind: AsKind = None,
    name: OwnName = None,
    connect: Connect = None,
) -> int:
    """Make an instance of a spec or an image and print its name; `hybrid start` runs it.

    The options are those of `hybrid run`. All that follows SPEC belongs to the command.

    Examples:

      hybrid create --name web --as vm web.yaml

      hybrid start $(hybrid create web.yaml)
    """
    print(plan(target, kind, options, command or [], name, connect)().record.name)
    return 0
