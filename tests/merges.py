"""The golden table of merges: what image, spec and command line say together, by Docker's rules.

Every row is checked by itself and in a container, those with `vm` in a virtual machine, too. The image of
all rows has the programs `show` and `other`, which print what they were given and who they are.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hybrid.image import DEFAULT_PATH, Healthcheck

SHOW = """#!/bin/sh
echo "argv $0"
for word; do echo "argv $word"; done
grep -E '^(Uid|Gid|Groups):' /proc/$$/status
echo "cwd $(pwd)"
cat /proc/$$/environ
grep -qz '^WAIT=' /proc/$$/environ && {
  for name in HUP INT QUIT USR1 TERM; do trap "echo; echo signal $name; exit 5" $name; done
  : > /tmp/trapped
  while :; do sleep 0.05; done
}
exit 0
"""
HEALTHY = Healthcheck(("test", "-e", "/tmp/trapped"))


@dataclass(frozen=True)
class Row:
    """One line of the table. What is not said is what it would be for an empty image and spec."""

    name: str
    image: Mapping[str, Any] = field(default_factory=dict)
    spec: Mapping[str, Any] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    argv: tuple[str, ...] = ("/bin/show",)
    env: Mapping[str, str] = field(default_factory=dict)
    """Beside HOSTNAME; over PATH and root's HOME."""
    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    cwd: str = "/"
    stop: str = "TERM"
    healthcheck: Healthcheck | None = None
    vm: bool = False

    @property
    def program(self) -> str:
        """The path of what is executed."""
        return os.path.normpath(f"{self.cwd}/{self.argv[0]}") if self.argv[0][0] == "." else self.argv[0]

    @property
    def environment(self) -> dict[str, str]:
        return {"PATH": DEFAULT_PATH, "HOME": "/root", **self.env}


SHOWN: dict[str, Any] = {"entrypoint": ("show",)}
APP: dict[str, Any] = {"env": {"HOME": "/home/app"}, "uid": 1000, "gid": 1000}
WEB: dict[str, Any] = {"entrypoint": ("show", "e"), "cmd": ("c",), "env": {"A": "image", "B": "image"}, "user": "app",
       "working_dir": "/home/app", "stop_signal": "SIGQUIT", "healthcheck": HEALTHY}  # fmt: skip

