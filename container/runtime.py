"""The OCI runtime: which one, and its commands."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from container.mounts import hide, private
from container.streams import own_null
from hybrid import cgroups, process
from hybrid.errors import CommandError, HostError, HybridError, InstanceError
from hybrid.home import ordinary_user
from hybrid.store import write_atomically

T = TypeVar("T")

NAMES = ("crun", "runc")
"""Looked for in this order when a spec names none."""

_NOT_THERE = re.compile(r"not found|no such file|not a directory", re.IGNORECASE)
_NOT_EXECUTABLE = re.compile(r"permission denied|exec format error|is a directory|text file busy", re.IGNORECASE)
_GONE = re.compile(r"does not exist|is not running|not running|stopped container|no such process", re.IGNORECASE)
_OF_EXECUTION = re.compile(r"\bexec\b|executable|execv", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Runtime:
    """One runtime and the directory in which it keeps its state."""

    path: str
    root: Path

    @property
    def name(self) -> str:
        return Path(self.path).name

    def argv(self, *arguments: str | os.PathLike[str], log: str | Path | None = None) -> list[str]:
        logging = ["--log", os.fspath(log), "--log-format", "json"] if log is not None else []
        groups = [] if cgroups.tree().usable or self.name != "crun" else ["--cgroup-manager=disabled"]
        options = ["--root", os.fspath(self.root), *groups, *logging]
        return [self.path, *options, *(os.fspath(argument) for argument in arguments)]

    def version(self) -> str:
        """Its name and version, in its own words."""
        first = process.run([self.path, "--version"]).decode(errors="replace").splitlines()[:1]
        return first[0].strip() if first else self.name

    def filter_file(self, rules: Mapping[str, Any]) -> Path:
        """Where the filter program that this runtime makes of these rules is kept, once it has made one.

        Compiling takes it some 15 ms each time. Only crun shows what it made, and takes it again.
        """
        import hashlib

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


def choose(name: str | None, state: Path) -> Runtime:
    """The runtime that a spec names, or the first of those known; HostError when there is none."""
    for candidate in (name,) if name else NAMES:
        if path := process.find(candidate):
            return Runtime(path, state / Path(path).name)
    missing, package = name or " or ".join(NAMES), Path(name or NAMES[0]).name
    raise HostError(f"no OCI runtime: {missing} is not installed", mend=f"apt-get install {package}")


def in_view(work: Callable[[], T], at: Path | None = None) -> T:
    """The result of `work`, run where runtimes find control groups laid out as they know them.

    Some refuse v1 hierarchies with a v2 tree beside them, so there that tree is hidden from them. With `at`, a
    directory, the null device that they find is not the host's: they give it away with a command's streams.
    """
    cgroups.join()
    idle, own = cgroups.tree().idle, at is not None and ordinary_user() is None
    if idle is None and not own:
        return work()

    def hidden() -> T:
        if idle is not None:
            hide(idle)
        if own and at is not None:
            own_null(at)
        return work()

    return private(hidden)


def failure(runtime: Runtime, log: Path, command: str, *, executing: bool = False) -> HybridError:
    """What a runtime that failed wrote to its log: about the command, if it could not be executed.

    `executing`: it is known that the command was what failed, whatever the words.
    """
    words = last_words(log.read_text(errors="replace") if log.exists() else "")
    if executing and not words:
        return CommandError(f"{command}: the kernel refuses to execute it", exit_code=126)
    if (executing or _OF_EXECUTION.search(words)) and (error := _of_command(words, command)):
        return error
    return HybridError(f"{runtime.name} could not start the container: {words or 'it did not say why'}")


def exec_failure(runtime: Runtime, log: str, command: str) -> HybridError | None:
    """The same of a runtime's exec; None when it wrote no error: then the program is what failed."""
    words = last_words(log)
    if not words:
        return None
    if _GONE.search(words):
        return InstanceError(f"{command}: the container has ended ({words})")
    return _of_command(words, command) or HybridError(f"{runtime.name} could not execute {command}: {words}")


def _of_command(words: str, command: str) -> CommandError | None:
    if _NOT_EXECUTABLE.search(words):
        return CommandError(f"{command}: cannot be executed ({words})", exit_code=126)
    if _NOT_THERE.search(words):
        return CommandError(f"{command}: not found ({words})", exit_code=127)
    return None


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


def exec_spec(config: Mapping[str, Any], argv: Sequence[str]) -> dict[str, Any]:
    """The `process` of a container's config.json, with another command."""
    return {**config["process"], "args": list(argv), "terminal": False}


def privileges(uid: int, bounding: Sequence[str]) -> dict[str, list[str]]:
    """The capabilities of a process of this user: root has all that are to be had, others may gain them."""
    held = list(bounding) if uid == 0 else []
    return {"bounding": list(bounding), "effective": held, "permitted": held}


def environment(env: Mapping[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in env.items()]
