"""The monitor of a detached command: conmon, its parent.

It notes the exit code, writes what the command says to a log with times, and holds its input and terminal.
It makes the command by a runtime: an OCI runtime, or for the kind host a program of ours that takes the same
words. Input, the terminal's size and the end of input come through a socket and a pipe in the directory.
"""

from __future__ import annotations

import json
import os
import select
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hybrid import process
from hybrid.errors import NotReadyError

_PATIENCE = 60.0
"""Seconds that a runtime may take to make a detached command."""
_RESIZE = 1


@dataclass(frozen=True, slots=True)
class Conmon:
    """The monitor of the instance with this id and directory."""

    directory: Path
    id: str

    @property
    def exit_file(self) -> Path:
        return self.directory / "exit" / self.id

    @property
    def log(self) -> Path:
        return self.directory / "output.log"

    @property
    def pid_file(self) -> Path:
        return self.directory / "pid"

    def pid(self) -> int:
        """Its own pid, once it has told the command's."""
        return int((self.directory / "conmon.pid").read_text())

    def launch(self, runtime: Sequence[str], *, tty: bool, stdin: bool) -> tuple[process.Child, int]:
        """Start it. The child ends at once when all is well; a pipe, to be closed by the caller, tells the rest."""
        self.exit_file.parent.mkdir(exist_ok=True)
        told, telling = os.pipe2(os.O_CLOEXEC)
        try:
            env = {"PATH": os.environ.get("PATH", os.defpath), "_OCI_SYNCPIPE": str(telling)}
            argv = self._argv(runtime, tty=tty, stdin=stdin)
            child = process.launch(
                argv,
                stdout=process.DEVNULL,
                stderr=process.DEVNULL,
                env=env,
                cwd=self.directory,
                pass_fds=[telling],
                new_session=True,
            )
        except BaseException:
            os.close(told)
            raise
        finally:
            os.close(telling)
        return child, told

    def _argv(self, runtime: Sequence[str], *, tty: bool, stdin: bool) -> list[str]:
        id, directory = self.id, self.directory
        options = [
            *("--api-version", "1", "--cid", id, "--cuuid", id, "--name", id, "--runtime", runtime[0]),
            *("--bundle", str(directory), "--container-pidfile", str(self.pid_file)),
            *("--conmon-pidfile", str(directory / "conmon.pid"), "--exit-dir", str(self.exit_file.parent)),
            # A path relative to its working directory: a colon in it would be taken for one of its own.
            *("--log-path", f"k8s-file:{self.log.name}", "--full-attach", "--no-sync-log"),
        ]
        if stdin:
            options.append("--stdin")
        if tty:  # it closes the whole terminal where it would close a pipe
            options += ["--terminal", "--leave-stdin-open"]
        return [process.need("conmon"), *options, *(f"--runtime-arg={argument}" for argument in runtime[1:])]

    def told_pid(self, told: int) -> int | None:
        """The command's pid as conmon tells it; None when the runtime has failed."""
        poller = select.poll()
        poller.register(told, select.POLLIN)
        if not poller.poll(_PATIENCE * 1000):
            raise NotReadyError(f"the command was not made within {_PATIENCE:g} s", phase="spawn")
        words = os.read(told, 65536)
        pid = int(json.loads(words.splitlines()[0]).get("data", -1)) if words else -1
        return pid if pid > 0 else None

    def resize(self, rows: int, columns: int) -> None:
        """Give the terminal that it holds a size."""
        try:
            control = os.open(self.directory / "ctl", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return  # it has ended
        try:
            os.write(control, b"%d %d %d\n" % (_RESIZE, rows, columns))
        finally:
            os.close(control)
