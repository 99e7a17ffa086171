"""The control group that systemd hands over to an ordinary user's instances."""

from __future__ import annotations

from pathlib import Path

from hybrid.driver import Problem


def group(unified: Path) -> str | None:
    """The group that this user may make groups in, absolute in the tree at `unified`; None when there is none."""
    return None


def missing(what: str) -> Problem:
    """What cannot be had because there is no such group, and the mend."""
    mend = "log in through systemd with cgroup v2 (a session of `systemd --user`), or run as root"
    return Problem(f"no control groups for this user: {what}", mend)
