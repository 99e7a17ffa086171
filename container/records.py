"""What is saved of an instance of the kinds container and host."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from hybrid.driver import Kind, Request
from hybrid.image import Healthcheck, Process
from hybrid.store import Record, new_id, now


def new_record(request: Request, kind: Kind, directory: Path, *, id: str | None = None, **engine: Any) -> Record:
    """The record of a new instance."""
    return Record(
        name=request.name,
        id=id or new_id(),
        kind=kind,
        image=request.image.digest,
        image_name=request.image.names[0] if request.image.names else "",
        command=request.process.argv,
        created=now(),
        directory=directory,
        stop_signal=request.process.stop_signal,
        stop_timeout=request.process.stop_timeout,
        engine={"process": _values(request.process), **engine},
    )


def _values(what: Process) -> dict[str, Any]:
    """A process as JSON values, for the record."""
    return asdict(what) | {"env": dict(what.env)}


def saved_process(record: Record) -> Process:
    """The process in a record."""
    values = dict(record.engine["process"])
    check = values["healthcheck"]
    values["healthcheck"] = None if check is None else Healthcheck(**check | {"test": tuple(check["test"])})
    return Process(**values | {"argv": tuple(values["argv"]), "groups": tuple(values["groups"])})
