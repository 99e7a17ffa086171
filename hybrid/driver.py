"""The promises that every kind keeps. They are written here, once; drivers do not repeat them.

A driver runs instances of one kind. `Driver` makes them and finds them again; `Instance` is one
running or stopped copy of an image with its writable layer. What only one kind can do (a memory
snapshot, a kernel console) is a protocol of its own beside these two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

if TYPE_CHECKING:
    from hybrid.image import Image, Process
    from hybrid.marks import Marks
    from hybrid.spec import Spec
    from hybrid.store import Record


class Kind(StrEnum):
    """The isolation model."""

    HOST = "host"
    CONTAINER = "container"
    VM = "vm"


class State(StrEnum):
    """Where an instance is in its life."""

    CREATED = "created"
    RUNNING = "running"
    EXITED = "exited"


@dataclass(frozen=True, slots=True)
class Problem:
    """Why this host cannot do something, and what mends it."""

    what: str
    mend: str


@dataclass(frozen=True, slots=True)
class Stdio:
    """The file descriptors that the command's standard streams are joined to.

    They stay the caller's to close. A negative `stdin` means end of file from the start.
    """

    stdin: int
    stdout: int
    stderr: int


@dataclass(frozen=True, slots=True)
class Status:
    """What the host shows of an instance now: never a remembered state that may have passed."""

    state: State
    exit_code: int | None = None
    """The command's exit code (128+n for signal n); None while it runs or when nobody saw it end."""
    pid: int | None = None
    """The host's process: the command itself, or QEMU."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What the host pays for an instance at one moment."""

    cpu_seconds: float
    """CPU time since `start`, of every process on the host that exists because of the instance,
    the launcher's own included."""
    pss_bytes: int
    """Proportional set size, summed over the instance's living processes."""
    private_bytes: int
    """Memory that those processes share with nobody."""
    processes: int
    """How many of them there are."""
    disk_bytes: int
    """Allocated blocks of the instance's own files, the shared image left out."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was seen of the isolation of a running instance; each value read, none assumed."""

    kernel_release: str
    boot_id: str
    """The kernel's random boot identifier: equal to the host's if and only if the kernel is shared."""
    os_name: str
    """PRETTY_NAME of the instance's own os-release, empty when it has none."""
    uid_map: str
    """The command's /proc/self/uid_map, as the kernel that runs it tells."""
    namespaces: Mapping[str, str] = field(default_factory=dict)
    """Namespace name to its link (`mnt` to `mnt:[4026531841]`), as that kernel tells."""
    capabilities: int = 0
    """Effective capability set, as the bit mask of /proc/self/status."""
    seccomp: int = 0
    """Seccomp mode: 0 none, 1 strict, 2 filter."""
    no_new_privs: bool = False
    host_processes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """What confines the engine's own process on the host (QEMU's seccomp mode, user), by its name."""


@dataclass(frozen=True, slots=True)
class Request:
    """All that a driver needs to make an instance."""

    name: str
    spec: Spec
    image: Image
    process: Process
    """The command with the image's config and the spec merged as Docker merges them."""
    marks: Marks


class Instance(Protocol):
    """One copy of an image with its writable layer, in one directory."""

    kind: ClassVar[Kind]

    @property
    def record(self) -> Record:
        """The instance's directory and what is saved in it."""

    @property
    def marks(self) -> Marks:
        """The marks this process saw."""

    def start(self, stdio: Stdio | None) -> None:
        """Start the command and return as soon as the engine's process runs (mark SPAWN).

        With `stdio`, this process is the command's parent in spirit: it must call `wait`, and the
        streams carry exactly the bytes that the command reads and writes. With None the instance is
        detached: it outlives this process, its standard input is empty, and its output goes to
        `stdout.log` and `stderr.log` in its directory. The instance must not be running.
        """

    def wait_entrypoint(self, timeout: float) -> None:
        """Return once the command is executed (mark ENTRYPOINT).

        NotReadyError after `timeout` seconds, or at once when the engine gave up, with its words.
        """

    def wait_ready(self, timeout: float) -> None:
        """Return once the healthcheck has passed (mark READY); without one, with the entrypoint.

        NotReadyError after `timeout` seconds, or when the command ended before it was ready.
        """

    def wait(self, timeout: float | None = None) -> int:
        """The command's exit code, 0 to 255, once it has ended (mark STOP).

        Until then the streams given to `start` are served. NotReadyError after `timeout` seconds.
        """

    def signal(self, number: int) -> None:
        """Send a signal to the command. Nothing happens when it has ended."""

    def stop(self, timeout: float) -> int | None:
        """Send the stop signal, after `timeout` seconds SIGKILL, and return the exit code.

        None when nobody saw the exit code. Works from any process; idempotent.
        """

    def status(self) -> Status:
        """What is true now, as seen on the host."""

    def usage(self) -> Usage:
        """What the running instance has cost until now."""

    def evidence(self) -> Evidence:
        """What is seen of the running instance's isolation."""

    def logs(self) -> tuple[Path, Path]:
        """The files that hold the standard output and error of a detached instance."""

    def destroy(self) -> None:
        """Kill what runs and remove all that the instance left on the host (mark GONE), its directory last.

        Idempotent, and one failing step never keeps the next from being tried. Works from any process.
        """


class Driver(Protocol):
    """Makes and finds the instances of one kind."""

    kind: ClassVar[Kind]

    def problems(self) -> Sequence[Problem]:
        """Why this host cannot run this kind, each with the mend; empty when it can."""

    def warnings(self) -> Sequence[Problem]:
        """What works, but not as well as it could (emulation in place of KVM)."""

    def facts(self) -> Mapping[str, str]:
        """What the kind runs on here, for reports: engine, version, accelerator, kernel."""

    def prepare(self, image: Image) -> int:
        """Make what all instances of an image share (a VM's disk); bytes that it takes on disk.

        Cached by the image's digest and safe in parallel. `create` calls it when nobody did.
        """

    def create(self, request: Request) -> Instance:
        """Make an instance (mark CREATE). All or nothing: on failure every step taken is undone."""

    def open(self, record: Record) -> Instance:
        """Find an instance made by another process."""
