"""The system call filter: Docker's default, made of the rules that the distribution keeps up to date.

The rules come from the profile of the containers project (Podman, Buildah), which new system calls
reach by a package update. That profile lets every container call what makes namespaces and mounts;
Docker's does so only with CAP_SYS_ADMIN, and so does this filter.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from hybrid.errors import HostError

PROFILE = Path("/usr/share/containers/seccomp.json")
PACKAGE = "golang-github-containers-common"

_EPERM, _ENOSYS = 1, 38
_ARCHITECTURES = {"x86_64": ("SCMP_ARCH_X86_64", "amd64"), "aarch64": ("SCMP_ARCH_AARCH64", "arm64")}

_ADMIN_ONLY = frozenset(
    {
        *("bpf", "clone", "clone3", "fanotify_init", "fsconfig", "fsmount", "fsopen", "fspick", "lookup_dcookie"),
        *("mount", "mount_setattr", "move_mount", "open_tree", "perf_event_open", "pivot_root", "quotactl"),
        *("quotactl_fd", "setdomainname", "sethostname", "setns", "syslog", "umount", "umount2", "unshare"),
    }
)
_NEVER = frozenset({"add_key", "keyctl", "request_key", "io_uring_setup", "io_uring_enter", "io_uring_register"})
"""Docker allows these to no container: keyrings know no namespaces, io_uring bypasses the filter."""

_NAMESPACE_FLAGS = 0x7E020000
"""Every CLONE_NEW… flag of clone(2)."""


def load(capabilities: Collection[str], machine: str | None = None) -> dict[str, Any]:
    """linux.seccomp of the OCI runtime specification for a container with these capabilities."""
    try:
        profile = json.loads(PROFILE.read_bytes())
    except FileNotFoundError:
        raise HostError(f"the seccomp profile {PROFILE} is missing", mend=f"apt-get install {PACKAGE}") from None
    except ValueError as error:
        raise HostError(
            f"the seccomp profile is damaged: {error}",
            where=str(PROFILE),
            mend=f"apt-get install --reinstall {PACKAGE}",
        ) from None
    return resolve(profile, capabilities, machine or os.uname().machine)


def resolve(profile: Mapping[str, Any], capabilities: Collection[str], machine: str) -> dict[str, Any]:
    """The profile with its conditions decided for one machine (as in `uname -m`) and capability set."""
    native, short = _ARCHITECTURES[machine]
    admin = "CAP_SYS_ADMIN" in capabilities
    rules = [rule for rule in profile["syscalls"] if _applies(rule, capabilities, short)]
    kept = (_rule(rule, rule["names"] if admin else _without_admin(rule)) for rule in rules)
    return {
        "defaultAction": profile["defaultAction"],
        "defaultErrnoRet": profile.get("defaultErrnoRet", _EPERM),
        "architectures": list(_subarchitectures(profile.get("archMap") or (), native)),
        "syscalls": [rule for rule in kept if rule["names"]] + ([] if admin else list(_instead())),
    }


def _applies(rule: Mapping[str, Any], capabilities: Collection[str], architecture: str) -> bool:
    includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
    wanted, unwanted = includes.get("arches"), excludes.get("arches") or ()
    return (
        all(name in capabilities for name in includes.get("caps") or ())
        and not any(name in capabilities for name in excludes.get("caps") or ())
        and (not wanted or architecture in wanted)
        and architecture not in unwanted
    )


def _without_admin(rule: Mapping[str, Any]) -> list[str]:
    """The rule's names, less those that Docker refuses to a container without CAP_SYS_ADMIN."""
    return [name for name in rule["names"] if name not in _ADMIN_ONLY and name not in _NEVER]


def _rule(rule: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    resolved: dict[str, Any] = {"names": names, "action": rule["action"]}
    if rule.get("errnoRet") is not None:
        resolved["errnoRet"] = rule["errnoRet"]
    if rule.get("args"):
        resolved["args"] = rule["args"]
    return resolved


def _instead() -> Iterable[dict[str, Any]]:
    """What stands in for the rules taken out: threads and children, but no namespaces.

    clone3 hides its flags from the filter, so it does not exist here; the C library then falls back to clone.
    """
    no_namespaces = {"index": 0, "value": _NAMESPACE_FLAGS, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
    yield {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [no_namespaces]}
    yield {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": _ENOSYS}
    refused = sorted((_ADMIN_ONLY | _NEVER) - {"clone", "clone3"})
    yield {"names": refused, "action": "SCMP_ACT_ERRNO", "errnoRet": _EPERM}


def _subarchitectures(table: Iterable[Mapping[str, Any]], native: str) -> Iterable[str]:
    yield native
    for entry in table:
        if entry["architecture"] == native:
            yield from entry["subArchitectures"]
