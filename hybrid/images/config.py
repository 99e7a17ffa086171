"""An OCI or Docker image config, read as hostile input."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from hybrid.errors import ImageError
from hybrid.image import Healthcheck, ImageConfig

MAX_BYTES = 8 * 1024**2


def parse(data: bytes) -> ImageConfig:
    """The parts of the config that say how to run the image; ImageError when it is damaged."""
    document = load_json(data, "config")
    config = _mapping(document, "config")
    return ImageConfig(
        entrypoint=_strings(config, "Entrypoint"),
        cmd=_strings(config, "Cmd"),
        env=dict(_variable(item) for item in _strings(config, "Env")),
        working_dir=_string(config, "WorkingDir") or "/",
        user=_string(config, "User"),
        stop_signal=_string(config, "StopSignal") or "SIGTERM",
        healthcheck=_healthcheck(_mapping(config, "Healthcheck")),
        exposed_ports=tuple(_mapping(config, "ExposedPorts")),
        volumes=tuple(_mapping(config, "Volumes")),
        labels={name: str(value) for name, value in _mapping(config, "Labels").items()},
        architecture=_string(document, "architecture") or "amd64",
        os=_string(document, "os") or "linux",
        created=_string(document, "created"),
    )


def load_json(data: bytes, what: str) -> dict[str, Any]:
    """The JSON object in `data`; ImageError when it is none."""
    try:
        document = json.loads(data) if len(data) <= MAX_BYTES else None
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise damaged(what, "not a JSON object")
    return document


def damaged(what: str, why: str) -> ImageError:
    return ImageError(f"the image's {what} is damaged: {why}", mend="fetch or build the image again")


def _variable(item: str) -> tuple[str, str]:
    name, _, value = item.partition("=")
    if not name:
        raise damaged("config", f"{item[:40]!r} in Env")
    return name, value


def _healthcheck(values: Mapping[str, Any]) -> Healthcheck | None:
    match _strings(values, "Test"):
        case ("CMD", *words) if words:
            test = tuple(words)
        case ("CMD-SHELL", line):
            test = ("/bin/sh", "-c", line)
        case () | ("NONE",):
            return None
        case _:
            raise damaged("config", "Healthcheck.Test")
    default = Healthcheck(test)
    return Healthcheck(
        test,
        interval=_seconds(values, "Interval") or default.interval,
        timeout=_seconds(values, "Timeout") or default.timeout,
        retries=int(_number(values, "Retries")) or default.retries,
        start_period=_seconds(values, "StartPeriod"),
        start_interval=_seconds(values, "StartInterval") or default.start_interval,
    )


def _seconds(values: Mapping[str, Any], key: str) -> float:
    return _number(values, key) / 1e9


def _number(values: Mapping[str, Any], key: str) -> float:
    value = values.get(key) or 0
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**63:
        raise damaged("config", key)
    return value


def _mapping(values: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = values.get(key) or {}
    if not isinstance(value, dict):
        raise damaged("config", key)
    return value


def _string(values: Mapping[str, Any], key: str) -> str:
    value = values.get(key) or ""
    if not isinstance(value, str) or "\0" in value:
        raise damaged("config", key)
    return value


def _strings(values: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = values.get(key) or []
    if not isinstance(value, list) or not all(isinstance(item, str) and "\0" not in item for item in value):
        raise damaged("config", key)
    return tuple(value)