TABLE = (
    # entrypoint and command
    Row("entrypoint of the image", SHOWN),
    Row("command of the image", {"cmd": ("show", "a b", "")}, argv=("/bin/show", "a b", "")),
    Row("both of the image", {"entrypoint": ("show", "e"), "cmd": ("c",)}, argv=("/bin/show", "e", "c")),
    Row("command of the spec", SHOWN | {"cmd": ("c",)}, {"command": ["s"]}, argv=("/bin/show", "s")),
    Row("command of the spec as a string", SHOWN, {"command": "s 'a b' $X"}, argv=("/bin/show", "s", "a b", "$X")),
    Row("no command by the spec", SHOWN | {"cmd": ("c",)}, {"command": []}),
    Row("entrypoint of the spec drops the command", WEB | {"user": ""}, {"entrypoint": ["other"]},
        argv=("/bin/other",), env={"A": "image", "B": "image"}, cwd="/home/app", stop="QUIT", healthcheck=HEALTHY),
    Row("both of the spec", {"entrypoint": ("x",), "cmd": ("y",)}, {"entrypoint": "other o", "command": ["s"]},
        argv=("/bin/other", "o", "s")),
    Row("no entrypoint by the spec", {"entrypoint": ("x",)}, {"entrypoint": [], "command": ["show", "s"]},
        argv=("/bin/show", "s")),
    Row("the line over the image's command", SHOWN | {"cmd": ("c",)}, {}, ("l", "--flag"),
        argv=("/bin/show", "l", "--flag")),
    Row("the line over the spec's command", SHOWN | {"cmd": ("c",)}, {"command": ["s"]}, ("l",),
        argv=("/bin/show", "l")),
    Row("the line after the spec's entrypoint", {"entrypoint": ("x",)}, {"entrypoint": ["other"], "command": ["s"]},
        ("l",), argv=("/bin/other", "l")),
    Row("the line alone", {}, {}, ("show", "l"), argv=("/bin/show", "l")),
    # environment
    Row("variables of the image", SHOWN | {"env": {"A": "1", "EMPTY": "", "ODD": "a=b c\nd"}},
        env={"A": "1", "EMPTY": "", "ODD": "a=b c\nd"}),
    Row("variables of the spec over the image's", SHOWN | {"env": {"A": "1", "B": "1"}},
        {"environment": {"A": "2", "C": 3}}, env={"A": "2", "B": "1", "C": "3"}),
    Row("paths of the image", {"cmd": ("show",), "env": {"PATH": "/srv:/bin"}}, argv=("/srv/show",),
        env={"PATH": "/srv:/bin"}),
    Row("paths of the spec", {"cmd": ("show",), "env": {"PATH": "/srv:/bin"}}, {"environment": ["PATH=/bin"]},
        env={"PATH": "/bin"}),
    Row("a home of the image", SHOWN | {"env": {"HOME": "/tmp"}, "user": "app"}, uid=1000, gid=1000, groups=(2000,),
        env={"HOME": "/tmp"}),
    # user
    Row("user by name", SHOWN | {"user": "app"}, **APP, groups=(2000,)),
    Row("user by number in passwd", SHOWN | {"user": "1000"}, **APP, groups=(2000,)),
    Row("user by number nowhere", SHOWN | {"user": "4321"}, uid=4321, env={"HOME": "/"}),
    Row("user and group by name", SHOWN | {"user": "app:extra"}, uid=1000, gid=2000, env={"HOME": "/home/app"}),
    Row("user and group by number", SHOWN | {"user": "12:34"}, uid=12, gid=34, env={"HOME": "/"}),
    Row("user of the spec", SHOWN | {"user": "app"}, {"user": "root"}),
    Row("user of the spec by number", SHOWN, {"user": 1000}, **APP, groups=(2000,)),
    # working directory
    Row("directory of the image", SHOWN | {"working_dir": "/home/app"}, cwd="/home/app"),
    Row("directory that is not there", SHOWN | {"working_dir": "/new/one", "user": "app"}, **APP, groups=(2000,),
        cwd="/new/one"),
    Row("directory of the spec", SHOWN | {"working_dir": "/tmp"}, {"working_dir": "/home"}, cwd="/home"),
    Row("program relative to the directory", {"cmd": ("./show",), "working_dir": "/srv"}, argv=("./show",), cwd="/srv"),
    # stop signal
    Row("signal of the image", SHOWN | {"stop_signal": "SIGQUIT"}, stop="QUIT"),
    Row("signal of the image by number", SHOWN | {"stop_signal": "10"}, stop="USR1"),
    Row("signal of the spec", SHOWN | {"stop_signal": "SIGQUIT"}, {"stop_signal": "SIGHUP"}, stop="HUP"),
    # healthcheck
    Row("check of the image", SHOWN | {"healthcheck": HEALTHY}, healthcheck=HEALTHY),
    Row("check of the spec", SHOWN | {"healthcheck": HEALTHY},
        {"healthcheck": {"test": ["CMD", "test", "-f", "/tmp/trapped"]}},
        healthcheck=Healthcheck(("test", "-f", "/tmp/trapped"))),
    Row("times of the spec", SHOWN | {"healthcheck": HEALTHY}, {"healthcheck": {"interval": "7s", "retries": 2}},
        healthcheck=Healthcheck(HEALTHY.test, interval=7.0, retries=2)),
    Row("check disabled", SHOWN | {"healthcheck": HEALTHY}, {"healthcheck": {"disable": True}}),
    Row("check of none", SHOWN | {"healthcheck": HEALTHY}, {"healthcheck": {"test": ["NONE"]}}),
    # all at once
    Row("all of the image", WEB, argv=("/bin/show", "e", "c"), uid=1000, gid=1000, groups=(2000,),
        env={"HOME": "/home/app", "A": "image", "B": "image"}, cwd="/home/app", stop="QUIT", healthcheck=HEALTHY,
        vm=True),
    Row("all of the spec", WEB, {
            "entrypoint": ["other"], "command": ["s"], "environment": {"A": "spec"}, "user": "0:2000",
            "working_dir": "/made", "stop_signal": "INT", "healthcheck": {"disable": True},
        }, argv=("/bin/other", "s"), gid=2000, env={"A": "spec", "B": "image"}, cwd="/made", stop="INT", vm=True),
    Row("the line over all", WEB, {"command": ["s"], "environment": {"A": "spec"}}, ("l 1", ""),
        argv=("/bin/show", "e", "l 1", ""), uid=1000, gid=1000, groups=(2000,),
        env={"HOME": "/home/app", "A": "spec", "B": "image"}, cwd="/home/app", stop="QUIT", healthcheck=HEALTHY,
        vm=True),
)  # fmt: skip


def make_tree(tree: Path) -> None:
    """The image's files: a shell, two users, the programs that show."""
    for name in ("bin", "etc", "proc", "sys", "dev", "root", "home/app", "tmp", "srv"):
        (tree / name).mkdir(parents=True)
    (tree / "tmp").chmod(0o1777)
    busybox = shutil.which("busybox")
    assert busybox is not None, "busybox-static is needed"
    shutil.copy(busybox, tree / "bin/busybox")
    for name in ("cat", "grep", "sh", "sleep", "test", "true"):
        (tree / "bin" / name).symlink_to("busybox")
    for name in ("bin/show", "bin/other", "srv/show"):
        (tree / name).write_text(SHOW)
        (tree / name).chmod(0o755)
    (tree / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n")
    (tree / "etc/group").write_text("root:x:0:\napp:x:1000:\nextra:x:2000:app\n")
    os.chown(tree / "home/app", 1000, 1000)
