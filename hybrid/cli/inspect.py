"""`hybrid inspect`: all that is known of instances, under Docker's names where Docker has one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from hybrid.cli import view
from hybrid.cli.arguments import Names, named
from hybrid.cli.format import checked
from hybrid.driver import State

if TYPE_CHECKING:
    from hybrid.driver import Instance, Status
    from hybrid.store import Record


def inspect(
    names: Names,
    form: Annotated[
        str,
        typer.Option(
            "--format",
            "-f",
            metavar="json|TEMPLATE",
            callback=checked,
            help="What to print of each: {{.State.Status}}.",
        ),
    ] = "json",
) -> int:
    """Print what is known of instances, as a JSON array, or by a template a line each.

    Spec holds what the spec and the options over it said, Engine what the kind has noted to find what runs.

    Examples:

      hybrid inspect web

      hybrid inspect -f '{{.State.Status}} {{.State.ExitCode}}' web

      hybrid inspect -f '{{json .Config.Labels}}' web
    """
    from hybrid.cli.errors import printable, tell
    from hybrid.cli.template import Template
    from hybrid.errors import HybridError

    template = None if form in ("json", "table") else Template(form)
    found, failed = [], False
    for name in names:
        try:
            instance = named(name)
            values = describe(instance, instance.status())
            found.append(values)
            if template is not None:
                print(printable(template.render(values)))
        except HybridError as error:
            failed = True
            tell(error)
    if template is None:
        import json

        print(json.dumps(found, indent=4))
    return int(failed)


def describe(instance: Instance, status: Status) -> dict[str, Any]:
    """All of it."""
    from hybrid.cli.template import Open

    record = instance.record
    return {
        "Id": record.id,
        "Name": record.name,
        "Kind": record.kind.value,
        "Created": view.when(record.created),
        "Path": record.command[0],
        "Args": list(record.command[1:]),
        "State": _state(record, status),
        "Image": record.image,
        "Config": _config(record),
        "HostConfig": _host_config(record),
        "NetworkSettings": _network(record),
        "Mounts": [Open(each) if isinstance(each, dict) else each for each in record.spec.get("volumes") or ()],
        "Directory": str(record.directory),
        "Spec": _open(record.spec),
        "Engine": _open(record.engine),
    }


def _state(record: Record, status: Status) -> dict[str, Any]:
    health = {} if status.health is None else {"Health": _health(record, status.health.value)}
    return {
        "Status": status.state.value,
        "Running": status.state in (State.RUNNING, State.PAUSED),
        "Paused": status.state is State.PAUSED,
        "OOMKilled": status.oom_killed,
        "Pid": status.pid or 0,
        "ExitCode": status.exit_code if status.state is State.EXITED else 0,
        "StartedAt": view.when(status.started),
        "FinishedAt": view.when(status.finished),
        **health,
    }


def _health(record: Record, status: str) -> dict[str, Any]:
    from hybrid import health

    report = health.read(record.directory)
    return {"Status": status, "FailingStreak": report.streak, "Log": _open(list(report.log))}


def _config(record: Record) -> dict[str, Any]:
    from hybrid.cli.template import Open

    process = record.engine.get("process") or {}
    return {
        "Hostname": process.get("hostname") or record.spec.get("hostname") or record.name,
        "User": record.spec.get("user") or "",
        "Env": [
            f"{name}={value}" for name, value in (process.get("env") or record.spec.get("environment") or {}).items()
        ],
        "Cmd": list(record.command),
        "Image": record.image_name,
        "WorkingDir": process.get("cwd") or record.spec.get("working_dir") or "",
        "Tty": bool(record.spec.get("tty")),
        "OpenStdin": bool(record.spec.get("stdin_open")),
        "Labels": Open(view.labels(record)),
        "StopSignal": record.stop_signal,
        "StopTimeout": record.stop_timeout,
    }


def _host_config(record: Record) -> dict[str, Any]:
    spec = record.spec
    return {
        "Isolation": record.kind.value,
        "NanoCpus": round((spec.get("cpus") or 0) * 1e9),
        "Memory": spec.get("mem_limit") or 0,
        "PidsLimit": spec.get("pids_limit"),
        "NetworkMode": spec.get("network_mode") or ",".join(view.networks(record, view.attachment(record))),
        "RestartPolicy": {"Name": spec.get("restart") or "no"},
    }


def _network(record: Record) -> dict[str, Any]:
    from hybrid.cli.template import Open

    joined = view.attachment(record)
    ports: dict[str, list[dict[str, str]]] = {}
    for each in joined.ports:
        at = {"HostIp": each.host_ip or "0.0.0.0", "HostPort": str(each.port)}
        ports.setdefault(f"{each.target}/{each.protocol}", []).append(at)
    networks = {
        each.network: {
            "IPAddress": each.address,
            "IPPrefixLen": each.prefix,
            "Gateway": each.gateway,
            "MacAddress": each.mac,
            "Aliases": list(each.names),
        }
        for each in joined.interfaces
    }
    first = joined.interfaces[0].address if joined.interfaces else ""
    return {"IPAddress": first, "Ports": Open(ports), "Networks": Open(networks)}


def _open(value: Any) -> Any:
    """A value whose mappings a template may ask for anything."""
    from hybrid.cli.template import Open

    if isinstance(value, dict):
        return Open({key: _open(each) for key, each in value.items()})
    return [_open(each) for each in value] if isinstance(value, list | tuple) else value
