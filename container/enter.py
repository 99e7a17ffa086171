"""Become the command of an instance of kind host: its root directory, ids, limits and working directory.

The standard library only: a detached instance runs this file as a program, in an interpreter that sees
no other module, in the place of an OCI runtime: its monitor becomes the command's parent.
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
    rlimits: dict[int, list[int]]
    """Soft and hard limits by the number of RLIMIT_…; numbers are text in JSON."""
    argv: list[str]
    executable: str
    env: dict[str, str]
    tty: bool = False

    def dumps(self) -> str:
        return json.dumps(asdict(self))


def become(plan: Plan) -> None:
    """Change this process, all but the program that it runs. A missing working directory is made."""
    for path in plan.procs:
        with open(path, "w") as file:  # noqa: PTH123
            file.write("0")
    os.chroot(plan.root)
    os.makedirs(plan.cwd, exist_ok=True)  # noqa: PTH103
    for number, (soft, hard) in plan.rlimits.items():
        resource.setrlimit(int(number), (_limit(soft), _limit(hard)))
    os.umask(0o022)
    os.setgroups(plan.groups)
    os.setresgid(plan.gid, plan.gid, plan.gid)
    os.setresuid(plan.uid, plan.uid, plan.uid)
    os.chdir(plan.cwd)


def _limit(number: int) -> int:
    """Python has the kernel's highest number, no limit, as -1."""
    return -1 if number >= (1 << 64) - 1 else number


def main() -> None:
    """Make a detached command as an OCI runtime would for its monitor: `create … --pid-file FILE … ID`.

    The first argument names the instance's directory, with the plan. Ends when the command is executed; when
    it cannot be, with `ERRNO text` in the file `failure`.
    """
    directory, *words = sys.argv[1:]
    with open(f"{directory}/plan") as file:  # noqa: PTH123
        plan = Plan(**json.load(file))
    pid, failure = _fork(plan, words[words.index("--console-socket") + 1] if plan.tty else "")
    if failure:
        with open(f"{directory}/failure", "w") as file:  # noqa: PTH123
            file.write(failure)
        sys.exit(1)
    with open(words[words.index("--pid-file") + 1], "w") as file:  # noqa: PTH123
        file.write(str(pid))


def _fork(plan: Plan, console: str) -> tuple[int, str]:
    """The pid of a child that has become the command; or what went wrong."""
    told, telling = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            if console:
                _take_terminal(plan.uid, console)
            for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGPIPE):
                signal.signal(number, signal.SIG_DFL)  # a monitor and Python itself ignore them
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            ctypes.CDLL(None).close_range(3, ~0 & 0xFFFFFFFF, _CLOSE_RANGE_CLOEXEC)
            become(plan)
            os.execve(plan.executable, plan.argv, plan.env)
        except OSError as error:
            os.write(telling, f"{error.errno} {error.strerror}".encode())
        finally:
            os._exit(127)
    os.close(telling)
    return pid, os.read(told, 4096).decode(errors="replace")


def _take_terminal(uid: int, console: str) -> None:
    """Make a terminal, give its master to the monitor, and make it this process's own."""
    import fcntl
    import socket
    import termios

    master, slave = os.openpty()
    os.fchown(slave, uid, -1)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(console)
        socket.send_fds(connection, [b"terminal"], [master])
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    for number in range(3):
        os.dup2(slave, number)
    os.close(master)
    os.close(slave)


if __name__ == "__main__":
    main()
