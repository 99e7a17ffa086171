"""The forms in which Compose lets one write each value, read into the one that the program uses.

Every function takes what YAML gave and returns the value, or raises `Bad` with the mend. Next to each
stands the JSON Schema of the forms it reads.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from hybrid import units
from hybrid.errors import HybridError
from hybrid.images import reference

STRINGS: Mapping[str, Any] = {"type": "array", "items": {"type": "string"}}
STRING_OR_LIST: Mapping[str, Any] = {"anyOf": [{"type": "string"}, STRINGS, {"type": "null"}]}
MAP_OR_LIST: Mapping[str, Any] = {
    "anyOf": [
        {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean", "null"]}},
        {**STRINGS, "uniqueItems": True},
    ]
}
INTEGER: Mapping[str, Any] = {"anyOf": [{"type": "integer"}, {"type": "string", "pattern": "^-?[0-9]+$"}]}
NUMBER: Mapping[str, Any] = {
    "anyOf": [{"type": "number"}, {"type": "string", "pattern": r"^([0-9]+(\.[0-9]*)?|\.[0-9]+)$"}]
}
SIZE: Mapping[str, Any] = {
    "anyOf": [{"type": "integer"}, {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)? ?[kKmMgGtTpP]?([iI]?[bB])?$"}]
}
DURATION: Mapping[str, Any] = {"type": "string", "pattern": r"^(0|(([0-9]+(\.[0-9]*)?|\.[0-9]+)(h|ms|m|s|us|µs|ns))+)$"}

SUITE = re.compile(r"[a-z][a-z0-9-]*")
PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+(:[a-z0-9-]+)?(=[A-Za-z0-9.+:~-]+)?")
PLATFORM = re.compile(r"linux/[a-z0-9_]{1,32}(?:/[a-z0-9.]{1,16})?")
_VARIABLE = re.compile(r"[^=\0]+")
_HOSTNAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*")
_USER = re.compile(r"[^:\s]+(?::[^:\s]+)?")

SOURCES = {"debian": "DebianSource", "rootfs": "RootfsSource", "archive": "ArchiveSource"}


class Bad(ValueError):
    """A value that cannot be used, and how to write it."""

    def __init__(self, what: str, mend: str = "") -> None:
        super().__init__(what)
        self.mend = mend


def text(value: Any) -> str:
    if not isinstance(value, str):
        raise Bad(f"{_shown(value)} is no text", "put it in quotes")
    return value


def argv(value: Any) -> tuple[str, ...] | None:
    """A command: a list as it is, a string split as a shell splits words (nothing expanded), as Compose does."""
    if value is None:
        return None
    if isinstance(value, str):
        try:
            return tuple(shlex.split(value))
        except ValueError as error:
            raise Bad(
                f"the command cannot be split: {str(error).lower()}", "close the quote, or write a list"
            ) from None
    if isinstance(value, list | tuple):
        return tuple(text(item) for item in value)
    raise Bad(f"{_shown(value)} is no command", "write a string, or a list of words")


def environment(value: Any, caller: Mapping[str, str]) -> dict[str, str]:
    """Variables from a map or a list. A name without a value takes the caller's, and is left out if that has none."""
    given = dict(_variable(name, each) for name, each in _pairs(value, "NAME=VALUE"))
    found = {name: caller.get(name) if each is None else each for name, each in given.items()}
    return {name: each for name, each in found.items() if each is not None}


def _variable(name: str, value: str | None) -> tuple[str, str | None]:
    if not _VARIABLE.fullmatch(name):
        raise Bad(f"{name!r} is no name of a variable", "write NAME: value")
    return name, value


def labels(value: Any) -> dict[str, str]:
    return {name: each or "" for name, each in _pairs(value, "NAME=VALUE")}


