"""The kind container: an OCI runtime under a configuration of ours, over the image's own tree."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from container import bundle, init, mounts, runtime, seccomp
from container.instance import ContainerInstance
from container.mounts import IdMap
from container.procevents import ProcessEvents
from container.records import new_record
from hybrid import cgroups, process
from hybrid.defaults import OPEN_FILES
from hybrid.driver import Kind, Problem, Request
from hybrid.errors import HostError, HybridError
from hybrid.marks import Mark
from hybrid.store import InstanceStore, new_id

if TYPE_CHECKING:
    from hybrid.home import Home
    from hybrid.image import Image
    from hybrid.store import Record

_ID_BASE = 2_000_000_000
"""First of the 65536 ids of the host that stand for a container's, unless /etc/subuid gives `hybrid` others.

Above what useradd hands out to users and below what systemd reserves, so no user's own range overlaps.
"""
_IDS = 65536


class ContainerDriver:
    """See `hybrid.driver.Driver`."""

    kind: ClassVar[Kind] = Kind.CONTAINER

    def __init__(self, home: Home) -> None:
        self._home = home

    def problems(self) -> Sequence[Problem]:
        home = next(path for path in (self._home.root, *self._home.root.parents) if path.exists())
        own = (lambda: runtime.choose(None, self._state), lambda: mounts.check_idmapped(home))
        return [*needs(), *_problems(own)]

    def warnings(self) -> Sequence[Problem]:
        if os.geteuid() == 0:
            with ProcessEvents() as events:
                if not events.listens():
                    what = "the kernel does not tell when a command is executed: the mark may come some ms late"
                    return [Problem(what, "run in the host's own network and pid namespaces, with CAP_NET_ADMIN")]
        return []

    def facts(self) -> Mapping[str, str]:
        chosen, ids = runtime.choose(None, self._state), id_map()
        return {
            "engine": chosen.version(),
            "kernel": os.uname().release,
            "cgroups": cgroups.tree().version,
            "ids": f"{ids.base} to {ids.base + ids.size - 1}",
            "seccomp": str(seccomp.PROFILE),
        }

    def prepare(self, image: Image) -> int:
        return 0  # the tree itself is the overlay's lower layer

    def create(self, request: Request) -> ContainerInstance:
        spec, id = request.spec, new_id()
        chosen = runtime.choose(spec.container.runtime, self._state)
        ids = id_map() if spec.container.userns else None
        if is_init := init.is_init(request.process):
            init.check(cgroups.tree())
        rules = seccomp.load(bundle.CAPABILITIES)
        kept = chosen.filter_file(rules)
        compiled = kept.read_bytes() if kept.exists() else b""
        store = InstanceStore(self._home)
        final = store.path(request.name)
        if ids is not None:
            _reachable(self._home.instances)
        with store.making(request.name) as (directory, commit):
            place = bundle.Place(
                root=final / "rootfs",
                etc=final / "etc",
                cgroup=cgroups.Cgroup(id).path,
                ids=ids,
                open_files=open_files(),
                swap=cgroups.limits_swap(cgroups.tree()),
                seccomp=rules,
                compiled=compiled,
            )
            config = bundle.runtime_config(spec, request.process, place)
            if is_init:
                config["mounts"] = init.with_init(config["mounts"], cgroups.Cgroup(id))
            (directory / "config.json").write_text(json.dumps(config))
            _write_etc(directory / "etc", request.process.hostname, ids)
            mounts.Layers(request.image.tree, directory / "layer", directory / "rootfs").prepare(ids)
            record = commit(
                new_record(
                    *(request, self.kind, directory),
                    id=id,
                    tree=str(request.image.tree),
                    runtime=chosen.path,
                    runtime_root=str(chosen.root),
                    ids=None if ids is None else [ids.base, ids.size],
                    filter=None if compiled else str(kept),
                    init=is_init,
                )
            )
        request.marks.stamp(Mark.CREATE)
        return ContainerInstance(record, request.marks)

    def open(self, record: Record) -> ContainerInstance:
        return ContainerInstance(record)

    @property
    def _state(self) -> Path:
        return self._home.run / "oci"


def id_map(subuid: Path = Path("/etc/subuid")) -> IdMap:
    """The host's ids that stand for a container's: the range that the administrator gave to `hybrid`, else ours."""
    if subuid.exists():
        for line in subuid.read_text().splitlines():
            user, _, rest = line.partition(":")
            base, _, size = rest.partition(":")
            if user == "hybrid" and base.isdecimal() and size.isdecimal() and int(size) >= _IDS:
                return IdMap(int(base), _IDS)
    return IdMap(_ID_BASE, _IDS)


def open_files() -> tuple[int, int]:
    """Soft and hard limit of open files for a command: the usual, as far as this process may give them."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = OPEN_FILES[1] if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES[1])
    return min(OPEN_FILES[0], allowed), allowed


def _write_etc(directory: Path, hostname: str, ids: IdMap | None) -> None:
    directory.mkdir(mode=0o755)
    for name, text in bundle.files(hostname):
        path = directory / name
        path.write_text(text)
        path.chmod(0o644)
        if ids is not None:
            os.chown(path, ids.base, ids.base)


def _reachable(directory: Path) -> None:
    """HostError when a container's own root user could not reach what lies in a directory."""
    for each in (directory, *directory.parents):
        if each.exists() and not each.stat().st_mode & 0o001:
            raise HostError(
                f"containers cannot reach {directory}: {each} is closed to others",
                mend=f"chmod o+x {each}, or set HYBRID_HOME to another place",
            )


def needs(*names: str) -> list[Problem]:
    """What of these this host lacks; without names, of all that containers need everywhere."""
    return list(_problems([need for name, need in _NEEDS.items() if not names or name in names]))


def _problems(checks: Iterable[Callable[[], object]]) -> Iterator[Problem]:
    for check in checks:
        try:
            check()
        except HybridError as error:
            yield Problem(error.what, error.mend)
        except OSError as error:
            yield Problem(str(error), "run as root, on a kernel that has this")


def _need_root() -> None:
    if os.geteuid() != 0:
        raise HostError("containers need root for now", mend="sudo hybrid …")


def _need_overlay() -> None:
    if "\toverlay\n" not in Path("/proc/filesystems").read_text():
        process.run([process.need("modprobe", "kmod"), "overlay"])


def _need_user_namespace() -> None:
    mounts.user_namespace(id_map())


def _need_cgroups() -> None:
    where = cgroups.tree()
    if where.version == "none":
        raise HostError("no control groups are mounted", mend="mount -t cgroup2 none /sys/fs/cgroup")
    trial = cgroups.Cgroup(f"trial-{new_id()}")
    trial.create()
    trial.remove()


def _need_seccomp() -> None:
    seccomp.load(bundle.CAPABILITIES)
    if "Seccomp:" not in Path("/proc/self/status").read_text():
        raise HostError("the kernel has no seccomp", mend="use a kernel with CONFIG_SECCOMP_FILTER")


_NEEDS: Mapping[str, Callable[[], object]] = {
    "root": _need_root,
    "conmon": lambda: process.need("conmon"),
    "overlay": _need_overlay,
    "user namespaces": _need_user_namespace,
    "cgroups": _need_cgroups,
    "seccomp": _need_seccomp,
}
