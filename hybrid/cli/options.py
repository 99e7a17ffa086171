"""The options of `run` and `create` that are keys of a spec: Docker's names for what Compose writes in a file."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from hybrid.specoptions import Option

_Read: TypeAlias = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class _Flag:
    """One option: how it is written, and which key of a spec it is."""

    names: tuple[str, ...]
    key: str
    help: str
    metavar: str | None = None
    many: bool = False
    type: Any = str
    read: _Read = lambda value: value

    @property
    def parameter(self) -> inspect.Parameter:
        """The parameter from which typer makes the option."""
        of: Any = list[self.type] if self.many else self.type  # type: ignore[name-defined]
        annotation = Annotated[of | None, typer.Option(*self.names, metavar=self.metavar, help=self.help)]
        return inspect.Parameter(
            self.variable, inspect.Parameter.KEYWORD_ONLY, default=False if of is bool else None, annotation=annotation
        )

    @property
    def variable(self) -> str:
        return self.names[0].lstrip("-").partition("/")[0].replace("-", "_") + "_"


def _volume(text: str) -> str:
    """A relative or home-relative source starts from here, not from the spec's directory."""
    source, colon, rest = text.partition(":")
    if colon and source.startswith((".", "~")):
        return f"{Path(source).expanduser().absolute()}:{rest}"
    return text


