"""An ordinary user's commands: root of a user namespace, which all commands of that user share.

In it the user is 0 and the ids that /etc/subuid and /etc/subgid give to the user are 1 and above. So an
image's owners are real owners on disk, and mounts, chroots and containers need no privilege of the host.
Outside of it nothing is gained: files and processes stay those of the user and of its own ids.

The kernel keeps a namespace as long as a process lives in it. That is a `sleep` of ours, the holder, found
by the pid and start time in `RUN/userns.json`. The first command makes it, and the last one ends it, unless
something of an instance still lives in the namespace. A command holds a lock on `RUN/userns.commands`
(shared) while it runs; making and ending is done under the one on `RUN/userns.lock`.
"""

from __future__ import annotations

import atexit
import ctypes
import fcntl
import json
import os
import pwd
import select
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from hybrid import delegation, home, process, usage
from hybrid.driver import Problem
from hybrid.errors import HostError, HybridError, ToolError
from hybrid.store import locked, write_atomically

IDS = 65536
"""How many ids a user needs beside its own: those of an image."""
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_NS_GET_PARENT = 0xB702
_DEEPEST = 33
"""User namespaces within each other that the kernel allows."""
_RECORD = "userns.json"
_PATIENCE = 30.0
"""Seconds that systemd may take to make a scope."""

_libc = ctypes.CDLL(None, use_errno=True)
_problem: Problem | None = None
_commands = -1


def problem() -> Problem | None:
    """Why this process could not enter the namespace, and the mend; None when it did, and for root."""
    return _problem


def problems() -> list[Problem]:
    """The same for drivers: why this process is neither root nor root of a user namespace."""
    return [] if os.geteuid() == 0 else [_problem or Problem("this needs root", "sudo hybrid …")]


def need() -> None:
    """HostError when this process is neither root nor root of a user namespace."""
    for each in problems():
        raise HostError(each.what, mend=each.mend)


def lacks() -> list[Problem]:
    """What this user could have and has not, each with the mend; and what an ordinary user cannot have, in one."""
    found = []
    if process.find("slirp4netns") is None:
        found.append(Problem("no network for instances: slirp4netns is not installed", "apt-get install slirp4netns"))
    elif not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        what = "no network for instances: /dev/net/tun is closed to this user"
        found.append(Problem(what, "as root: chmod 666 /dev/net/tun; or `network_mode: none`"))
    if Path("/dev/kvm").exists() and not os.access("/dev/kvm", os.R_OK | os.W_OK):
        found.append(
            Problem("/dev/kvm is closed to this user", f"as root: usermod -aG kvm {_name(_uid())}; log in again")
        )
    only = (
        "an ordinary user has no bridge on the host (instances reach it through slirp4netns, and are reached by "
        "published ports from 1024 on), no device nodes in images, and no kernel marks of when a command is executed"
    )
    return [*found, Problem(only, "run as root what needs these")]


def _uid() -> int:
    return home.ordinary_user() or 0


