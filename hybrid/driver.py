"""The promises that every kind keeps. They are written here, once; drivers do not repeat them.

A driver runs instances of one kind. `Driver` makes them and finds them again; `Instance` is one
running or stopped copy of an image with its writable layer. What only one kind can do (a memory
snapshot, a kernel console) is a protocol of its own beside these two.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
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
    PAUSED = "paused"
    EXITED = "exited"


class Health(StrEnum):
    """What the healthcheck says of a running instance, with Docker's meaning."""

    STARTING = "starting"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


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
    started: float | None = None
    """When the last run began, in seconds since the epoch; None when there was none."""
    finished: float | None = None
    """When it ended, likewise."""
    oom_killed: bool = False
    """The kernel ended a process of the last run for want of memory."""
    health: Health | None = None
    """None without a healthcheck, and when nothing runs."""


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
class Stats:
    """What a running instance uses now, cheap to read: of its control group and its network interface."""

    cpu_seconds: float
    """Since the start; a rate is the difference of two."""
    memory_bytes: int
    """What counts against the limit, file cache that can be dropped left out."""
    memory_limit: int | None
    """None: no limit of its own."""
    processes: int
    """How many the host sees; of a VM, QEMU's threads' process."""
    received_bytes: int = 0
    """By the instance, over its network."""
    sent_bytes: int = 0
    read_bytes: int = 0
    """From block devices."""
    written_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Size:
    """A terminal's."""

    rows: int
    columns: int


@dataclass(frozen=True, slots=True)
class Execution:
    """A program to be executed in a running instance, beside its command."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    """Over the command's own environment."""
    cwd: str | None = None
    """The command's own if None."""
    user: str | None = None
    """`name[:group]` or `uid[:gid]`, looked up in the instance as it is now; the command's own if None."""
    terminal: Size | None = None
    """With one, the program's three streams are one terminal of this size, and `Stdio.stderr` is not used."""


class Session(Protocol):
    """A program that `Inside.exec` has started; whoever has it must call `wait`."""

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, 0 to 255, once the program has ended and all its output was passed on.

        Until then the streams are served. CommandError (126, 127) when it could not be executed,
        NotReadyError after `timeout` seconds.
        """

    def signal(self, number: int) -> None:
        """Send the program a signal. Safe from any thread; nothing happens when it has ended."""

    def resize(self, size: Size) -> None:
        """Give the program's terminal another size, if it has one. Safe from any thread."""

    def close(self) -> None:
        """Kill the program if it runs, and release what the session holds. Idempotent."""


@dataclass(frozen=True, slots=True)
class InsideProcess:
    """A process as the instance's own kernel view shows it."""

    pid: int
    """As the command sees it: the command is 1."""
    parent: int
    user: str
    """Name in the instance's passwd, else the number."""
    started: float
    """Seconds since the instance's own boot or, for a shared kernel, the host's."""
    cpu_seconds: float
    resident_bytes: int
    command: str
    """Arguments joined by blanks, or the name in brackets."""


@dataclass(frozen=True, slots=True)
class FileStatus:
    """What a path in an instance names; links are not followed."""

    mode: int
    """Type and permission bits, as stat(2) has them."""
    size: int
    modified: float
    """Seconds since the epoch."""
    target: str = ""
    """Of a symbolic link."""


class Inside(Protocol):
    """Access to the inside of an instance. It lands where the command lives, in its namespaces or its guest."""

    def exec(self, execution: Execution, stdio: Stdio) -> Session:
        """Execute a program. The instance must be running, and not paused: else InstanceError.

        The streams stay the caller's, and carry exactly the program's bytes. Many may run at once.
        """

    def processes(self) -> Sequence[InsideProcess]:
        """All processes of the running instance, those of `exec` included."""

    def stat(self, path: str) -> FileStatus:
        """What is at an absolute path. FileNotFoundError, NotADirectoryError as of the instance.

        This and the next two work whether the instance runs or not. Links in the path are resolved
        in the instance's own root and never lead out of it.
        """

    def pack(self, path: str, sink: int) -> None:
        """Write what is at a path, with all below it, as a tar archive (PAX) to a file descriptor.

        Members are named by the path's last part; owners are numbers as the instance sees them.
        """

    def unpack(self, directory: str, source: int) -> None:
        """Unpack a tar archive from a file descriptor into a directory of the instance, which must exist.

        Owners as in the archive. OSError or HybridError when something could not be written.
        """


@dataclass(frozen=True, slots=True)
class LogPart:
    """A piece of what a detached command wrote: one line, or the part of one that was written so far."""

    stream: int
    """1 for standard output (and a terminal), 2 for standard error."""
    data: bytes
    time: float | None
    """When it was written, in seconds since the epoch; None where the kind cannot tell."""


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
        detached: it outlives this process, its standard input is empty (open, and nothing in it yet,
        with `stdin_open`), and its output goes to its logs. The instance must not be running.

        With the process's `tty` the command's three streams are one terminal; what it writes there is
        `stdout`. It may be started again after it has ended: on the same writable layer, as Docker does.
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

    def attach(self, stdio: Stdio) -> None:
        """Join streams to the command of a running instance that was started detached; then call `wait`.

        Its output from now on comes out of them. Its input is fed from them if it was made with
        `stdin_open`, and ends when they end; else it is empty and stays so.
        """

    def signal(self, number: int) -> None:
        """Send a signal to the command. Nothing happens when it has ended."""

    def resize(self, size: Size) -> None:
        """Give the command's terminal another size, if it has one. Safe from any thread."""

    def pause(self) -> None:
        """Let nothing of the instance run until `unpause`, `signal` with SIGKILL, `stop` or `destroy`.

        InstanceError when it is not running, or paused already.
        """

    def unpause(self) -> None:
        """Let a paused instance run on. InstanceError when it is not paused."""

    def stop(self, timeout: float) -> int | None:
        """Send the stop signal, after `timeout` seconds SIGKILL, and return the exit code.

        None when nobody saw the exit code. Works from any process; idempotent. A paused instance is
        unpaused for it.
        """

    def status(self) -> Status:
        """What is true now, as seen on the host."""

    def usage(self) -> Usage:
        """What the running instance has cost until now."""

    def stats(self) -> Stats:
        """What the running instance uses now. InstanceError when it does not run."""

    @property
    def inside(self) -> Inside:
        """Access to its inside."""

    def evidence(self) -> Evidence:
        """What is seen of the running instance's isolation."""

    def log(self, *, follow: bool = False) -> Iterator[LogPart]:
        """What the command of a detached instance wrote, of all its runs, in the order in which it was written.

        With `follow` it goes on, woken by events, until the command has ended. Works from any process.
        """

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
