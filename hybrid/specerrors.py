"""What is wrong with a spec, in words: each of pydantic's findings with its line, key and mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from hybrid.errors import HybridError
from hybrid.specforms import SOURCES
from hybrid.units import format_bytes
from hybrid.yamlfile import Document, KeyPath, dotted

_NOT_YET_WORDS = """
    annotations attach blkio_config cap_add cap_drop cgroup cgroup_parent configs container_name cpu_count
    cpu_percent cpu_period cpu_quota cpu_rt_period cpu_rt_runtime cpu_shares cpuset credential_spec depends_on deploy
    develop device_cgroup_rules devices dns dns_opt dns_search domainname env_file expose extends external_links
    extra_hosts gpus group_add init ipc label_file links logging mac_address mem_reservation mem_swappiness
    memswap_limit models networks oom_kill_disable oom_score_adj pid ports post_start pre_stop privileged
    profiles provider
    pull_refresh_after read_only restart runtime scale secrets security_opt shm_size stdin_open storage_opt
    sysctls tmpfs tty ulimits use_api_socket userns_mode uts volumes volumes_from workloads
"""
_NOT_YET = frozenset(_NOT_YET_WORDS.split())
"""Keys of a Compose service, or planned ones of ours, that this version does not support."""

_OURS_INSTEAD = {"runtime": "container: {runtime: NAME}", "userns_mode": "container: {userns: false}"}


def explain(error: ValidationError, model: type[BaseModel], document: Document | None) -> list[HybridError]:
    """One error for each finding, in the order of the file's lines."""
    found = [_explain(details, model, document) for details in error.errors(include_url=False)]
    return [each for _, each in sorted(found, key=lambda pair: pair[0])]


def _explain(details: ErrorDetails, model: type[BaseModel], document: Document | None) -> tuple[int, HybridError]:
    key = tuple(part for part in details["loc"] if part not in (*SOURCES.values(), "Reference"))
    name = dotted(key)
    owner = _model_at(model, key[:-1])
    cause = details.get("ctx", {}).get("error")
    match details["type"]:
        case "extra_forbidden":
            what, mend = _unknown(str(key[-1]), owner, name)
        case "missing":
            what, mend = f"{name} is missing", _example(owner, str(key[-1]))
        case "value_error" if not key:
            what, mend = str(cause), getattr(cause, "mend", "")
        case _:
            what = f"{name}: {cause if cause is not None else _plain(details)}"
            mend = getattr(cause, "mend", "") or _example(owner, str(key[-1]))
    line = document.line(key) if document else 0
    return line, HybridError(what, where=f"{document.path}:{line}" if document else "", mend=mend)


def _unknown(key: str, owner: type[BaseModel], name: str) -> tuple[str, str]:
    good = sorted(owner.model_fields)
    top = "image" in good
    if top and key in _NOT_YET:
        instead = _OURS_INSTEAD.get(key)
        return f"{name} is not supported yet", f"write {instead}" if instead else "remove it"
    near = difflib.get_close_matches(key.lower(), good, n=1) or difflib.get_close_matches(
        key.lower().replace("-", "_"), [*good, *(_NOT_YET if top else ())], n=1
    )
    if near:
        return f"{name} is no known key", f"did you mean {near[0]}?"
    return f"{name} is no known key", f"known here: {', '.join(good)}"


def _plain(details: ErrorDetails) -> str:
    """Pydantic's own words in ours."""
    bounds: Mapping[str, Any] = details.get("ctx", {})
    shown = repr(details["input"])[:60]
    match details["type"]:
        case "greater_than":
            return f"{shown} is too small: it must be above {bounds['gt']:g}"
        case "greater_than_equal":
            least = bounds["ge"]
            return f"{shown} is too small: the least is {format_bytes(least) if least > 4096 else f'{least:g}'}"
        case "less_than_equal":
            return f"{shown} is too large: the most is {bounds['le']:g}"
        case "enum" | "literal_error":
            return f"{shown} is not one of {bounds['expected']}"
        case "bool_type":
            return f"{shown} is neither true nor false"
        case "tuple_type":
            return f"{shown} is no list"
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"{shown} is no mapping"
        case _:
            return f"{shown}: {details['msg'].lower()}"


def _example(owner: type[BaseModel], key: str) -> str:
    field = owner.model_fields.get(key)
    if field is not None and field.annotation is bool:
        return f"for example `{key}: true`"
    if field is None or not field.examples:
        return "`hybrid spec schema` describes every key"
    return f"for example `{key}: {_inline(field.examples[0])}`"


def _inline(value: Any) -> str:
    return f"[{', '.join(map(str, value))}]" if isinstance(value, list) else str(value)


def _model_at(model: type[BaseModel], key: KeyPath) -> type[BaseModel]:
    """The model that describes the mapping at `key`; of several, the one that knows most is close enough."""
    for part in key:
        field = model.model_fields.get(str(part))
        if field is None:
            return model
        inner = [each for each in _classes(field.annotation) if issubclass(each, BaseModel)]
        if not inner:
            return model
        model = inner[0]
    return model


def _classes(annotation: Any) -> Iterator[type]:
    if isinstance(annotation, type):
        yield annotation
    for each in get_args(annotation):
        yield from _classes(each)
