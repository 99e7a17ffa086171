"""libvirt, embedded: its QEMU driver runs inside this process, and no daemon is needed.

A process has one connection, and the connection one root directory, which libvirt locks. A VM
outlives both: what it needs after this process has ended is in its own directory.
"""

from __future__ import annotations

import atexit
import contextlib
import grp
import os
import pwd
import secrets
import shutil
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING, Any

from hybrid.errors import HostError, HybridError
from hybrid.home import Home
from hybrid.process import become_subreaper
from hybrid.store import hold

if TYPE_CHECKING:
    import libvirt

QEMU_USER = "libvirt-qemu"
"""The user that distributions give QEMU under libvirt; the embedded driver insists that it exists."""


class Connection:
    """The process's one connection. Use `connect`."""

    def __init__(self, home: Home) -> None:
        self.root = home.run / f"libvirt-{secrets.token_hex(4)}"
        self._running: dict[str, threading.Event] = {}
        self._prepare_root(home)
        become_subreaper()
        with _quiet_log(self.root):
            _need_libvirt()
            import libvirt

            libvirt.registerErrorHandler(lambda _context, _error: None, None)
            libvirt.virEventRegisterDefaultImpl()
            threading.Thread(target=_run_events, args=(libvirt,), daemon=True, name="libvirt-events").start()
            self._starting = threading.Event()
            threading.Thread(target=_reap_qemus, args=(self._starting,), daemon=True, name="qemu-reaper").start()
            with translated("libvirt's QEMU driver does not start"):
                self.libvirt: libvirt.virConnect = libvirt.open(f"qemu:///embed?root={self.root}")
                self.libvirt.domainEventRegisterAny(
                    None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._lifecycle, libvirt.VIR_DOMAIN_EVENT_STOPPED
                )

    @contextlib.contextmanager
    def collecting(self) -> Iterator[None]:
        """Collect orphans of libvirt's making while it works: the QEMUs it starts, and those it only probes."""
        self._starting.set()
        try:
            yield
        finally:
            self._starting.clear()

    def _prepare_root(self, home: Home) -> None:
        (self.root / "etc").mkdir(parents=True, mode=0o711)
        self._held = hold(self.root)
        (self.root / "etc/qemu.conf").write_text(qemu_conf(qemu_user()))
        shared = home.cache / "libvirt"
        shared.mkdir(parents=True, exist_ok=True)
        (self.root / "cache").symlink_to(shared)  # what QEMU can do is asked once, not once a process
        atexit.register(self.close)

    def start(self, name: str, xml: str) -> None:
        """Start the transient domain `name`, after what is left of its last run in this process has gone."""
        self.wait_gone(name)
        self._running[name] = threading.Event()
        try:
            with translated("the VM does not start"), self.collecting():
                self.libvirt.createXML(xml)
        except BaseException:
            del self._running[name]
            raise

    def wait_gone(self, name: str, timeout: float = 5) -> None:
        """Return once libvirt has cleaned up after a domain of this process whose QEMU has ended."""
        if (stopped := self._running.get(name)) is not None:
            stopped.wait(timeout)
            del self._running[name]

    def _lifecycle(self, _connection: object, domain: Any, event: int, _detail: int, stopped: int) -> None:
        if event == stopped and (waiting := self._running.get(domain.name())) is not None:
            waiting.set()

    def close(self) -> None:
        """Remove the root unless a VM that lives on still has its files there."""
        if not any((self.root / "run/qemu").glob("hybrid-*.pid")):
            shutil.rmtree(self.root, ignore_errors=True)


def _need_libvirt() -> None:
    """HostError when the module cannot be imported: it may be there without the library that it wraps."""
    try:
        import libvirt  # noqa: F401
    except ImportError as error:
        raise HostError(
            f"libvirt-python cannot be used: {error}",
            mend="apt-get install libvirt-dev gcc, then pip install --force-reinstall --no-binary :all: libvirt-python",
        ) from None


_connection: Connection | None = None


