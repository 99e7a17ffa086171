"""The OCI runtime: which one, and its commands."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from container.mounts import hide, private
from hybrid import cgroups, process, usage
from hybrid.errors import CommandError, HostError, HybridError
from hybrid.health import Outcome
from hybrid.store import write_atomically

T = TypeVar("T")

NAMES = ("crun", "runc")
"""Looked for in this order when a spec names none."""

_OUTPUT = 65536
"""Bytes kept of what an executed command writes."""
_NOT_THERE = re.compile(r"not found|no such file|not a directory", re.IGNORECASE)
_NOT_EXECUTABLE = re.compile(r"permission denied|exec format error|is a directory|text file busy", re.IGNORECASE)
_OF_EXECUTION = re.compile(r"\bexec\b|executable|execv", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Runtime:
    """One runtime and the directory in which it keeps its state."""

    path: str
    root: Path

    @property
    def name(self) -> str:
        return Path(self.path).name

    def argv(self, *arguments: str | os.PathLike[str], log: Path | None = None) -> list[str]:
        logging = ["--log", os.fspath(log), "--log-format", "json"] if log is not None else []
        return [self.path, "--root", os.fspath(self.root), *logging, *(os.fspath(argument) for argument in arguments)]

    def version(self) -> str:
        """Its name and version, in its own words."""
        first = process.run([self.path, "--version"]).decode(errors="replace").splitlines()[:1]
        return first[0].strip() if first else self.name

    def filter_file(self, rules: Mapping[str, Any]) -> Path:
        """Where the filter program that this runtime makes of these rules is kept, once it has made one.

        Compiling takes it some 15 ms each time. Only crun shows what it made, and takes it again.
        """
        own = Path(self.path).stat()
        what = json.dumps([rules, self.path, own.st_size, own.st_mtime_ns], sort_keys=True)
        return self.root.parent / f"{hashlib.sha256(what.encode()).hexdigest()}.bpf"

    def keep_filter(self, id: str, file: Path) -> None:
        """Keep the filter program of a running container for later ones with the same rules."""
        with contextlib.suppress(FileNotFoundError):
            if program := (self.root / id / "seccomp.bpf").read_bytes():
                write_atomically(file, program)

    def delete(self, id: str) -> None:
        """Kill what is left of a container and forget it. Nothing happens when it is not known."""
        if (self.root / id).exists():
            in_view(lambda: process.run(self.argv("delete", "--force", id)))

    def execute(self, id: str, spec: dict[str, Any], directory: Path, timeout: float) -> Outcome:
        """Run a process (`process` of config.json) in a container; it is killed after `timeout` seconds."""
        pid_file = directory / "exec.pid"
        pid_file.unlink(missing_ok=True)
        # Files of no name: the runtime gives its streams to the container, to which the host's null device is nothing.
        given, giving, empty = (os.memfd_create(name) for name in ("process", "output", "input"))
        try:
            os.write(given, json.dumps(spec).encode())
            argv = self.argv("exec", "--process", f"/proc/self/fd/{given}", "--pid-file", pid_file, id)
            child = in_view(
                lambda: process.launch(
                    argv, stdin=empty, stdout=giving, stderr=giving, pass_fds=[given], new_session=True
                )
            )
            code = process.bounded(child, timeout, lambda: _kill(pid_file))
            output = os.pread(giving, _OUTPUT, max(0, os.fstat(giving).st_size - _OUTPUT))
            return Outcome(code, output.decode(errors="replace"))
        finally:
            bury()
            for descriptor in (given, giving, empty):
                os.close(descriptor)


def _kill(pid_file: Path) -> None:
    """Kill the process that an exec has made in the container; its runtime then ends by itself."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        pid = int(pid_file.read_text())
        process.send_signal(pid, process.start_time(pid))


def bury() -> None:
    """Kill and reap children of ours that live in a pid namespace without being its first process.

    They are what an exec leaves to its adopter when its runtime ends before it. A namespace ends only
    when all in it are reaped, so one of these would keep its container from ever ending.
    """
    for pid in usage.children():
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{pid}/status").read_text()
            inner = next(line.split()[2:] for line in status.splitlines() if line.startswith("NSpid:"))
            if inner and inner[-1] != "1":
                os.kill(pid, signal.SIGKILL)  # cannot be another's: a child's pid is not used again before it is reaped
                os.waitpid(pid, 0)


def choose(name: str | None, state: Path) -> Runtime:
    """The runtime that a spec names, or the first of those known; HostError when there is none."""
    for candidate in (name,) if name else NAMES:
        if path := process.find(candidate):
            return Runtime(path, state / Path(path).name)
    missing, package = name or " or ".join(NAMES), Path(name or NAMES[0]).name
    raise HostError(f"no OCI runtime: {missing} is not installed", mend=f"apt-get install {package}")


def in_view(work: Callable[[], T]) -> T:
    """The result of `work`, run where runtimes find control groups laid out as they know them.

    Some refuse v1 hierarchies with a v2 tree beside them, so there that tree is hidden from them.
    """
    if (idle := cgroups.tree().idle) is None:
        return work()

    def hidden() -> T:
        hide(idle)
        return work()

    return private(hidden)


def failure(runtime: Runtime, log: Path, command: str, *, executing: bool = False) -> HybridError:
    """What a runtime that failed wrote to its log: about the command, if it could not be executed.

    `executing`: it is known that the command was what failed, whatever the words.
    """
    words = last_words(log.read_text(errors="replace") if log.exists() else "")
    if executing and not words:
        return CommandError(f"{command}: the kernel refuses to execute it", exit_code=126)
    if executing or _OF_EXECUTION.search(words):
        if _NOT_EXECUTABLE.search(words):
            return CommandError(f"{command}: cannot be executed ({words})", exit_code=126)
        if _NOT_THERE.search(words):
            return CommandError(f"{command}: not found ({words})", exit_code=127)
    return HybridError(f"{runtime.name} could not start the container: {words or 'it did not say why'}")


def last_words(log: str) -> str:
    """The last error in a runtime's log of JSON lines."""
    words = ""
    for line in log.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            words = line.strip() or words
        else:
            if entry.get("level") in ("error", "fatal"):
                words = str(entry.get("msg", "")).strip() or words
    return words


def exec_spec(config: dict[str, Any], argv: Sequence[str]) -> dict[str, Any]:
    """The `process` of a container's config.json, with another command."""
    return {**config["process"], "args": list(argv)}
