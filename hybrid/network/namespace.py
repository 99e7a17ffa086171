"""Work done in the network namespace of an ordinary user, and from there on the host's network again.

A network namespace belongs to a thread. The thread of `within` also has a mount namespace of its own, since
/sys shows the network of whoever mounted it. A thread cannot come back to the host's network, which is not the
user's: what must happen there is done by the thread that waits for it.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

from hybrid.mounts import CLONE_NEWNS, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_REC, MS_SLAVE, check, mount

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
_here = threading.local()


def within(work: Callable[[], T]) -> T:
    """The result of `work`, done in this user's network namespace (`hybrid.rootless`)."""
    from hybrid import rootless

    asked: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
    outcome: list[T] = []
    failure: list[BaseException] = []

    def body() -> None:
        try:
            _enter(rootless.network())
            _here.asked = asked
            outcome.append(work())
        except BaseException as error:
            failure.append(error)
        finally:
            asked.put(None)

    threading.Thread(target=body, name="own-network", daemon=True).start()
    _serve(asked)
    if failure:
        raise failure[0]
    return outcome[0]


def outside(work: Callable[[], T]) -> T:
    """The result of `work`, done on the host's network, wherever this thread is."""
    asked: SimpleQueue[Callable[[], None] | None] | None = getattr(_here, "asked", None)
    if asked is None:
        return work()
    answered: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()

    def do() -> None:
        try:
            answered.put((work(), None))
        except BaseException as error:
            answered.put((None, error))

    asked.put(do)
    result: T
    result, error = answered.get()
    if error is not None:
        raise error
    return result


def _serve(asked: SimpleQueue[Callable[[], None] | None]) -> None:
    """Do what is asked for until there is no more of it. An interrupt comes after that: work is not cut in two."""
    interrupt: BaseException | None = None
    while True:
        try:
            if (call := asked.get()) is None:
                break
            call()
        except BaseException as error:
            interrupt = error
    if interrupt is not None:
        raise interrupt


def _enter(namespace: int) -> None:
    try:
        check(_libc.unshare(CLONE_NEWNS), "unshare(CLONE_NEWNS)")
        check(_libc.setns(namespace, _CLONE_NEWNET), "setns to the user's network")
    finally:
        os.close(namespace)
    mount("none", "/", None, MS_REC | MS_SLAVE)
    mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC)
