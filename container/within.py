"""Execute a program in a running instance of kind host: `within.py PLAN PID`, the plan with root "/".

The standard library only, as container/enter.py, whose neighbour this is: an interpreter that sees no other
module runs it.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import sys

_CLONE_NEWNS = 0x00020000


def main() -> None:
    """Become what the plan says, in the mount namespace and root of the process; 126 or 127 when it cannot be."""
    spec = importlib.util.spec_from_file_location("enter", f"{os.path.dirname(os.path.abspath(__file__))}/enter.py")  # noqa: PTH100, PTH120
    assert spec is not None and spec.loader is not None
    enter = importlib.util.module_from_spec(spec)
    sys.modules["enter"] = enter
    spec.loader.exec_module(enter)
    with open(sys.argv[1]) as file:  # noqa: PTH123
        plan = enter.Plan(**json.load(file))
    libc = ctypes.CDLL(None, use_errno=True)
    namespace = os.open(f"/proc/{sys.argv[2]}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    root = os.open(f"/proc/{sys.argv[2]}/root", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if libc.setns(namespace, _CLONE_NEWNS) < 0:
            raise OSError(ctypes.get_errno(), "setns")
        os.fchdir(root)
        os.chroot(".")
        enter.become(plan)
        os.execvpe(plan.argv[0], plan.argv, plan.env)
    except OSError as error:
        os.write(2, f"{plan.argv[0]}: {error.strerror}\n".encode())
        os._exit(127 if isinstance(error, FileNotFoundError) else 126)


if __name__ == "__main__":
    main()