def _ulimit(texts: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        soft, colon, hard = value.partition(":")
        if not (name and equals and soft):
            raise typer.BadParameter(f"{text!r} is no limit; write NAME=SOFT[:HARD]", param_hint="--ulimit")
        found[name] = {"soft": soft, "hard": hard} if colon else soft
    return found


def _network(names: Sequence[str]) -> tuple[str, Any]:
    """A network of ours by its name, or Docker's word for what is none."""
    if len(names) == 1 and (names[0] in ("none", "host", "bridge", "default") or ":" in names[0]):
        return "network_mode", names[0]
    return "networks", list(names)


FLAGS = (
    _Flag(("--interactive", "-i"), "stdin_open", "Keep its input open when nobody is attached.", type=bool),
    _Flag(("--tty", "-t"), "tty", "Give it a terminal.", type=bool),
    _Flag(("--workdir", "-w"), "working_dir", "Where it starts, inside the image.", "DIR"),
    _Flag(("--user", "-u"), "user", "Who executes it: names or numbers.", "USER[:GROUP]"),
    _Flag(("--hostname", "-h"), "hostname", "Its host name; else the instance's name.", "NAME"),
    _Flag(("--entrypoint",), "entrypoint", "The program in place of the image's; empty for none.", "PROGRAM",
          read=lambda text: [text] if text else []),
    _Flag(("--volume", "-v"), "volumes", "Mount a directory of this host, or a named volume.", "SOURCE:TARGET[:ro]",
          True, read=lambda texts: [_volume(text) for text in texts]),
    _Flag(("--tmpfs",), "tmpfs", "An empty file system in memory.", "TARGET[:OPTIONS]", True),
    _Flag(("--read-only",), "read_only", "Let nothing be written but to volumes and tmpfs.", type=bool),
    _Flag(("--shm-size",), "shm_size", "Size of /dev/shm (64m).", "SIZE"),
    _Flag(("--publish", "-p"), "ports", "Reach its port at one of this host.", "[[ADDRESS:]PORT:]PORT[/udp]", True),
    _Flag(("--network",), "networks", "Its network: a name, none, or host.", "NAME", True),
    _Flag(("--dns",), "dns", "A name server.", "ADDRESS", True),
    _Flag(("--add-host",), "extra_hosts", "One more line of /etc/hosts.", "NAME:ADDRESS", True),
    _Flag(("--cpus",), "cpus", "CPUs that may be used at once.", "NUMBER"),
    _Flag(("--memory", "-m"), "mem_limit", "Most memory: 256m, 1g.", "SIZE"),
    _Flag(("--memory-swap",), "memswap_limit", "Most memory and swap together; -1 for no limit of swap.", "SIZE"),
    _Flag(("--oom-score-adj",), "oom_score_adj", "How soon it is killed when memory ends.", "NUMBER"),
    _Flag(("--pids-limit",), "pids_limit", "Most processes; -1 for no limit.", "NUMBER"),
    _Flag(("--ulimit",), "ulimits", "A limit of a process: nofile=1024:2048.", "NAME=SOFT[:HARD]", True,
          read=_ulimit),
    _Flag(("--label", "-l"), "labels", "Metadata.", "NAME[=VALUE]", True),
    _Flag(("--restart",), "restart", "For hybrid generate systemd: no, always, on-failure[:N].", "POLICY"),
    _Flag(("--pull",), "pull_policy", "When to fetch or build the image: missing, always, never, build.", "WHEN"),
    _Flag(("--platform",), "platform", "Which of the image's several machines.", "OS/ARCHITECTURE"),
    _Flag(("--stop-signal",), "stop_signal", "Asks it to end.", "SIGNAL"),
    _Flag(("--stop-timeout",), "stop_grace_period", "From that signal to SIGKILL.", "SECONDS", type=float,
          read=lambda seconds: f"{seconds:g}s"),
    _Flag(("--health-cmd",), "healthcheck", "Exits with 0 when it is healthy; for the image's shell.", "COMMAND",
          read=lambda text: {"test": ["CMD-SHELL", text]}),
    _Flag(("--health-interval",), "healthcheck", "Between two probes: 30s.", "DURATION",
          read=lambda text: {"interval": text}),
    _Flag(("--health-timeout",), "healthcheck", "Longest probe.", "DURATION", read=lambda text: {"timeout": text}),
    _Flag(("--health-retries",), "healthcheck", "Failures in a row that make it unhealthy.", "NUMBER",
          read=lambda text: {"retries": text}),
    _Flag(("--health-start-period",), "healthcheck", "In which failures do not count.", "DURATION",
          read=lambda text: {"start_period": text}),
    _Flag(("--health-start-interval",), "healthcheck", "Between two probes until the first has passed.", "DURATION",
          read=lambda text: {"start_interval": text}),
    _Flag(("--no-healthcheck",), "healthcheck", "Run no healthcheck, not even the image's.", type=bool,
          read=lambda _: {"disable": True}),
)  # fmt: skip


def with_options(command: Callable[..., int]) -> Callable[..., int]:
    """A command whose parameter `options` is made of all these options and of --env and --env-file."""
    own = [each for each in inspect.signature(command, eval_str=True).parameters.values() if each.name != "options"]
    parameters = [*own, *(flag.parameter for flag in FLAGS), *_ENVIRONMENT]

    @wraps(command)
    def wrapped(**values: Any) -> int:
        given = {each.name: values.pop(each.name) for each in parameters[len(own) :]}
        return command(**values, options=list(_options(given)))

    del wrapped.__wrapped__
    wrapped.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters]
    )
    wrapped.__annotations__ = {each.name: each.annotation for each in parameters}
    return wrapped


def _options(given: dict[str, Any]) -> Iterator[Option]:
    for flag in FLAGS:
        value = given[flag.variable]
        if value is None or value is False or value == []:
            continue
        key, read = _network(value) if flag.key == "networks" else (flag.key, flag.read(value))
        yield Option(flag.names[0], key, read)
        if flag.key == "entrypoint":  # its arguments are the command line's, not those of another program
            yield Option(flag.names[0], "command", [])
    if given["env_"] or given["env_file_"]:
        from hybrid.cli.environment import variables

        yield Option("--env", "environment", variables(given["env_"] or [], given["env_file_"] or []))


_ENVIRONMENT = tuple(
    inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
    for name, annotation in (
        (
            "env_",
            Annotated[
                list[str] | None,
                typer.Option("--env", "-e", metavar="NAME[=VALUE]", help="Set a variable; without a value, as here."),
            ],
        ),
        (
            "env_file_",
            Annotated[
                list[Path] | None,
                typer.Option("--env-file", metavar="FILE", help="Read variables, a line each."),
            ],
        ),
    )
)
