"""libvirt in a daemon of this host: `qemu:///system`, `qemu:///session`.

The daemon starts QEMU, as a user of its own choice and under its own configuration, which is not
ours to change. So the domain brings what makes it behave as the one inside this process does:

- libvirt changes no file's owner (`seclabel`): the instance's own files are given to QEMU's user here
  and taken back, and what instances share stays root's.
- QEMU writes its output by itself (`pipe`): a file would be handed to virtlogd, which starts a new one
  after some megabytes and throws old ones away.
- QEMU's process is on this host, so control groups, waiting and killing are as they are elsewhere.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from xml.etree import ElementTree as ET

from hybrid.driver import Problem
from hybrid.errors import HostError
from hybrid.home import Home
from vm import libvirtapi
from vm.accel import detect
from vm.domain import FILE_PORTS, Daemon
from vm.guest import domain_name, find_qemu
from vm.libvirtapi import translated

if TYPE_CHECKING:
    import libvirt

    from vm.domain import Machine

LOGS = Path("/var/log/libvirt/qemu")
"""Where the system's daemon keeps a log of every domain that ever was."""


@dataclasses.dataclass(frozen=True, slots=True)
class Owner:
    """A user and group by number."""

    uid: int
    gid: int


def problem(uri: str) -> Problem | None:
    """Why a URI is none that VMs can be run through; None when it is one."""
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        return Problem(f"{uri!r} is no URI: {error}", _EXAMPLES)
    scheme, _, transport = parts.scheme.partition("+")
    if scheme != "qemu":
        return Problem(f"{uri!r} does not name libvirt's QEMU driver", _EXAMPLES)
    if parts.netloc or transport not in ("", "unix"):
        return Problem(
            f"{uri!r} names a libvirt on another machine; images and streams are not carried there yet",
            f"run hybrid on that machine: ssh {parts.hostname or 'HOST'} hybrid run …",
        )
    if parts.path not in ("/system", "/session"):
        return Problem(f"{uri!r} names no daemon", _EXAMPLES)
    return None


_EXAMPLES = "give qemu:///system or qemu:///session; without --connect, libvirt runs inside this process"


