"""A systemd unit that runs an instance: our restart policies without a daemon of ours.

The text is made by a pure function. The unit stays with the command, whose output so goes to systemd's
journal, and whose exit status systemd judges.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hybrid.errors import HybridError

_POLICY = re.compile(r"no|always|unless-stopped|on-failure(?::([0-9]{1,6}))?")
_MORE_TIME = 15.0
"""Seconds beyond the stop time-out, for what hybrid does itself."""


@dataclass(frozen=True, slots=True)
class Service:
    """What a unit is made of."""

    name: str
    """The instance's."""
    hybrid: str
    """Absolute path of our program."""
    description: str
    restart: str = "no"
    """Compose's word: no, always, unless-stopped, on-failure, on-failure:N."""
    stop_signal: int = 15
    stop_timeout: float = 10.0
    """Seconds."""
    environment: Mapping[str, str] = field(default_factory=dict)
    needs: Sequence[str] = ()
    """Absolute paths whose file systems must be mounted."""
    root: bool = True
    """For the system's manager; else for a user's own."""


def unit(service: Service) -> str:
    """The unit's text. HybridError when the restart policy is none, or systemd cannot execute our program."""
    policy = _POLICY.fullmatch(service.restart)
    if policy is None:
        raise HybridError(
            f"{service.restart!r} is no restart policy",
            mend="write no, always, unless-stopped, on-failure or on-failure:N",
        )
    if re.search(r"[\x00-\x1f\x7f\"'\\]", service.hybrid):
        raise HybridError(
            f"systemd executes nothing at {service.hybrid!r}",
            mend="install hybrid at a path without quotes and backslashes",
        )
    restart = "always" if service.restart == "unless-stopped" else service.restart.partition(":")[0]
    lines = [
        "[Unit]",
        f"Description={specifier(_one_line(service.description))}",
        "Wants=network-online.target",
        "After=network-online.target",
        *(f"RequiresMountsFor={quote(path)}" for path in service.needs),
        "StartLimitIntervalSec=" + ("infinity" if policy[1] else "0"),
        *([f"StartLimitBurst={int(policy[1]) + 1}"] if policy[1] else []),
        "",
        "[Service]",
        "Type=exec",
        *(f"Environment={quote(f'{name}={value}')}" for name, value in service.environment.items()),
        f"ExecStartPre=-{command(service.hybrid, 'stop', service.name)}",
        f"ExecStart={command(service.hybrid, 'start', '--attach', service.name)}",
        f"ExecStop={command(service.hybrid, 'stop', '--time', f'{service.stop_timeout:g}', service.name)}",
        f"TimeoutStopSec={service.stop_timeout + _MORE_TIME:g}",
        "KillMode=mixed",
        f"SuccessExitStatus={128 + service.stop_signal}",
        f"Restart={restart}",
        "RestartSec=1",
        "",
        "[Install]",
        f"WantedBy={'multi-user' if service.root else 'default'}.target",
    ]
    return "\n".join(lines) + "\n"


def command(*words: str) -> str:
    """A command line of a unit: what systemd would expand is written so that it does not.

    In the program's own path it expands specifiers and no variables.
    """
    return " ".join([quote(words[0]), *(quote(word.replace("$", "$$")) for word in words[1:])])


def quote(text: str) -> str:
    """A word as systemd's unit files have it: specifiers doubled, and in quotes where it is more than a plain one."""
    text = specifier(text)
    if re.fullmatch(r"[A-Za-z0-9_./:=@%$+,-]+", text):
        return text
    escaped = "".join(_ESCAPES.get(character, character) for character in text)
    return f'"{escaped}"'


def specifier(text: str) -> str:
    """`text` without specifiers: %n would become the unit's name."""
    return text.replace("%", "%%")


_ESCAPES = {
    **{chr(code): f"\\x{code:02x}" for code in (*range(1, 32), 127)},
    "\\": "\\\\",
    '"': '\\"',
    "\n": "\\n",
    "\t": "\\t",
}


def _one_line(text: str) -> str:
    """Text that cannot go on to the next line, nor begin another one."""
    return " ".join(text.split()).rstrip("\\ ")
