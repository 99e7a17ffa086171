"""Become the command of an instance of kind host: its root directory, ids, limits and working directory.

The standard library only: a detached instance runs this file as a program, in an interpreter that sees
no other module, and the program replaces itself by the command.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from dataclasses import asdict, dataclass

_CLOSE_RANGE_CLOEXEC = 4


@dataclass(frozen=True)
class Plan:
    """What to become. JSON values only, but for the surrogates in the strings."""

    root: str
    procs: list[str]
    """The cgroup.procs files of the control group to join."""
    cwd: str
    uid: int
    gid: int
    groups: list[int]
    open_files: list[int]
    argv: list[str]
    executable: str
    env: dict[str, str]

    def dumps(self) -> str:
        return json.dumps(asdict(self))


def become(plan: Plan) -> None:
    """Change this process, all but the program that it runs. A missing working directory is made."""
    for path in plan.procs:
        with open(path, "w") as file:  # noqa: PTH123
            file.write("0")
    os.chroot(plan.root)
    os.makedirs(plan.cwd, exist_ok=True)  # noqa: PTH103
    soft, hard = plan.open_files
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    os.umask(0o022)
    os.setgroups(plan.groups)
    os.setresgid(plan.gid, plan.gid, plan.gid)
    os.setresuid(plan.uid, plan.uid, plan.uid)
    os.chdir(plan.cwd)


def main() -> None:
    """Execute the plan in the file that the first argument names; on failure write `ERRNO text` to descriptor 3."""
    with open(sys.argv[1]) as file:  # noqa: PTH123
        plan = Plan(**json.load(file))
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)  # a shell's background command and Python itself ignore them
    ctypes.CDLL(None).close_range(3, ~0 & 0xFFFFFFFF, _CLOSE_RANGE_CLOEXEC)
    try:
        become(plan)
        os.execve(plan.executable, plan.argv, plan.env)
    except OSError as error:
        os.write(3, f"{error.errno} {error.strerror}".encode())
        os._exit(127)


if __name__ == "__main__":
    main()