def _pairs(value: Any, form: str) -> list[tuple[str, str | None]]:
    if value is None:
        return []
    if isinstance(value, dict):
        return [(name, _scalar(name, each)) for name, each in value.items()]
    if not isinstance(value, list | tuple):
        raise Bad(f"{_shown(value)} is neither a map nor a list", f"write `NAME: value` lines, or `- {form}` lines")
    pairs: list[tuple[str, str | None]] = []
    for item in value:
        name, equals, rest = text(item).partition("=")
        pairs.append((name, rest if equals else None))
    return pairs


def _scalar(name: str, value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    raise Bad(f"{name} is {_shown(value)}, not a single value", "write text or a number")


def integer(value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,18}", value.strip()):
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise Bad(f"{_shown(value)} is no whole number")
    return value


def pids(value: Any) -> int | None:
    number = integer(value)
    return None if number == -1 else number


def number(value: Any) -> float:
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,18}(\.[0-9]*)?|\.[0-9]+", value.strip()):
        return float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise Bad(f"{_shown(value)} is no number")
    return float(value)


def size(value: Any) -> int:
    if not isinstance(value, bool) and isinstance(value, str | int):
        try:
            return units.parse_bytes(value)
        except ValueError:
            pass
    raise Bad(f"{_shown(value)} is no size", "write bytes, or a number with k, m or g: 256m")


def duration(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, str):
        try:
            return units.parse_duration(value)
        except ValueError:
            pass
    example = f"{value}s" if isinstance(value, int | float) and not isinstance(value, bool) else "1m30s, 200ms"
    raise Bad(f"{_shown(value)} is no duration", f"give the unit: {example}")


def signal(value: Any) -> int:
    if not isinstance(value, bool) and isinstance(value, str | int):
        try:
            return units.parse_signal(value)
        except ValueError:
            pass
    raise Bad(f"{_shown(value)} is no signal", "write a name or a number: SIGTERM, 15")


def absolute(value: Any) -> str:
    if not text(value).startswith("/"):
        raise Bad(f"{_shown(value)} is no absolute path", f"write /{value}")
    return "/" + str(PurePosixPath(value)).lstrip("/")


def user(value: Any) -> str:
    shown = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not _USER.fullmatch(text(shown)):
        raise Bad(f"{_shown(value)} is no user", "write name, name:group or uid:gid")
    return str(shown)


def hostname(value: Any) -> str:
    if len(text(value)) > 63 or not _HOSTNAME.fullmatch(value):
        raise Bad(f"{_shown(value)} is no host name", "use up to 63 letters, digits, '-' and '.'")
    return str(value)


def program(value: Any) -> str:
    if not text(value) or value.startswith("-") or any(character.isspace() for character in value):
        raise Bad(f"{_shown(value)} is no program", "give its name or its path: crun, /usr/bin/runc")
    return str(value)


def network_mode(value: Any) -> Any:
    if value != "none":
        raise Bad(
            f"{_shown(value)} is not supported yet", "leave it out, or write none: there is a loopback interface only"
        )
    return value


def suite(value: Any) -> str:
    if not SUITE.fullmatch(text(value)) or len(value) > 64:
        raise Bad(f"{_shown(value)} is no Debian suite", "write its name: bookworm, stable")
    return str(value)


def package(value: Any) -> str:
    if not PACKAGE.fullmatch(text(value)) or len(value) > 200:
        raise Bad(f"{_shown(value)} is no Debian package", "write its name, or name=version")
    return str(value)


def health_test(value: Any) -> tuple[str, ...] | None:
    """The probe as a full argv: a string or CMD-SHELL goes to the shell; () is NONE."""
    if value is None:
        return None
    if isinstance(value, str):
        value = ["CMD-SHELL", value]
    words = argv(value) or ("",)
    match words:
        case ("NONE",):
            return ()
        case ("CMD", _, *_):
            return words[1:]
        case ("CMD-SHELL", line) if line.strip():
            return ("/bin/sh", "-c", line)
    raise Bad(
        f"{_shown(value)} is no healthcheck test", "write a shell command as one string, or [CMD, program, argument, …]"
    )


