"""libvirt's module, loaded when it is needed: its errors as ours, and its events served by one thread."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hybrid.errors import HostError

_loaded: Any = None


def load(log: Path = Path("/dev/null")) -> Any:
    """The module, ready to open connections; HostError when it cannot be imported.

    It may be there without the library that it wraps. The first call says where libvirt's own log
    goes, and registers the loop of events before any connection is opened, as libvirt wants it.
    """
    global _loaded
    if _loaded is None:
        with _log_to(log):
            _loaded = _import()
        _loaded.registerErrorHandler(lambda _context, _error: None, None)
        _loaded.virEventRegisterDefaultImpl()
        threading.Thread(target=_run_events, args=(_loaded,), daemon=True, name="libvirt-events").start()
    return _loaded


def _import() -> Any:
    try:
        import libvirt
    except ImportError as error:
        raise HostError(
            f"libvirt-python cannot be used: {error}",
            mend="apt-get install libvirt-dev gcc, then pip install --force-reinstall --no-binary :all: libvirt-python",
        ) from None
    return libvirt


@contextlib.contextmanager
def _log_to(path: Path) -> Iterator[None]:
    """Send libvirt's own log to a file; it reads this variable when it is loaded."""
    before = os.environ.get("LIBVIRT_LOG_OUTPUTS")
    os.environ["LIBVIRT_LOG_OUTPUTS"] = f"3:file:{path}"
    try:
        yield
    finally:
        if before is None:
            del os.environ["LIBVIRT_LOG_OUTPUTS"]
        else:
            os.environ["LIBVIRT_LOG_OUTPUTS"] = before


def _run_events(libvirt: Any) -> None:
    while True:
        libvirt.virEventRunDefaultImpl()


@contextlib.contextmanager
def translated(what: str, mend: str = "hybrid doctor") -> Iterator[None]:
    """Turn libvirt's errors into ours."""
    import libvirt

    try:
        yield
    except libvirt.libvirtError as error:
        raise HostError(f"{what}: {error.get_error_message()}", mend=mend) from None
