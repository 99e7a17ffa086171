"""The lab host: a whole Debian machine under QEMU, whose emulated CPU has AMD's virtualisation.

TCG emulates SVM, so `/dev/kvm` inside it is real KVM for the guests that it boots. The way in is SSH over
a virtio port: no network, and the machine says by itself when it is up.
"""

from __future__ import annotations

import contextlib
import ctypes
import shlex
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen

import paramiko

from hybrid.process import DEVNULL, need, run, spawn
from tests.lab.disk import Disk

BOOT_TIMEOUT = 240.0
PR_SET_PDEATHSIG = 1
SSHD = """\
HostKey /lab/host_key
AuthorizedKeysFile /lab/authorized_keys
StrictModes no
UsePAM no
"""


class LabError(Exception):
    """The lab host did not do what it was asked, with the end of its console."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a command in the lab host ended with."""

    exit_code: int
    stdout: str
    stderr: str


@dataclass(frozen=True, slots=True)
class Lab:
    """A booted lab host."""

    transport: paramiko.Transport
    console: Path

    def run(self, *argv: str, timeout: float = 120.0) -> Result:
        """Run a command as root and wait for its end; LabError after `timeout` seconds."""
        late = threading.Event()
        with contextlib.closing(self.transport.open_session()) as channel:

            def give_up() -> None:
                late.set()
                channel.close()

            timer = threading.Timer(timeout, give_up)
            timer.start()
            try:
                channel.exec_command(shlex.join(argv))
                stdout = channel.makefile("rb").read()
                stderr = channel.makefile_stderr("rb").read()
                exit_code = channel.recv_exit_status()
            finally:
                timer.cancel()
        if late.is_set() or exit_code < 0:
            what = f"{shlex.join(argv)} did not end within {timeout:g} s"
            raise LabError(f"{what}\n{stderr.decode(errors='replace')}\n{tail(self.console)}")
        return Result(exit_code, stdout.decode(errors="replace"), stderr.decode(errors="replace"))


@contextmanager
def booted(disk: Disk, payload: Path, folder: Path) -> Iterator[Lab]:
    """A lab host with the files of `payload` in its /lab; when the block ends, it is gone.

    Its own writes go to an overlay in `folder`.
    """
    keys = paramiko.ECDSAKey.generate(), paramiko.ECDSAKey.generate()
    with ExitStack() as stack:
        ours, theirs = socket.socketpair()
        stack.enter_context(ours)
        with theirs, (folder / "qemu.log").open("wb") as log:
            argv = command_line(disk, payload_disk(payload, folder, *keys), folder, theirs.fileno())
            child = stack.enter_context(
                spawn(argv, stdout=DEVNULL, stderr=log, pass_fds=[theirs.fileno()], setup=die_with_parent)
            )
        transport = paramiko.Transport(ours)
        stack.callback(transport.close)
        log_in(transport, keys, child, folder / "console.log")
        yield Lab(transport, folder / "console.log")


def log_in(
    transport: paramiko.Transport, keys: tuple[paramiko.PKey, paramiko.PKey], child: Popen[bytes], console: Path
) -> None:
    """Wait for the machine to answer, make sure that it is ours, and log in as root."""
    transport.banner_timeout = BOOT_TIMEOUT
    transport.handshake_timeout = 60
    transport.auth_timeout = 60
    try:
        transport.start_client(timeout=BOOT_TIMEOUT)
        assert transport.get_remote_server_key().asbytes() == keys[0].asbytes()
        transport.auth_publickey("root", keys[1])
    except (paramiko.SSHException, OSError, EOFError) as error:
        state = "runs" if child.poll() is None else f"exited: {tail(console.with_name('qemu.log'))}"
        raise LabError(f"no login within {BOOT_TIMEOUT:g} s: {error}; QEMU {state}\n{tail(console)}") from None


def payload_disk(payload: Path, folder: Path, host: paramiko.PKey, client: paramiko.PKey) -> Path:
    """A read-only disk of the files in `payload`, and of what sshd needs."""
    (payload / "sshd_config").write_text(SSHD)
    (payload / "authorized_keys").write_text(f"{client.get_name()} {client.get_base64()}\n")
    host.write_private_key_file(str(payload / "host_key"))
    image = folder / "payload.raw"
    run([need("mke2fs", "e2fsprogs"), "-q", "-t", "ext4", "-E", "root_owner=0:0", "-d", payload, image, "512M"])
    return image


def command_line(disk: Disk, payload: Path, folder: Path, channel: int) -> list[str]:
    """QEMU's command line; `channel` is its end of the socket pair that SSH goes over."""
    overlay = folder / "overlay.qcow2"
    run([need("qemu-img", "qemu-utils"), "create", "-q", "-f", "qcow2", "-F", "raw", "-b", disk.image, overlay])
    return [
        *(need("qemu-system-x86_64", "qemu-system-x86"), "-nodefaults", "-no-user-config", "-display", "none"),
        *("-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "4096", "-no-reboot"),
        *("-kernel", str(disk.kernel), "-initrd", str(disk.initrd)),
        *("-append", "root=/dev/vda rw console=ttyS0 panic=-1 systemd.show_status=false"),
        *("-drive", f"file={overlay},format=qcow2,if=virtio,cache=unsafe"),
        *("-drive", f"file={payload},format=raw,if=virtio,readonly=on"),
        *("-serial", f"file:{folder / 'console.log'}", "-device", "virtio-rng-pci", "-device", "virtio-serial-pci"),
        *("-chardev", f"socket,id=ssh,fd={channel}", "-device", "virtserialport,chardev=ssh,name=lab"),
    ]


def die_with_parent() -> None:
    """Have the kernel kill this process when the one that started it ends, however that happens."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def tail(console: Path, lines: int = 40) -> str:
    """The last lines of the console."""
    return "\n".join(console.read_text(errors="replace").splitlines()[-lines:])
