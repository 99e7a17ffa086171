"""A VM that stands still: its QEMU is stopped by a signal.

Chosen over QEMU's own stop, since any process can do it, undo it and see it without a way to QEMU's monitor, which
belongs to whoever started the VM; and since time goes on inside as it does in a paused container. A stopped process
dies of SIGKILL at once, which one in a frozen v1 control group does not.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path

from hybrid.errors import HostError
from hybrid.process import send_signal, start_time

_PATIENCE = 10.0


def is_paused(pid: int) -> bool:
    """Whether the process is stopped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except OSError:
        return False


def pause(pid: int) -> None:
    """Stop the process; return once it stands still, which only its parent is told of: hence the loop."""
    send_signal(pid, start_time(pid), signal.SIGSTOP)
    deadline = time.monotonic() + _PATIENCE
    while not is_paused(pid) and start_time(pid) is not None:
        if time.monotonic() > deadline:
            resume(pid)
            raise HostError("QEMU does not stand still", mend="see dmesg; try again")
        time.sleep(0.001)


def resume(pid: int) -> None:
    """Let it run on. Nothing happens when it does."""
    send_signal(pid, start_time(pid), signal.SIGCONT)
