"""The OCI configuration against golden files; `GOLDEN=write pytest` writes them anew."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from container import bundle, seccomp
from container.mounts import IdMap
from hybrid.image import Process
from hybrid.spec import Spec

DATA = Path(__file__).parent / "data"


def place(**changes: Any) -> bundle.Place:
    values: dict[str, Any] = {
        "root": Path("/home/i/one/rootfs"),
        "etc": Path("/home/i/one/etc"),
        "cgroup": "/hybrid-0123456789abcdef",
        "ids": IdMap(2_000_000_000),
        "open_files": (1024, 20000),
        "swap": True,
        "seccomp": {"defaultAction": "SCMP_ACT_ERRNO"},
    }
    return bundle.Place(**values | changes)


def command(**changes: Any) -> Process:
    values: dict[str, Any] = {
        "argv": ("sh", "-c", "exit 7"),
        "executable": "/bin/sh",
        "env": {"PATH": "/bin", "A": "b=c"},
        "cwd": "/srv",
        "uid": 0,
        "gid": 0,
        "groups": (),
        "hostname": "box",
        "stop_signal": 15,
        "stop_timeout": 10.0,
        "healthcheck": None,
    }
    return Process(**values | changes)


@pytest.mark.parametrize("name", ["plain", "limited"])
def test_config_is_golden(name: str) -> None:
    if name == "plain":
        made = bundle.runtime_config(Spec(image="x"), command(), place())
    else:
        spec = Spec(image="x", cpus=1.5, mem_limit="64m", pids_limit=50)  # type: ignore[arg-type]
        who = command(uid=1000, gid=1001, groups=(5, 6))
        made = bundle.runtime_config(spec, who, place(ids=None, swap=False, compiled=b"\x06\0"))
    golden = DATA / f"container-{name}.json"
    if os.environ.get("GOLDEN") == "write":
        golden.write_text(json.dumps(made, indent=1) + "\n")
    assert made == json.loads(golden.read_text())


def test_only_root_holds_capabilities() -> None:
    def held(uid: int) -> list[str]:
        made = bundle.runtime_config(Spec(image="x"), command(uid=uid), place())
        return list(made["process"]["capabilities"]["effective"])

    assert len(held(0)) == 14
    assert held(1000) == []


PROFILE: dict[str, Any] = {
    "defaultAction": "SCMP_ACT_ERRNO",
    "defaultErrnoRet": 38,
    "archMap": [
        {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
        {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
    ],
    "syscalls": [
        {"names": ["read", "mount", "clone", "keyctl"], "action": "SCMP_ACT_ALLOW", "args": [], "includes": {}},
        {"names": ["setns"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}, "excludes": {}},
        {"names": ["chroot"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_CHROOT"]}},
        {"names": ["acct"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "excludes": {"caps": ["CAP_SYS_PACCT"]}},
        {"names": ["arm_only"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm64"]}},
    ],
}


def allowed(profile: dict[str, Any], **like: Any) -> dict[str, str]:
    return {name: rule["action"] for rule in profile["syscalls"] for name in rule["names"]}


def test_seccomp_conditions_are_decided() -> None:
    made = seccomp.resolve(PROFILE, bundle.CAPABILITIES, "x86_64")
    actions = allowed(made)
    assert made["architectures"] == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]
    assert actions["read"] == actions["chroot"] == "SCMP_ACT_ALLOW"
    assert actions["acct"] == "SCMP_ACT_ERRNO"
    assert "arm_only" not in actions
    assert "arm_only" in allowed(seccomp.resolve(PROFILE, bundle.CAPABILITIES, "aarch64"))


def test_seccomp_is_as_strict_as_dockers_without_cap_sys_admin() -> None:
    made = seccomp.resolve(PROFILE, bundle.CAPABILITIES, "x86_64")
    actions = allowed(made)
    assert {actions[name] for name in ("mount", "setns", "unshare", "keyctl", "clone3")} == {"SCMP_ACT_ERRNO"}
    (clone,) = (rule for rule in made["syscalls"] if "clone" in rule["names"])
    assert clone["action"] == "SCMP_ACT_ALLOW"
    assert clone["args"] == [{"index": 0, "value": 0x7E020000, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]


def test_seccomp_with_cap_sys_admin_is_the_profiles_own() -> None:
    actions = allowed(seccomp.resolve(PROFILE, (*bundle.CAPABILITIES, "CAP_SYS_ADMIN"), "x86_64"))
    assert actions["mount"] == actions["setns"] == actions["clone"] == "SCMP_ACT_ALLOW"


def test_the_distributions_profile_resolves() -> None:
    if not seccomp.PROFILE.exists():
        pytest.skip(f"{seccomp.PROFILE} is not installed")
    actions = allowed(seccomp.load(bundle.CAPABILITIES, "x86_64"))
    assert actions["execve"] == "SCMP_ACT_ALLOW"
    assert actions["unshare"] == actions["bpf"] == "SCMP_ACT_ERRNO"
