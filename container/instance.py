"""A running container: an OCI runtime's, over an overlay that only its own mount namespace shows."""

from __future__ import annotations

import json
import os
import select
import stat
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar

from container import init, mounts
from container.local import LocalInstance
from container.mounts import IdMap, Layers
from container.procevents import ProcessEvents
from container.runtime import Runtime, exec_spec, failure
from hybrid import cgroups, health, process
from hybrid.driver import Kind, Stdio
from hybrid.errors import HybridError, NotReadyError
from hybrid.marks import Mark, Marks
from hybrid.store import Record

_RUNTIME_PATIENCE = 60.0
"""Seconds that a runtime may take to make a detached container."""


class ContainerInstance(LocalInstance):
    """See `hybrid.driver.Instance`."""

    kind: ClassVar[Kind] = Kind.CONTAINER

    def __init__(self, record: Record, marks: Marks | None = None) -> None:
        super().__init__(record, marks)
        self._events: ProcessEvents | None = None
        self._launched = -1
        """The pid of the runtime of an attached command."""

    @property
    def runtime(self) -> Runtime:
        engine = self._record.engine
        return Runtime(engine["runtime"], Path(engine["runtime_root"]))

    @property
    def layers(self) -> Layers:
        return Layers(Path(self._record.engine["tree"]), self.directory / "layer", self.directory / "rootfs")

    @property
    def _log(self) -> Path:
        return self.directory / "runtime.log"

    def _exit_file(self) -> Path:
        return self.directory / "exit" / self._record.id

    # ---- start ---------------------------------------------------------------------------

    def _launch(self, stdio: Stdio | None) -> None:
        for name in ("pid", "runtime.log"):
            (self.directory / name).unlink(missing_ok=True)
        self.runtime.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        process.become_subreaper()
        self._events = ProcessEvents()
        try:
            self._in_root(self._run_detached if stdio is None else partial(self._run, stdio))
        except BaseException:
            self._events.close()
            raise

    def _in_root(self, work: Callable[[], None]) -> None:
        """Do `work` where the root filesystem is mounted and the runtime finds control groups it knows."""
        ids = self._record.engine["ids"]
        userns = None if ids is None else mounts.user_namespace(IdMap(*ids))

        def prepared() -> None:
            mounts.own_null(self.layers.root)
            mounts.mount_root(self.layers, userns)
            if self._record.engine.get("init"):
                init.delegate(self.cgroup, None if ids is None else IdMap(*ids))
            if (idle := cgroups.tree().idle) is not None:
                mounts.hide(idle)
            work()

        mounts.private(prepared)

    def _run(self, stdio: Stdio) -> None:
        """Attached: the runtime leaves the command to this process, its parent from then on (a subreaper)."""
        argv = self.runtime.argv("run", "--detach", *self._bundle(), self._record.id, log=self._log)
        stdin, stdout, stderr = (_not_null(each) for each in (stdio.stdin, stdio.stdout, stdio.stderr))
        # A group of its own, by which the processes that it leaves to us are told from others and reaped.
        self._child = process.launch(argv, stdin=stdin, stdout=stdout, stderr=stderr, new_session=True)
        self._launched = self._child.pid
        self._marks.stamp(Mark.SPAWN)

    def _bundle(self) -> tuple[str, ...]:
        return ("--bundle", str(self.directory), "--pid-file", str(self.directory / "pid"))

    def _settle(self, timeout: float | None) -> None:
        assert self._child is not None and self._events is not None
        handle = os.pidfd_open(self._child.pid)
        try:
            if not process.ended(handle, timeout):
                raise NotReadyError(
                    f"{self.runtime.name} did not start the command within {timeout:g} s", phase="entrypoint"
                )
        finally:
            os.close(handle)
        cpu = self._finish()
        self._await_execution(int((self.directory / "pid").read_text()), timeout)
        self._save(starting=False, launch_cpu=cpu + self._reap_workers())

    def _await_execution(self, pid: int, timeout: float | None = None) -> None:
        """The runtime has done its work: note what it left running, and when the kernel executed the command."""
        assert self._events is not None
        self._note(pid=pid, started=process.start_time(pid))
        at = self._events.wait(pid, timeout)
        if at is None and self._events.listens():
            raise self._gave_up(executing=True)
        self._marks.stamp(Mark.ENTRYPOINT, at)
        if (file := self._record.engine["filter"]) is not None:
            self.runtime.keep_filter(self._record.id, Path(file))

    def _reap_workers(self) -> float:
        """Wait for what the runtime forked and left to us, all but the command; the CPU seconds of those."""
        if self._events is None:
            return 0.0
        workers = [pid for pid in self._events.descendants(self._launched) if pid != self._record.engine.get("pid")]
        self._events.close()
        return sum(process.reap_adopted(pid, 1.0) for pid in workers)

    def _gave_up(self, *, executing: bool = False) -> HybridError:
        """The runtime's failure in its own words; what it left is removed.

        `executing`: all was ready, only the command was not executed.
        """
        error = failure(self.runtime, self._log, self._record.command[0], executing=executing)
        self._clear()
        return error

    # ---- start, detached -----------------------------------------------------------------

    def _run_detached(self) -> None:
        """conmon makes the container and stays its parent, to note the exit code; the logs are its streams."""
        (self.directory / "exit").mkdir(exist_ok=True)
        out, err = (os.open(p, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640) for p in self.logs())
        told, telling = os.pipe2(os.O_CLOEXEC)
        try:
            env = {"PATH": os.environ.get("PATH", os.defpath), "_OCI_SYNCPIPE": str(telling)}
            self._child = process.launch(
                self._conmon(), stdout=out, stderr=err, env=env, pass_fds=[telling], new_session=True
            )
            self._marks.stamp(Mark.SPAWN)
            cpu = self._finish()
            os.close(telling)
            telling = -1
            pid = self._told_pid(told)
            self._child = process.launch(
                self.runtime.argv("start", self._record.id, log=self._log), stderr=err, new_session=True
            )
            cpu += self._finish()
        finally:
            for descriptor in (out, err, told, telling):
                if descriptor >= 0:
                    os.close(descriptor)
        monitor = int((self.directory / "conmon.pid").read_text())
        self._note(monitor_pid=monitor, monitor_started=process.start_time(monitor), monitor_name="conmon")
        self._await_execution(pid)
        self._release()
        self._save(starting=False, launch_cpu=cpu)

    def _finish(self) -> float:
        """The CPU seconds of the program launched, once it has ended well; its failure if it has not."""
        assert self._child is not None
        child = self._child
        cpu = process.reap(child)
        self._child = None
        if child.returncode != 0:
            raise self._gave_up()
        return cpu

    def _conmon(self) -> list[str]:
        id, directory = self._record.id, self.directory
        runtime = self.runtime.argv(log=self._log)
        return [
            process.need("conmon"),
            *("--api-version", "1", "--cid", id, "--cuuid", id, "--name", id, "--runtime", runtime[0]),
            *("--bundle", str(directory), "--container-pidfile", str(directory / "pid")),
            *("--conmon-pidfile", str(directory / "conmon.pid"), "--exit-dir", str(directory / "exit")),
            *("--log-path", "passthrough", "--full-attach", "--no-sync-log"),
            *(f"--runtime-arg={argument}" for argument in runtime[1:]),
        ]

    def _told_pid(self, told: int) -> int:
        """The container's pid as conmon tells it; the runtime's failure when there is none to tell."""
        poller = select.poll()
        poller.register(told, select.POLLIN)
        if not poller.poll(_RUNTIME_PATIENCE * 1000):
            raise NotReadyError(
                f"{self.runtime.name} did not make the container within {_RUNTIME_PATIENCE:g} s", phase="spawn"
            )
        words = os.read(told, 65536)
        pid = int(json.loads(words.splitlines()[0]).get("data", -1)) if words else -1
        if pid <= 0:
            raise self._gave_up()
        return pid

    # ---- the rest ------------------------------------------------------------------------

    def _probe(self, argv: Sequence[str], timeout: float) -> health.Outcome:
        config = json.loads((self.directory / "config.json").read_bytes())
        return self.runtime.execute(self._record.id, exec_spec(config, argv), self.directory, timeout)

    def _forget(self) -> None:
        self._reap_workers()
        self.runtime.delete(self._record.id)

    def _release(self) -> None:
        super()._release()
        if self._events is not None:
            self._events.close()


def _not_null(descriptor: int) -> int:
    """A stream for a runtime: the null device that this thread sees in the place of the host's, or of nothing."""
    if descriptor < 0:
        return process.DEVNULL
    status = os.fstat(descriptor)
    return process.DEVNULL if stat.S_ISCHR(status.st_mode) and status.st_rdev == mounts.NULL else descriptor
