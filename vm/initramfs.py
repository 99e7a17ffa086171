"""The initramfs: our init, the modules it loads, and the description of one command.

A pure function writes the archive (the kernel's "newc" cpio, Documentation/driver-api/early-userspace/
buffer-format.rst); only the init's binary, compiled once from init.c, comes from outside.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hybrid.defaults import hosts
from hybrid.errors import HostError, ToolError
from hybrid.home import Home
from hybrid.image import Process
from hybrid.process import need, run
from hybrid.store import locked

SOURCE = Path(__file__).with_name("init.c")
COMPILE = ("-std=gnu11", "-Os", "-static", "-s", "-Wl,--gc-sections", "-ffunction-sections")


@dataclass(frozen=True, slots=True)
class Entry:
    """One file or folder of the archive."""

    name: str
    mode: int
    data: bytes = b""


def init_binary(home: Home) -> bytes:
    """The compiled init, from the cache when its source and flags are unchanged."""
    source = SOURCE.read_bytes()
    cache = home.cache / "init"
    cache.mkdir(parents=True, exist_ok=True)
    binary = cache / hashlib.sha256(source + repr(COMPILE).encode()).hexdigest()[:16]
    if not binary.exists():
        with locked(cache / "lock"), tempfile.TemporaryDirectory(dir=cache) as folder:
            made = Path(folder) / "init"
            try:
                run([need("gcc"), *COMPILE, "-o", made, SOURCE])
            except ToolError as error:
                raise HostError(
                    f"the guest's init does not compile: {error.what}", mend="apt-get install gcc libc6-dev"
                ) from None
            made.rename(binary)
    return binary.read_bytes()


def archive(entries: Iterable[Entry]) -> bytes:
    """The newc cpio archive of the entries, in their order, all owned by root and without times."""
    out = bytearray()
    for number, entry in enumerate([*entries, Entry("TRAILER!!!", 0)], 1):
        name = entry.name.encode() + b"\0"
        fields = (number, entry.mode, 0, 0, 1, 0, len(entry.data), 0, 0, 0, 0, len(name), 0)
        out += b"070701" + b"".join(b"%08X" % field for field in fields) + name
        out += bytes(-len(out) % 4) + entry.data
        out += bytes(-len(out) % 4)
    return bytes(out)


def base(init: bytes, modules: Sequence[bytes], drivers: Sequence[bytes] = ()) -> bytes:
    """The part that all instances share. The kernel reads archives one after the other.

    The init must be able to load each of the modules; a driver may refuse.
    """
    return archive(
        [
            Entry("init", 0o100755, init),
            *_numbered("modules", modules),
            *_numbered("drivers", drivers),
        ]
    )


def _numbered(folder: str, files: Sequence[bytes]) -> Iterable[Entry]:
    yield Entry(folder, 0o40755)
    for number, data in enumerate(files):
        yield Entry(f"{folder}/{number:02}.ko", 0o100644, data)


def instance(process: Process, *, has_stdin: bool = False, partition: str | None = None) -> bytes:
    """The part that describes one instance's command. With a partition it runs standalone: see init.c."""
    return archive(
        [
            Entry("config", 0o100600, config(process, has_stdin=has_stdin, partition=partition)),
            Entry("etc", 0o40755),
            Entry("etc/hostname", 0o100644, f"{process.hostname}\n".encode()),
            Entry("etc/hosts", 0o100644, hosts(process.hostname).encode()),
        ]
    )


def config(process: Process, *, has_stdin: bool = False, partition: str | None = None) -> bytes:
    """The command as NUL-terminated `key=value` strings, which init.c reads.

    No value holds a NUL (the spec and the OCI config refuse it), so none can pose as another key.
    """
    pairs: list[tuple[str, str]] = [
        *([("disk", "/dev/vda")] if partition is None else _standalone(process, partition)),
        ("hostname", process.hostname),
        ("executable", process.executable),
        ("cwd", process.cwd),
        ("uid", str(process.uid)),
        ("gid", str(process.gid)),
        ("stdin", "1" if has_stdin else "0"),
        *(("group", str(group)) for group in process.groups),
        *(("arg", argument) for argument in process.argv),
        *(("env", f"{key}={value}") for key, value in process.env.items()),
    ]
    if (check := process.healthcheck) is not None:
        pairs += [
            ("probe_interval", str(round(check.start_interval * 1000))),
            ("probe_timeout", str(round(check.timeout * 1000))),
            *(("probe", argument) for argument in check.test),
        ]
    for key, value in pairs:
        if "\0" in value:
            raise HostError(f"a NUL byte in {key} cannot be passed to a command", mend="remove it from the spec")
    return b"".join(f"{key}={value}".encode(errors="surrogateescape") + b"\0" for key, value in pairs)


def _standalone(process: Process, partition: str) -> list[tuple[str, str]]:
    """What the host would say to a guest of its own: where its root is, and how its command is stopped."""
    return [
        ("standalone", "1"),
        ("partition", partition),
        ("stop_signal", str(process.stop_signal)),
        ("stop_timeout", str(round(process.stop_timeout * 1000))),
    ]