def connect(home: Home) -> Connection:
    """The process's connection, opened at the first call."""
    global _connection
    if _connection is None:
        _connection = Connection(home)
    return _connection


def qemu_conf(user: str) -> str:
    """libvirt's qemu.conf: no log daemon, no cgroups of its own (we make one), QEMU as `user`."""
    group = user if user != "root" else "root"
    return "\n".join(
        [
            'stdio_handler = "file"',
            'security_driver = "none"',
            "cgroup_controllers = [ ]",
            f'user = "{user}"',
            f'group = "{group}"',
            "remember_owner = 0",
            "",
        ]
    )


def qemu_user(device: Path = Path("/dev/kvm")) -> str:
    """Whom QEMU runs as: an unprivileged user wherever it may open /dev/kvm, else root.

    libvirt throws its cache of QEMU's abilities away when that user cannot open the device, and
    asks again at every start: seconds instead of tenths.
    """
    try:
        status = device.stat()
        user = pwd.getpwnam(QEMU_USER)
    except (FileNotFoundError, KeyError):
        return QEMU_USER
    everyone = stat.S_IMODE(status.st_mode) & 0o006 == 0o006
    its_group = stat.S_IMODE(status.st_mode) & 0o060 == 0o060 and status.st_gid in {
        user.pw_gid,
        *(group.gr_gid for group in grp.getgrall() if QEMU_USER in group.gr_mem),
    }
    return QEMU_USER if everyone or its_group else "root"


@contextlib.contextmanager
def translated(what: str) -> Iterator[None]:
    """Turn libvirt's errors into ours."""
    import libvirt

    try:
        yield
    except libvirt.libvirtError as error:
        raise HostError(f"{what}: {error.get_error_message()}", mend="hybrid doctor") from None


@contextlib.contextmanager
def _quiet_log(root: Path) -> Iterator[None]:
    """Send libvirt's own log to a file in its root; it reads this variable when it starts."""
    before = os.environ.get("LIBVIRT_LOG_OUTPUTS")
    os.environ["LIBVIRT_LOG_OUTPUTS"] = f"3:file:{root}/libvirt.log"
    try:
        yield
    finally:
        if before is None:
            del os.environ["LIBVIRT_LOG_OUTPUTS"]
        else:
            os.environ["LIBVIRT_LOG_OUTPUTS"] = before


def _run_events(libvirt: Any) -> None:
    while True:
        libvirt.virEventRunDefaultImpl()


def _reap_qemus(starting: threading.Event) -> None:
    """Wait for daemonised QEMUs, which are this subreaper's orphans, the moment they end.

    libvirt waits until such a pid has vanished, and a zombie has not. Children that libvirt or this
    process started itself are theirs to wait for: an orphan is told from them by its session, which
    was led by the intermediate process that has gone.
    """
    while True:
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
        except ChildProcessError:
            starting.wait()  # nothing to wait for until libvirt forks,
            sleep(0.001)  # which no event announces
            continue
        if not sum(_reap_if_orphaned(pid) for pid in _children()):
            sleep(0.001)  # somebody else's child; its owner collects it in a moment


def _children() -> list[int]:
    found = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            found += [int(pid) for pid in (task / "children").read_text().split()]
    return found


def _reap_if_orphaned(pid: int) -> bool:
    try:
        head, _, tail = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
        state, _parent, _group, session = tail.split()[:4]
        theirs = int(session) in (pid, os.getsid(0))
        if state != "Z" or theirs or not head.partition("(")[2].startswith("qemu-system"):
            return False
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except (OSError, HybridError):
        return False


def forget(root: Path, domain: str) -> None:
    """Remove what an ended domain left in the root of a process, which may have ended too; with the last, the root."""
    if _connection is not None and _connection.root == root:
        _connection.wait_gone(domain)
        return
    for path in (root / "run/qemu").glob(f"{domain}.*"):
        path.unlink(missing_ok=True)
    if not any((root / "run/qemu").glob("hybrid-*.pid")):
        shutil.rmtree(root, ignore_errors=True)