def existing_path(value: Any, directory: Path) -> Path:
    """The absolute path of something that is there; a relative one starts from `directory`."""
    path = directory / Path(text(value)).expanduser()
    try:
        if value and path.exists():
            return path
    except (OSError, ValueError) as error:
        raise Bad(f"{_shown(value)} cannot be looked at: {error}") from None
    raise Bad(f"{_shown(value)} does not exist", f"looked for {path}; relative paths start from the spec's directory")


def build(value: Any) -> Any:
    """Compose's short form, the directory alone, as the long one."""
    if isinstance(value, str):
        return {"context": value}
    if isinstance(value, dict):
        return {"context": ".", **value}
    return value


def containerfile(context: Path, name: str | None) -> Path:
    """The file to build: relative to the context; by default what Docker or podman calls it."""
    if name is not None:
        return context / name
    return next((path for path in (context / "Dockerfile", context / "Containerfile") if path.is_file()), context)


def check_containerfile(context: Path, name: str | None) -> None:
    if not context.is_dir():
        raise Bad(f"{context} is no directory", "give the directory that the Containerfile is built in")
    if not containerfile(context, name).is_file():
        raise Bad(f"{context} has no {name or 'Dockerfile or Containerfile'}", "write one, or give `dockerfile: PATH`")


def check_image(image: Any, build: Any, pull_policy: str | None) -> None:
    """Whether there is an image to be had, and what `build` and `pull_policy` say goes with it."""
    if image is None and build is None:
        raise Bad("image is missing", "for example `image: docker.io/library/nginx:latest`, or `build: .`")
    if build is not None and not isinstance(image, str | None):
        raise Bad(
            "an image is built or has another source, not both", "with `build`, give `image` a name or leave it out"
        )
    if pull_policy == "build" and isinstance(image, str) and build is None:
        raise Bad("pull_policy: there is nothing to build", "add `build: .`, or write always, missing or never")
    if pull_policy == "always" and build is not None and image is None:
        raise Bad("pull_policy: an image without a name cannot be pulled", "add `image: NAME`, or write build")


def pull_policy(value: Any) -> Any:
    """As Compose has it; if_not_present is its other word for missing."""
    if value == "if_not_present":
        return "missing"
    if value not in ("missing", "always", "never", "build"):
        raise Bad(f"{_shown(value)} is no pull policy", "write missing, always, never or build")
    return value


def platform(value: Any) -> str:
    if not PLATFORM.fullmatch(text(value)):
        raise Bad(f"{_shown(value)} is no platform", "write os/architecture: linux/amd64")
    return str(value)


def stage(value: Any) -> str:
    if not text(value) or value.startswith("-") or any(character.isspace() for character in value):
        raise Bad(f"{_shown(value)} is no stage", "write the name after AS, or its number in quotes")
    return str(value)


def image(value: Any) -> Any:
    """A reference that can be one, or a mapping with exactly one source."""
    if isinstance(value, str):
        try:
            reference.parse(value)
        except HybridError as error:
            raise Bad(error.what, error.mend) from None
    elif isinstance(value, dict):
        found = [key for key in SOURCES if key in value]
        if len(found) != 1:
            said = " and ".join(found) if found else "none"
            raise Bad(f"an image has one source; given: {said}", f"give one of {', '.join(SOURCES)}")
    elif image_tag(value) is None:
        raise Bad(f"{_shown(value)} is no image", "write a reference, or {debian: bookworm, packages: […]}")
    return value


def image_tag(value: Any) -> str | None:
    if isinstance(value, str):
        return "Reference"
    if isinstance(value, dict):
        return next((tag for key, tag in SOURCES.items() if key in value), None)
    return type(value).__name__ if type(value).__name__ in SOURCES.values() else None


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    shown = "nothing" if value is None else repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "…'"
