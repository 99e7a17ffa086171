"""A program that an OCI runtime's exec starts in a container, and the files through which it tells how that went."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from container.runtime import exec_failure, in_view
from container.streams import Lent, without_null
from hybrid import process
from hybrid.driver import Stdio
from hybrid.store import new_id

if TYPE_CHECKING:
    from pathlib import Path

    from container.runtime import Runtime
    from container.terminal import ConsoleSocket, Terminal
    from hybrid.driver import Size


class Launched:
    """A runtime's exec that has been started, and the files through which it tells how it went."""

    def __init__(
        self, runtime: Runtime, id: str, directory: Path, spec: Mapping[str, Any], stdio: Stdio, null: int
    ) -> None:
        """`null` is a null device that the container may have."""
        process.become_subreaper()  # for what a runtime leaves that fails
        token = new_id()
        self.command = str(spec["args"][0])
        self.console: ConsoleSocket | None = None
        self.detached = bool(spec["terminal"]) and runtime.name != "crun"
        """Whether the runtime ends when it has made the program: others than crun give terminals only so."""
        self._runtime = runtime
        self._directory = directory
        self._pid_file = directory / f"exec-{token}.pid"
        self._log = os.memfd_create("log")
        self._lent: Lent | None = None
        given = os.memfd_create("process")
        try:
            options = self._options(spec, given, token)
            argv = runtime.argv("exec", *options, id, log=f"/proc/self/fd/{self._log}")
            streams = without_null(stdio if self.console is None else Stdio(-1, -1, -1), null)
            self._lent = Lent(streams)
            self.child = in_view(
                lambda: process.launch(
                    argv,
                    stdin=streams.stdin,
                    stdout=streams.stdout,
                    stderr=streams.stderr,
                    pass_fds=[given, self._log],
                    new_session=True,
                )
            )
        except BaseException:
            self.release()
            raise
        finally:
            os.close(given)

    def _options(self, spec: Mapping[str, Any], given: int, token: str) -> list[str]:
        os.write(given, json.dumps(spec).encode())
        options = ["--process", f"/proc/self/fd/{given}", "--pid-file", str(self._pid_file)]
        if spec["terminal"]:
            from container.terminal import ConsoleSocket

            self.console = ConsoleSocket(self._directory, f"exec-{token}.tty")
            options += ["--tty", "--console-socket", self.console.path, *(["--detach"] if self.detached else [])]
        return options

    def wait_pid(self, ended: int) -> int | None:
        """The program's pid, once it is there; None when the runtime has ended before."""
        from inotify_simple import INotify, flags

        with INotify() as notify:
            notify.add_watch(str(self._directory), flags.CREATE | flags.MODIFY | flags.MOVED_TO | flags.CLOSE_WRITE)
            while not process.ended(ended, 0):
                if (pid := self.pid()) is not None:
                    return pid
                process.either(ended, notify.fileno())
                notify.read(timeout=0)
        return None

    def pid(self) -> int | None:
        """The program's pid, if it is there."""
        with suppress(FileNotFoundError, ValueError):
            return int(self._pid_file.read_text())
        return None

    def terminal(self, ended: int, stdio: Stdio, size: Size | None) -> Terminal | None:
        """The program's terminal, once the runtime has delivered it; None when it has ended before."""
        from container.terminal import Terminal, set_size

        assert self.console is not None
        process.either(ended, self.console.fileno())
        master = self.console.receive()
        self.console.close()
        if master is None:
            return None
        if size is not None:
            set_size(master, size)
        return Terminal(master, stdio)

    def check(self) -> None:
        """The error that the runtime logged, if it is what failed, and not the program."""
        if error := exec_failure(self._runtime, os.pread(self._log, 65536, 0).decode(errors="replace"), self.command):
            raise error

    def release(self) -> None:
        if self._lent is not None:
            self._lent.give_back()
        if self._log >= 0:
            os.close(self._log)
            self._log = -1
        if self.console is not None:
            self.console.close()
        self._pid_file.unlink(missing_ok=True)
