"""`hybrid completion`: what makes a shell complete our commands, options, instances and images."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class Shell(StrEnum):
    """A shell that can complete."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(shell: Annotated[Shell, typer.Argument(metavar="bash|zsh|fish", help="The shell.")]) -> None:
    """Print the script that makes a shell complete hybrid's commands, options, and names of instances and images.

    Examples:

      hybrid completion bash > /etc/bash_completion.d/hybrid

      hybrid completion zsh > "${fpath[1]}/_hybrid"

      hybrid completion fish > ~/.config/fish/completions/hybrid.fish
    """
    from typer._completion_shared import get_completion_script

    print(get_completion_script(prog_name="hybrid", complete_var="_HYBRID_COMPLETE", shell=shell.value))
