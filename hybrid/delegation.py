"""The control group that systemd hands over to an ordinary user's instances.

On cgroup v2 a user's own systemd (`systemd --user`) makes a scope for the holder of the user's namespace
(hybrid.rootless) and leaves all below it to us: `holder` has the holder, `commands` has commands of ours that
start something, and beside them lies a group each instance. Only who is below the scope already may move
processes into it; so a command first has itself moved there, by systemd.
"""

from __future__ import annotations

import os
from pathlib import Path

from hybrid import process
from hybrid.driver import Problem
from hybrid.errors import HybridError

UNIT = "hybrid.scope"
_LEAF, _COMMANDS = "holder", "commands"
_MANAGER = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")
_SETTLE = f"""\
group=/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)/{_LEAF}
mkdir "$group" "${{group%/*}}/{_COMMANDS}" && echo $$ >"$group/cgroup.procs"
echo >&3
exec 3>&- sleep infinity
"""
"""In the scope: move to a group below, for none with processes may have groups below it; say so; and hold."""


def holder() -> list[str] | None:
    """The command line of a holder in such a scope, which writes to descriptor 3 once it is there; None: not here."""
    tool, session = process.find("systemd-run"), os.environ.get("XDG_RUNTIME_DIR", "")
    if tool is None or not Path("/sys/fs/cgroup/cgroup.controllers").exists() or not _bus(session).is_socket():
        return None
    options = ("--user", "--scope", "--quiet", "--collect", f"--unit={UNIT}", "--property=Delegate=yes")
    return [tool, *options, "--", "/bin/sh", "-c", _SETTLE]


def _bus(session: str) -> Path:
    return Path(session or "/nonexistent", "bus")


def group(unified: Path) -> str | None:
    """The group that this user may make groups in, absolute in the tree at `unified`; None when there is none."""
    from hybrid import rootless

    pid = rootless.holder()
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines() if pid else []
    path = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), "")
    base, _, leaf = path.rpartition("/")
    return base if leaf == _LEAF and (unified / base[1:] / "cgroup.procs").exists() else None


def join(base: str) -> None:
    """Have this process moved to where it may start processes in groups of instances. HostError when it cannot be."""
    if Path("/proc/self/cgroup").read_text().rpartition("0::")[2].startswith(f"{base}/"):
        return
    call = ("call", *_MANAGER, "AttachProcessesToUnit", "ssau", UNIT, f"/{_COMMANDS}", "1", str(os.getpid()))
    try:
        process.run([process.need("busctl", "systemd"), "--user", *call])
    except HybridError as error:
        error.what = f"systemd does not move this command into {UNIT}: {error.what}"
        raise


def missing(what: str) -> Problem:
    """What cannot be had because there is no such group, and the mend."""
    if not Path("/sys/fs/cgroup/cgroup.controllers").exists():
        mend = "boot with cgroup v2 alone (systemd.unified_cgroup_hierarchy=1), or run as root"
    else:
        mend = "log in through systemd, with dbus-user-session (as root: loginctl enable-linger USER), or run as root"
    return Problem(f"no control groups for this user: {what}", mend)
