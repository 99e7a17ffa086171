"""What the kernel says about the isolation of a process, read from the host's /proc.

Files inside an instance are read as if its root were ours: no link leads out of it.
"""

from __future__ import annotations

import contextlib
import os
import pwd
from collections.abc import Mapping
from pathlib import Path

from hybrid.driver import Evidence
from hybrid.errors import InstanceError
from hybrid.inroot import open_in

_LIMIT = 65536
"""Bytes read of a file that an instance wrote."""


def of_process(pid: int, host_processes: Mapping[str, int] | None = None) -> Evidence:
    """What is seen of a process on this host; InstanceError when it has ended.

    `host_processes` are the engine's own processes that live beside it, by name.
    """
    try:
        status = _status(pid)
        namespaces = {link.name: str(link.readlink()) for link in sorted(Path(f"/proc/{pid}/ns").iterdir())}
        return Evidence(
            kernel_release=os.uname().release,
            boot_id=read_inside(pid, "proc/sys/kernel/random/boot_id").strip() or boot_id(),
            os_name=os_name(read_inside(pid, "etc/os-release") or read_inside(pid, "usr/lib/os-release")),
            uid_map=" ".join(Path(f"/proc/{pid}/uid_map").read_text().split()),
            namespaces=namespaces,
            capabilities=int(status["CapEff"], 16),
            seccomp=int(status.get("Seccomp", "0")),
            no_new_privs=status.get("NoNewPrivs") == "1",
            host_processes={name: confinement(other) for name, other in (host_processes or {}).items()},
        )
    except (FileNotFoundError, ProcessLookupError, KeyError):
        raise InstanceError("the command has ended: there is nothing to look at") from None


def of_host() -> Evidence:
    """The same of this very process, to compare with."""
    return of_process(os.getpid())


def boot_id() -> str:
    """The random identifier of this host's running kernel."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def confinement(pid: int) -> dict[str, str]:
    """What confines a process of an engine: user, seccomp mode, capabilities, no_new_privs; empty if it ended."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        status = _status(pid)
        uid = int(status["Uid"].split()[0])
        user = str(uid)
        with contextlib.suppress(KeyError):
            user = pwd.getpwuid(uid).pw_name
        return {
            "user": user,
            "seccomp": {"0": "none", "1": "strict", "2": "filter"}.get(status.get("Seccomp", "0"), "unknown"),
            "capabilities": status["CapEff"],
            "no_new_privs": "yes" if status.get("NoNewPrivs") == "1" else "no",
        }
    return {}


def os_name(os_release: str) -> str:
    """PRETTY_NAME in the text of an os-release file; empty when there is none."""
    for line in os_release.splitlines():
        name, _, value = line.partition("=")
        if name.strip() == "PRETTY_NAME":
            return value.strip().strip("\"'")
    return ""


def read_inside(pid: int, path: str) -> str:
    """The start of a regular file as the process's root directory shows it; empty when there is none.

    Links are followed within that root only, and nothing but a plain file is opened for reading.
    """
    root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        file = open_in(root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return ""
    finally:
        os.close(root)
    try:
        if (os.fstat(file).st_mode & 0o170000) != 0o100000:
            return ""
        return os.read(file, _LIMIT).decode(errors="replace")
    finally:
        os.close(file)


def _status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
