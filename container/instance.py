"""A running container: an OCI runtime's, over an overlay that only its own mount namespace shows."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeVar

from container import mounts
from container.inside import ContainerInside, Ids
from container.local import LocalInstance
from container.mounts import IdMap, Layers
from container.records import saved_process
from container.runtime import Runtime, exec_spec, failure
from container.streams import own_null, without_null
from hybrid import cgroups, process
from hybrid.driver import Kind, Stdio
from hybrid.errors import HybridError, NotReadyError
from hybrid.home import ordinary_user
from hybrid.marks import Mark, Marks
from hybrid.mounts import closing
from hybrid.store import Record

if TYPE_CHECKING:
    from container.procevents import ProcessEvents
    from container.terminal import ConsoleSocket

T = TypeVar("T")


class ContainerInstance(LocalInstance):
    """See `hybrid.driver.Instance`."""

    kind: ClassVar[Kind] = Kind.CONTAINER

    def __init__(self, record: Record, marks: Marks | None = None) -> None:
        super().__init__(record, marks)
        self._events: ProcessEvents | None = None
        self._launched = -1
        """The pid of the runtime of an attached command."""
        self._console: ConsoleSocket | None = None
        self._stdio = Stdio(-1, -1, -1)
        """The caller's streams, and where their terminal comes from."""

    @property
    def runtime(self) -> Runtime:
        engine = self._record.engine
        return Runtime(engine["runtime"], Path(engine["runtime_root"]))

    @property
    def layers(self) -> Layers:
        layer, root = self.directory / "layer", self.directory / "rootfs"
        return Layers(Path(self._record.engine["tree"]), layer, root, self.cgroup.name)

    @property
    def _ids(self) -> IdMap | None:
        ids = self._record.engine["ids"]
        return None if ids is None else IdMap(ids[0], ids[1], tuple(ids[2:]))

    @property
    def _log(self) -> Path:
        return self.directory / "runtime.log"

    # ---- start ---------------------------------------------------------------------------

    def _launch(self, stdio: Stdio | None) -> None:
        for name in ("pid", "runtime.log"):
            (self.directory / name).unlink(missing_ok=True)
        self.runtime.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        from container.procevents import ProcessEvents

        process.become_subreaper()
        self._events = ProcessEvents()
        try:
            self._in_root(self._run_detached if stdio is None else partial(self._run, stdio))
        except BaseException:
            self._events.close()
            raise

    def _in_root(self, work: Callable[[], None]) -> None:
        """Do `work` where the root filesystem is mounted and the runtime finds what it knows, and may have."""
        from container import init, netns, volumes
        from hybrid.volumes import from_record

        ids = self._ids
        userns = None if ids is None else mounts.user_namespace(ids)
        cgroups.join()
        joined = self._join_network(userns, 0 if ids is None else ids.base)

        def prepared() -> None:
            if ordinary_user() is None:
                own_null(self.layers.root)
            mounts.mount_root(self.layers, self._mapped)
            volumes.show(self.directory, from_record(self._record.engine, self.directory), self._mapped)
            netns.show(self.directory, joined)
            if self._record.engine.get("init"):
                init.delegate(self.cgroup, ids)
            if (idle := cgroups.tree().idle) is not None:
                mounts.hide(idle)
            work()

        try:
            mounts.private(prepared)
        finally:
            if "network" in joined:
                os.close(joined["network"])

    def _join_network(self, userns: int | None, owner: int) -> dict[str, int]:
        """The namespaces to run in, joined to the networks; none when the runtime is to make its own."""
        from container import netns
        from hybrid import network
        from hybrid.network.words import Mode

        if network.mode(self._record) is Mode.HOST:
            network.names_of_host(self._record, owner)
        if network.mode(self._record) is not Mode.BRIDGE:
            return {}
        from hybrid.network.model import Namespace

        joined = {"network": netns.create(userns)} | ({} if userns is None else {"user": userns})
        try:
            network.attach(self._record, Namespace(joined["network"], owner))
        except BaseException:
            os.close(joined["network"])
            raise
        return joined

    @property
    def _mapped(self) -> int | None:
        """The user namespace through which files are seen; None when they are seen as they are."""
        ids = self._ids
        return None if ids is None or ids.is_identity else mounts.user_namespace(ids)

    def in_mounted_root(self, work: Callable[[Path], T]) -> T:
        from container import volumes
        from hybrid.volumes import from_record

        userns = self._mapped
        shown = [each for each in from_record(self._record.engine, self.directory) if each.source is not None]

        def mounted() -> T:
            mounts.mount_root(self.layers, userns)
            volumes.mount_in(self.layers.root, shown, read_only=False, userns=userns)
            return work(self.layers.root)

        return mounts.private(mounted)

    def _run(self, stdio: Stdio) -> None:
        """Attached: the runtime leaves the command to this process, its parent from then on (a subreaper)."""
        self._stdio, options = stdio, self._bundle()
        if saved_process(self._record).tty:
            from container.terminal import ConsoleSocket

            self._console = ConsoleSocket(self.directory, "tty")
            options = (*options, "--console-socket", self._console.path)
            stdio = Stdio(-1, -1, -1)
        argv = self.runtime.argv("run", "--detach", *options, self._record.id, log=self._log)
        with closing(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)) as null:
            given = without_null(stdio, null)
            # A group of its own, by which the processes that it leaves to us are told from others and reaped.
            self._child = process.launch(
                argv, stdin=given.stdin, stdout=given.stdout, stderr=given.stderr, new_session=True
            )
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
        if self._console is not None and (master := self._console.receive()) is not None:
            self._join_terminal(master, self._stdio)
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
        """The monitor makes the container and stays its parent; the command begins when it is all set."""
        pid, cpu = self._monitored(self.runtime.argv(log=self._log))
        self._child = process.launch(
            self.runtime.argv("start", self._record.id, log=self._log),
            stdout=process.DEVNULL,
            stderr=process.DEVNULL,
            new_session=True,
        )
        cpu += self._finish()
        self._await_execution(pid)
        self._release()
        self._save(starting=False, launch_cpu=cpu)

    # ---- the rest ------------------------------------------------------------------------

    def _probe(self, argv: Sequence[str]) -> Sequence[str]:
        config = json.loads((self.directory / "config.json").read_bytes())
        path = self.directory / "probe.json"
        path.write_text(json.dumps(exec_spec(config, argv)))
        return self.runtime.argv("exec", "--process", path, self._record.id)

    def _forget(self) -> None:
        from hybrid import network

        self._reap_workers()
        self.runtime.delete(self._record.id)
        network.detach(self._record)

    def _after_end(self) -> None:
        from hybrid import network

        super()._after_end()
        network.detach(self._record)

    @property
    def inside(self) -> ContainerInside:
        ids = self._ids
        return ContainerInside(self, Ids() if ids is None else Ids(ids.base, ids.size))

    def _release(self) -> None:
        super()._release()
        if self._events is not None:
            self._events.close()
        if self._console is not None:
            self._console.close()
            self._console = None
