"""What of a spec the guest's init does: mounts, and the limits that the guest's own kernel enforces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from hybrid import limits
from vm.domain import SHARE
from vm.shares import shared

if TYPE_CHECKING:
    from hybrid.spec import Spec
    from hybrid.volumes import Mount


def settings(spec: Spec, mounts: Sequence[Mount]) -> list[tuple[str, str]]:
    """Keys and values of /config, beside those of the command: see vm/init/config.c."""
    found: list[tuple[str, str]] = []
    if shared(mounts):
        found.append(("share", SHARE))
    found += [("mount", line) for line in _mounts(mounts)]
    for name, (soft, hard) in limits.rlimits(spec).items():
        if name in spec.ulimits:
            found.append(("rlimit", f"{limits.number(name)} {soft} {hard}"))
    if spec.read_only:
        found.append(("read_only", "1"))
    given = {"shm": spec.shm_size, "pids": spec.pids_limit, "oom_score_adj": spec.oom_score_adj}
    return found + [(key, str(value)) for key, value in given.items() if value is not None]


def _mounts(mounts: Sequence[Mount]) -> Iterator[str]:
    for number, each in enumerate(mounts):
        access = "ro" if each.read_only else "rw"
        if each.source is None:
            yield f"tmpfs {access} {','.join(each.options)} {each.target}"
        elif each.is_anonymous:
            yield f"own {access} - {each.target}"
        else:
            yield f"{'directory' if each.is_directory else 'file'} {access} {number} {each.target}"
