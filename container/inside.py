"""Access to the inside of a container, or of a command of kind host: programs, processes, files."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from container.launched import Launched
from container.records import saved_process
from container.runtime import environment, privileges
from container.session import ContainerSession, FailedSession
from container.streams import null_of
from hybrid import executable, tree
from hybrid.driver import Execution, FileStatus, InsideProcess, Session, Stdio
from hybrid.errors import CommandError, ImageError
from hybrid.image import DEFAULT_PATH, Process
from hybrid.mounts import closing
from hybrid.store import locked

if TYPE_CHECKING:
    from container.instance import ContainerInstance
    from container.local import LocalInstance

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ids:
    """How ids of the instance stand for the host's: the `size` from 0 are those from `base`."""

    base: int = 0
    size: int = 2**32 - 1

    def inside(self, id: int) -> int:
        """A host's id as the instance sees it: that of nobody when it has none there."""
        return id - self.base if self.base <= id < self.base + self.size else 65534

    def outside(self, id: int) -> int | None:
        """The host's id for one of the instance's; None when it can have no such id."""
        return self.base + id if id < self.size else None


class LocalInside(ABC):
    """See `hybrid.driver.Inside`. Files are reached through the command's own root directory."""

    def __init__(self, instance: LocalInstance, ids: Ids) -> None:
        self._instance = instance
        self._ids = ids

    # ---- programs ------------------------------------------------------------------------

    def exec(self, execution: Execution, stdio: Stdio) -> Session:
        pid = self._instance.running_or_raise()
        try:
            program = resolve(execution, saved_process(self._instance.record), Path(f"/proc/{pid}/root"), self._ids)
        except CommandError as error:
            return FailedSession(error)
        return self._execute(program, execution, stdio, pid)

    @abstractmethod
    def _execute(self, program: Process, execution: Execution, stdio: Stdio, pid: int) -> Session:
        """Start a program beside the command, which is process `pid`."""

    # ---- processes -----------------------------------------------------------------------

    def processes(self) -> Sequence[InsideProcess]:
        from container.processes import look
        from hybrid import accounts

        pid = self._instance.running_or_raise(paused=True)
        names = accounts.names(Path(f"/proc/{pid}/root"))
        return look(self._instance.cgroup.pids(), names, self._ids)

    # ---- files ---------------------------------------------------------------------------

    def stat(self, path: str) -> FileStatus:
        from container.pack import status

        return self._in_root(lambda root: status(root, path))

    def pack(self, path: str, sink: int) -> None:
        from container.pack import Packer

        self._in_root(lambda root: Packer(root, sink, self._ids, self._pseudo()).pack(path))

    def unpack(self, directory: str, source: int) -> None:
        from container.unpack import unpack

        self._in_root(lambda root: unpack(root, directory, source, self._ids))

    def _in_root(self, work: Callable[[int], T]) -> T:
        """The result of `work` with a descriptor of the root directory, as the command sees it if it runs."""
        with suppress(FileNotFoundError):  # it has ended a moment ago
            if (pid := self._instance.running_pid()) is not None:
                return _with_directory(f"/proc/{pid}/root", work)
        with locked(self._instance.directory / "lock"):  # it cannot start meanwhile: a layer is mounted once
            self._instance.refresh()
            if (pid := self._instance.running_pid()) is not None:
                return _with_directory(f"/proc/{pid}/root", work)
            return self._instance.in_mounted_root(lambda path: _with_directory(str(path), work))

    def _pseudo(self) -> frozenset[int]:
        """The devices of file systems that hold no files: what the running instance sees of the kernel."""
        if (pid := self._instance.running_pid()) is None:
            return frozenset()
        from container.pack import pseudo

        return pseudo(Path(f"/proc/{pid}/mountinfo").read_text(errors="surrogateescape"))


def _with_directory(path: str, work: Callable[[int], T]) -> T:
    root = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return work(root)
    finally:
        os.close(root)


class ContainerInside(LocalInside):
    """By the OCI runtime: the same namespaces, control group, filter and privileges as the command's."""

    def __init__(self, instance: ContainerInstance, ids: Ids) -> None:
        super().__init__(instance, ids)
        self._container = instance

    def _execute(self, program: Process, execution: Execution, stdio: Stdio, pid: int) -> Session:
        directory = self._instance.directory
        own = json.loads((directory / "config.json").read_bytes())["process"]
        user = {"uid": program.uid, "gid": program.gid, "additionalGids": list(program.groups)}
        spec = {
            **own,
            "args": list(program.argv),
            "cwd": program.cwd,
            "env": environment(program.env),
            "user": own["user"] | user,
            "capabilities": privileges(program.uid, own["capabilities"]["bounding"]),
            "terminal": execution.terminal is not None,
        }
        if (size := execution.terminal) is not None:
            spec["consoleSize"] = {"height": size.rows, "width": size.columns}
        null = _with_directory(f"/proc/{pid}/root", null_of)
        with closing(null):
            launched = Launched(self._container.runtime, self._instance.record.id, directory, spec, stdio, null)
        return ContainerSession(launched, stdio, execution.terminal)


def resolve(execution: Execution, command: Process, root: Path, ids: Ids) -> Process:
    """What to execute: the command's own settings, the execution's over them, names looked up in the live root.

    CommandError when the program, the user or the directory is not there.
    """
    if not execution.argv or not execution.argv[0] or any("\0" in word for word in execution.argv):
        raise CommandError("an empty word is no command", exit_code=127, mend="name a program")
    program = replace(
        command, argv=execution.argv, cwd=execution.cwd or command.cwd, env={**command.env, **execution.env}
    )
    if execution.user is not None:
        program = _as_user(program, execution, command, root)
    if execution.terminal is not None and "TERM" not in program.env:
        program = replace(program, env={**program.env, "TERM": "xterm"})
    _check_directory(root, program.cwd)
    return replace(program, executable=_find(root, program, ids))


def _as_user(program: Process, execution: Execution, command: Process, root: Path) -> Process:
    from hybrid import accounts

    try:
        account = accounts.lookup(root, execution.user or "")
    except ImageError as error:
        raise CommandError(error.what.replace("the image", "the instance"), exit_code=126, mend=error.mend) from None
    env = dict(program.env)
    if "HOME" not in execution.env and env.get("HOME") == accounts.lookup(root, str(command.uid)).home:
        env["HOME"] = account.home  # nobody chose the command's: it is its user's
    return replace(program, uid=account.uid, gid=account.gid, groups=account.groups, env=env)


def _check_directory(root: Path, path: str) -> None:
    try:
        tree.status(root, f"{path}/.")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "no such directory"
        raise CommandError(f"the working directory {path}: {why}", exit_code=126, mend="choose another") from None


def _find(root: Path, program: Process, ids: Ids) -> str:
    uid = program.uid if program.uid == 0 else ids.base + program.uid
    groups = [ids.base + gid for gid in (program.gid, *program.groups)]
    path = program.env.get("PATH", DEFAULT_PATH)
    try:
        return executable.find(root, program.argv[0], path, program.cwd, uid, groups)
    except CommandError as error:
        what = error.what.replace("in the image", "in the instance")
        raise CommandError(what, exit_code=error.exit_code, mend=error.mend.replace("image", "instance")) from None