def enter() -> None:
    """Make this process, which has one thread, root of this user's namespace. If it cannot be, `problem` says why."""
    global _problem, _commands
    uid, gid = home.ordinary_user(), os.getgid()
    if uid is None:  # root, with a variable of ours that says nothing
        return
    try:
        run = _run_directory(uid)
        with locked(run / "userns.lock"):
            if os.geteuid() != 0:  # a command that another one has started is in it already
                with _holder(run, uid, gid) as namespace:
                    if _libc.setns(namespace, _CLONE_NEWUSER) != 0:
                        raise _refused("setns", ctypes.get_errno())
            _commands = os.open(run / "userns.commands", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(_commands, fcntl.LOCK_SH)
    except HybridError as error:
        _problem = Problem(error.what, error.mend)
    except OSError as error:
        _problem = Problem(f"no user namespace can be had: {error}", "hybrid doctor")
    else:
        os.environ |= {
            home.USER: str(uid),
            "XDG_RUNTIME_DIR": str(run.parent),
            # What buildah and skopeo tell their own children in such a namespace.
            "_CONTAINERS_USERNS_CONFIGURED": "done",
            "_CONTAINERS_ROOTLESS_UID": str(uid),
        }
        atexit.register(leave, run)


def _run_directory(uid: int) -> Path:
    run = home.session_directory(uid) / "hybrid"
    for each in (run.parent, run):
        each.mkdir(mode=0o700, exist_ok=True)
        home.check_own(each)
    return run


def holder() -> int | None:
    """The pid of the process that holds this user's namespace."""
    uid = home.ordinary_user()
    found = None if uid is None else _recorded(_run_directory(uid))
    return None if found is None else found[0]


def network() -> int:
    """The descriptor of the network namespace that this user's instances share. The caller closes it."""
    pid = holder()
    if pid is None:
        raise HostError("this user's namespace has gone", mend="hybrid prune, and try again")
    return os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def leave(run: Path) -> None:
    """End the holder, and with it the namespace, when no other command and nothing of an instance lives in it."""
    os.close(_commands)
    with suppress(OSError, HybridError), locked(run / "userns.lock"):
        try:
            with locked(run / "userns.commands", wait=False):
                _end_unused(run)
        except BlockingIOError:
            return


def _end_unused(run: Path) -> None:
    if (found := _recorded(run)) is None:
        return
    pid, started = found
    own = os.stat("/proc/self/ns/user").st_ino  # noqa: PTH116
    forwarders = _forwarders(run)
    for each in usage.processes():
        ours = each in (pid, os.getpid(), *forwarders)
        if not ours and _lives_in(each, own) and process.start_time(each) is not None:
            return
    (run / _RECORD).unlink(missing_ok=True)
    for each in forwarders:
        process.send_signal(each, process.start_time(each))
    process.send_signal(pid, started)


def _forwarders(run: Path) -> set[int]:
    """What serves a network in which nobody may be any more, since its instances were killed."""
    if not (run / "network").exists():
        return set()
    from hybrid.network import slirp

    return set(slirp.pids(run / "network/slirp.sock"))


def _lives_in(pid: int, namespace: int) -> bool:
    """Whether a process is in a user namespace (its inode), or in one below it."""
    with ExitStack() as stack:
        try:
            link = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
            for _ in range(_DEEPEST):
                stack.callback(os.close, link)
                if os.fstat(link).st_ino == namespace:
                    return True
                link = fcntl.ioctl(link, _NS_GET_PARENT)
        except OSError:  # another user's, or gone, or at the top
            return False
    return False


# ---- the holder --------------------------------------------------------------------------


@contextmanager
def _holder(run: Path, uid: int, gid: int) -> Iterator[int]:
    """The descriptor of the namespace that the holder lives in; a holder is made when there is none."""
    found = _recorded(run)
    pid = found[0] if found else _make_holder(run, uid, gid)
    namespace = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield namespace
    finally:
        os.close(namespace)


def _recorded(run: Path) -> tuple[int, int] | None:
    """Pid and start time of the living holder."""
    try:
        values = json.loads((run / _RECORD).read_bytes())
        pid, started, boot = int(values["pid"]), int(values["started"]), str(values["boot"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return (pid, started) if boot == _boot_id() and process.start_time(pid) == started else None


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _make_holder(run: Path, uid: int, gid: int) -> int:
    """Start a holder in a new namespace with this user's ids, record it, and return its pid."""
    maps = (("newuidmap", id_map(uid, Path("/etc/subuid"))), ("newgidmap", id_map(uid, Path("/etc/subgid"), gid)))
    tools = [(process.need(tool, "uidmap"), given) for tool, given in maps]
    if (argv := delegation.holder()) is not None:
        with suppress(_NotDelegatedError):
            return _hatch(run, uid, tools, argv, scoped=True)
    return _hatch(run, uid, tools, [process.need("sleep", "coreutils"), "infinity"])


class _NotDelegatedError(Exception):
    """systemd did not make the scope."""


def _hatch(
    run: Path, uid: int, tools: Sequence[tuple[str, list[int]]], argv: list[str], *, scoped: bool = False
) -> int:
    with _Hatching(argv) as child:
        for tool, given in tools:
            try:
                process.run([tool, str(child.pid), *map(str, given)])
            except ToolError as error:
                raise HostError(
                    f"the ids of /etc/subuid and /etc/subgid are refused: {error.what}", mend=_mend_ids(uid)
                ) from None
        started = process.start_time(child.pid)
        values = {"pid": child.pid, "started": started, "boot": _boot_id()}
        write_atomically(run / _RECORD, json.dumps(values).encode())
        child.let_go()
        if scoped and not child.settled():
            process.send_signal(child.pid, started)
            os.waitpid(child.pid, 0)
            raise _NotDelegatedError
    return child.pid


class _Hatching:
    """A child in a user namespace of its own, which becomes the holder at `let_go`, and ends without it."""

    def __init__(self, argv: list[str]) -> None:
        self.pid = -1
        self._argv = argv

    def __enter__(self) -> _Hatching:
        self._told, telling = os.pipe2(os.O_CLOEXEC)
        waiting, self._release = os.pipe2(os.O_CLOEXEC)
        self.pid = os.fork()
        if self.pid == 0:
            _live(self._argv, telling, waiting)
        os.close(telling)
        os.close(waiting)
        code = int(os.read(self._told, 16) or b"11")
        if code:
            self.__exit__()
            raise _refused("unshare", code)
        return self

    def let_go(self) -> None:
        os.write(self._release, b"1")
        os.close(self._release)
        self._release = -1

    def settled(self) -> bool:
        """Whether the holder says that it is where it should be; False when it ends, or takes too long."""
        return bool(select.select([self._told], [], [], _PATIENCE)[0]) and bool(os.read(self._told, 1))

    def __exit__(self, *failure: object) -> None:
        os.close(self._told)
        if self._release >= 0:
            os.close(self._release)
            os.waitpid(self.pid, 0)


def _live(argv: list[str], telling: int, waiting: int) -> None:
    """The holder's life: say how the kernel took it, wait to be let go, and sleep for good; descriptor 3 tells us."""
    try:
        os.setsid()
        code = ctypes.get_errno() if _libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) else 0
        os.write(telling, str(code).encode())
        if not code and os.read(waiting, 1):
            null = os.open(os.devnull, os.O_RDWR)
            for number in range(3):
                os.dup2(null, number)
            os.dup2(telling, 3)
            os.set_inheritable(3, True)
            os.closerange(4, 1 << 16)
            os.chdir("/")
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            kept = ("PATH", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS")
            os.execve(argv[0], argv, {name: os.environ[name] for name in kept if name in os.environ})
    finally:
        os._exit(1)


def _refused(call: str, code: int) -> HostError:
    return HostError(f"the kernel refuses a user namespace ({call}: {os.strerror(code)})", mend=_mend_kernel())


def _mend_kernel() -> str:
    """What the host's settings say of user namespaces for ordinary users."""
    settings: tuple[tuple[str, Callable[[str], bool], str], ...] = (
        ("kernel.unprivileged_userns_clone", lambda value: value == "0", "1"),
        ("kernel.apparmor_restrict_unprivileged_userns", lambda value: value == "1", "0"),
        ("user.max_user_namespaces", lambda value: value == "0", "15000"),
    )
    for name, closed, good in settings:
        path = Path("/proc/sys") / name.replace(".", "/")
        with suppress(OSError):
            if closed(path.read_text().strip()):
                return f"as root: sysctl -w {name}={good}"
    return "allow user namespaces to ordinary users (sysctl, AppArmor, or the sandbox that this runs in)"


# ---- ids ---------------------------------------------------------------------------------


def id_map(uid: int, file: Path, own: int | None = None) -> list[int]:
    """The arguments of newuidmap or newgidmap: 0 is the user's own id, 1 and above those that `file` gives it."""
    found: list[int] = [0, uid if own is None else own, 1]
    inside = 1
    for first, count in sorted(ranges(uid, file), key=lambda each: -each[1]):
        found += [inside, first, count]
        inside += count
    if inside <= IDS - 1:
        raise HostError(f"{file} gives this user {inside - 1} ids, {IDS} are needed", mend=_mend_ids(uid))
    return found


def ranges(uid: int, file: Path) -> list[tuple[int, int]]:
    """What subuid(5) or subgid(5) gives to a user: first id and count of each range, as listed."""
    names = {str(uid)}
    with suppress(KeyError):
        names.add(pwd.getpwuid(uid).pw_name)
    found = []
    with suppress(FileNotFoundError):
        for line in file.read_text(errors="replace").splitlines():
            name, *numbers = line.strip().split(":")
            if name in names and len(numbers) == 2 and all(number.isdecimal() for number in numbers):
                found.append((int(numbers[0]), int(numbers[1])))
    return found


def _mend_ids(uid: int) -> str:
    wanted = "--add-subuids 100000-165535 --add-subgids 100000-165535"
    return f"as root: usermod {wanted} {_name(uid)} (a range nobody else has)"


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