class Elsewhere:
    """A `vm.connection.Connection` to a daemon."""

    root = None

    def __init__(self, home: Home, uri: str) -> None:
        self.uri = uri
        self._home = home
        self._stopped: dict[str, threading.Event] = {}
        if (found := problem(uri)) is not None:
            raise HostError(found.what, mend=found.mend)
        module = libvirtapi.load()
        with translated(f"{uri} cannot be used", mend=_mend(uri)):
            self.libvirt: libvirt.virConnect = module.open(uri)
            self.libvirt.domainEventRegisterAny(
                None, module.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._lifecycle, module.VIR_DOMAIN_EVENT_STOPPED
            )

    def alive(self) -> bool:
        import libvirt

        try:
            return bool(self.libvirt.isAlive())
        except libvirt.libvirtError:
            return False

    def collecting(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def qemu_uid(self) -> int:
        owner = self.owner(detect().domain_type)
        return os.geteuid() if owner is None else owner.uid

    # ---- start ---------------------------------------------------------------------------

    def owner(self, domain_type: str) -> Owner | None:
        """Whom QEMU runs as; None when that is whoever runs the daemon."""
        with translated(f"{self.uri} does not say what it can do"):
            return qemu_owner(self.libvirt.getCapabilities(), domain_type)

    def adapt(self, machine: Machine) -> Machine:
        pipes = machine.ports["control"].parent
        files = [machine.console, machine.events, *(machine.ports[name] for name in FILE_PORTS)]
        owner = self.owner(machine.domain_type) or Owner(os.geteuid(), os.getegid())
        for path in files:
            _make_pipe(pipes / path.name, path, owner)
        if os.geteuid() == 0:
            for path in (machine.initrd, machine.disk, *files):
                os.chown(path, owner.uid, owner.gid)
        for path in (machine.kernel, machine.disk, pipes / "control"):
            check_reach(path, owner)
        id = machine.name.removeprefix(domain_name(""))
        return dataclasses.replace(machine, daemon=Daemon(self._home.root, id, pipes, relabel=os.geteuid() != 0))

    def start(self, name: str, xml: str) -> int:
        self._wait_gone(name, 5)
        with translated("the VM does not start", mend=_mend(self.uri)):
            self.libvirt.createXML(xml)
        pid = find_qemu(name.removeprefix(domain_name("")))
        if pid is None:
            raise HostError(
                f"QEMU has ended at once, or {self.uri} runs it where its process is not seen from here",
                where=str(LOGS / f"{name}.log"),
                mend=f"hybrid doctor --connect {self.uri}",
            )
        return pid

    # ---- end -----------------------------------------------------------------------------

    def forget(self, name: str, timeout: float = 5) -> None:
        self._wait_gone(name, timeout)
        if os.geteuid() == 0:
            _take_back(self._home.instances / name.removeprefix(domain_name("")))
            for log in LOGS.glob(f"{name}.log*"):
                log.unlink(missing_ok=True)

    def _wait_gone(self, name: str, timeout: float) -> None:
        import libvirt

        stopped = self._stopped[name] = threading.Event()
        try:
            with contextlib.suppress(libvirt.libvirtError):
                self.libvirt.lookupByName(name)
                stopped.wait(timeout)
                self.libvirt.lookupByName(name)  # which waits until the daemon has let go of it
        finally:
            self._stopped.pop(name, None)

    def _lifecycle(self, _connection: object, domain: Any, event: int, _detail: int, stopped: int) -> None:
        if event == stopped and (waiting := self._stopped.get(domain.name())) is not None:
            waiting.set()


def qemu_owner(capabilities: str, domain_type: str) -> Owner | None:
    """Whom QEMU runs as, by libvirt's "Driver capabilities" XML; None when it is not told."""
    for label in ET.fromstring(capabilities).iterfind("host/secmodel[model='dac']/baselabel"):
        if label.get("type") == domain_type:
            user, _, group = (label.text or "").partition(":")
            with contextlib.suppress(ValueError):
                return Owner(int(user.lstrip("+")), int(group.lstrip("+")))
    return None


def check_reach(path: Path, owner: Owner) -> None:
    """HostError unless that user can pass every directory above `path`."""
    for folder in reversed(path.absolute().parents):
        if owner.uid != 0 and not _passes(folder.stat(), owner):
            raise HostError(
                f"QEMU runs as user {owner.uid} there, which cannot pass {folder}",
                where=str(path),
                mend=f"chmod o+x {folder}, or set HYBRID_HOME to a folder that others can pass",
            )


def _passes(folder: os.stat_result, owner: Owner) -> bool:
    if folder.st_uid == owner.uid:
        return bool(folder.st_mode & stat.S_IXUSR)
    return bool(folder.st_mode & (stat.S_IXGRP if folder.st_gid == owner.gid else stat.S_IXOTH))


def _make_pipe(base: Path, target: Path, owner: Owner) -> None:
    """What libvirt's device `pipe` at `base` is: QEMU reads nothing from BASE.in, and writes to BASE.out, a file."""
    source, sink = (base.with_name(base.name + suffix) for suffix in (".in", ".out"))
    for path in (source, sink):
        path.unlink(missing_ok=True)
    os.mkfifo(source, 0o600)
    sink.symlink_to(target)
    if os.geteuid() == 0:
        os.chown(source, owner.uid, owner.gid)


def _take_back(directory: Path) -> None:
    """Make an instance's files our own again. QEMU's user could make none of them: the directory is ours."""
    for path in _files(directory):
        with contextlib.suppress(FileNotFoundError):
            os.lchown(path, os.geteuid(), os.getegid())


def _files(directory: Path) -> Iterator[Path]:
    with contextlib.suppress(FileNotFoundError):
        yield from (path for path in directory.iterdir() if not path.is_dir())


def _mend(uri: str) -> str:
    if urlsplit(uri).path == "/session":
        return "apt-get install libvirt-daemon; libvirt starts the session's daemon itself"
    return "start it: systemctl start libvirtd virtlogd (libvirt-daemon-system brings them)"
