"""Docker's rules for merging image, spec and command, and look-ups inside trees that nobody vouched for."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import pytest

from hybrid import accounts, tree
from hybrid.errors import CommandError, HybridError, ImageError
from hybrid.image import DEFAULT_PATH, Healthcheck, Image, ImageConfig, Process, merge
from hybrid.images import config, reference
from hybrid.spec import Spec

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="giving files away needs root")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tree with a few programs and accounts."""
    root = tmp_path / "rootfs"
    for directory in ("usr/bin", "etc", "srv", "opt/app"):
        (root / directory).mkdir(parents=True)
    (root / "bin").symlink_to("usr/bin")
    for name in ("sh", "echo", "nginx"):
        (root / "usr/bin" / name).touch(0o755)
    (root / "usr/bin/plain").touch(0o644)
    (root / "opt/app/run").write_text("#!/bin/sh\n")
    (root / "opt/app/run").chmod(0o755)
    (root / "etc/passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\nbroken\n:x:1:1::/:\nweb:x:33:33:web:/srv:/bin/sh\n"
        "4242:x:7:8::/seven:\nhuge:x:99999999999:1::/:\nnohome:x:44:44::relative:\n"
    )
    (root / "etc/group").write_text("root:x:0:\nweb:x:33:\nadm:x:4:web,root\nlog:x:5:nobody,web\nbad:x:y:web\n")
    return root


def run(root: Path, spec: dict[str, Any], *command: str, **values: Any) -> Process:
    image = Image("sha256:" + "0" * 64, root.parent, ImageConfig(**values))
    return merge(Spec.model_validate({"image": "x", **spec}), image, command, "web-1")


@pytest.mark.parametrize(
    ("spec", "command", "config", "argv"),
    [
        ({}, (), {"cmd": ("sh",)}, ("sh",)),
        ({}, (), {"entrypoint": ("sh",), "cmd": ("a",)}, ("sh", "a")),
        ({}, ("b",), {"entrypoint": ("sh",), "cmd": ("a",)}, ("sh", "b")),
        ({}, ("echo", "b"), {"cmd": ("a",)}, ("echo", "b")),
        ({"command": "b c"}, (), {"entrypoint": ("sh",), "cmd": ("a",)}, ("sh", "b", "c")),
        ({"command": []}, (), {"entrypoint": ("sh",), "cmd": ("a",)}, ("sh",)),
        ({"entrypoint": ["echo"]}, (), {"entrypoint": ("sh",), "cmd": ("a",)}, ("echo",)),
        ({"entrypoint": ["echo"], "command": ["x"]}, (), {"entrypoint": ("sh",), "cmd": ("a",)}, ("echo", "x")),
        ({"entrypoint": ["echo"], "command": ["x"]}, ("y",), {"cmd": ("a",)}, ("echo", "y")),
        ({"entrypoint": []}, ("echo",), {"entrypoint": ("sh",), "cmd": ("a",)}, ("echo",)),
    ],
)
def test_commands_merge_as_docker_merges_them(
    root: Path, spec: dict[str, Any], command: tuple[str, ...], config: dict[str, Any], argv: tuple[str, ...]
) -> None:
    assert run(root, spec, *command, **config).argv == argv


def test_no_command_at_all(root: Path) -> None:
    cases: list[tuple[dict[str, Any], dict[str, Any]]] = [({}, {}), ({"entrypoint": []}, {"cmd": ("sh",)})]
    for spec, values in cases:
        with pytest.raises(ImageError, match="no command") as caught:
            run(root, spec, **values)
        assert "-- COMMAND" in caught.value.mend and caught.value.exit_code == 125


def test_everything_else_has_dockers_defaults(root: Path) -> None:
    found = run(root, {}, "sh")
    assert found == Process(
        argv=("sh",),
        executable="/usr/bin/sh",
        env={"PATH": DEFAULT_PATH, "HOSTNAME": "web-1", "HOME": "/root"},
        cwd="/",
        uid=0,
        gid=0,
        groups=(4,),
        hostname="web-1",
        stop_signal=15,
        stop_timeout=10.0,
        healthcheck=None,
    )


def test_the_spec_lies_over_the_image(root: Path) -> None:
    check = Healthcheck(("sh",), interval=5.0)
    values: dict[str, Any] = {
        "env": {"A": "image", "B": "image", "PATH": "/opt/app"},
        "user": "root",
        "working_dir": "/srv",
        "stop_signal": "SIGQUIT",
        "healthcheck": check,
    }
    found = run(root, {}, "run", **values)
    assert (found.executable, found.cwd, found.stop_signal, found.healthcheck) == ("/opt/app/run", "/srv", 3, check)
    spec = {
        "environment": {"A": "spec", "HOME": "/h"},
        "user": "web",
        "working_dir": "/new/one",
        "hostname": "h",
        "stop_signal": "INT",
        "stop_grace_period": "0",
        "healthcheck": {"disable": True},
    }
    found = run(root, spec, "run", **values)
    assert found.env == {"PATH": "/opt/app", "HOSTNAME": "h", "HOME": "/h", "A": "spec", "B": "image"}
    assert (found.uid, found.gid, found.groups, found.cwd) == (33, 33, (4, 5), "/new/one")
    assert (found.stop_signal, found.stop_timeout, found.healthcheck, found.hostname) == (2, 0.0, None, "h")


def test_what_the_image_says_may_be_nonsense(root: Path) -> None:
    with pytest.raises(ImageError, match="stop signal") as caught:
        run(root, {}, "sh", stop_signal="SIGNOPE")
    assert "stop_signal" in caught.value.mend
    with pytest.raises(ImageError, match="not a directory"):
        run(root, {}, "sh", working_dir="/etc/passwd/x")
    assert run(root, {}, "sh", working_dir="srv/../x").cwd == "/srv/../x"


@pytest.mark.parametrize(
    ("user", "uid", "gid", "groups", "home"),
    [
        ("", 0, 0, (4,), "/root"),
        ("root", 0, 0, (4,), "/root"),
        ("web", 33, 33, (4, 5), "/srv"),
        ("33", 33, 33, (4, 5), "/srv"),
        ("web:adm", 33, 4, (), "/srv"),
        ("web:77", 33, 77, (), "/srv"),
        ("1234", 1234, 0, (), "/"),
        ("1234:5678", 1234, 5678, (), "/"),
        ("4242", 7, 8, (), "/seven"),
        ("nohome", 44, 44, (), "/"),
        (":adm", 0, 4, (), "/root"),
        ("2147483647", 2147483647, 0, (), "/"),
    ],
)
def test_users_are_looked_up_in_the_image(
    root: Path, user: str, uid: int, gid: int, groups: tuple[int, ...], home: str
) -> None:
    assert accounts.lookup(root, user) == accounts.Account(uid, gid, groups, home)


@pytest.mark.parametrize(
    ("user", "says"),
    [
        ("nobody", "no user named 'nobody'"),
        ("web:nogroup", "no group named 'nogroup'"),
        ("huge", "no user named 'huge'"),
        ("2147483648", "at most"),
        ("-1", "no user named '-1'"),
        ("web:bad", "no group named 'bad'"),
        ("²", "no user named"),
    ],
)
def test_users_that_are_not_there(root: Path, user: str, says: str) -> None:
    with pytest.raises(ImageError, match=says) as caught:
        accounts.lookup(root, user)
    assert caught.value.mend


def test_hostile_account_files(root: Path, tmp_path: Path) -> None:
    passwd = root / "etc/passwd"
    (tmp_path / "outside").write_text("spy:x:66:66::/:\n")
    passwd.unlink()
    passwd.symlink_to("../../../../../../../../.." + str(tmp_path / "outside"))
    with pytest.raises(ImageError, match="no user"):
        accounts.lookup(root, "spy")
    passwd.unlink()
    for make in (os.mkfifo, Path.mkdir, lambda path: path.symlink_to("passwd")):
        make(passwd)
        assert accounts.lookup(root, "5").uid == 5
        passwd.rmdir() if passwd.is_dir() else passwd.unlink()
    passwd.write_bytes(b"\xff\0:x:1:1::/:\n" + b"x" * 5 * 1024**2 + b"\nlate:x:9:9::/:\n")
    with pytest.raises(ImageError, match="no user"):
        accounts.lookup(root, "late")


@pytest.mark.parametrize(
    ("name", "executable"),
    [
        ("sh", "/usr/bin/sh"),
        ("/bin/sh", "/bin/sh"),
        ("./run", "/opt/app/./run"),
        ("../../usr/bin/echo", "/opt/app/../../usr/bin/echo"),
    ],
)
def test_programs_are_found_inside_the_tree(root: Path, name: str, executable: str) -> None:
    assert run(root, {"working_dir": "/opt/app"}, name).executable == executable


def elf(loader: str) -> bytes:
    """A 64-bit program that names a dynamic loader."""
    path = loader.encode() + b"\0"
    header = b"\x7fELF\x02\x01\x01".ljust(32, b"\0") + struct.pack("<QQIHHHHHH", 64, 0, 0, 64, 56, 1, 0, 0, 0)
    return header + struct.pack("<IIQQQQQQ", 3, 4, 120, 0, 0, len(path), len(path), 1) + path


@pytest.mark.parametrize(
    "head", [b"", b"\x7fELF\x02\x01", b"\x7fELF\x02\x01" + b"\xff" * 200, b"#!", b"#! \n", elf("x")[:-20]]
)
def test_broken_programs_are_the_kernel_s_to_refuse(root: Path, head: bytes) -> None:
    (root / "odd").write_bytes(head)
    (root / "odd").chmod(0o755)
    assert run(root, {}, "/odd").executable == "/odd"


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        ("nope", 127, "not in the image"),
        ("/nope", 127, "not in the image"),
        ("/bin/sh/x", 127, "not in the image"),
        ("plain", 126, "may not be executed"),
        ("/etc", 126, "is a directory"),
        ("/bin", 126, "is a directory"),
        ("/etc/passwd", 126, "0644"),
        ("/loop", 127, "symbolic links"),
        ("/out", 127, "not in the image"),
        ("/dangling", 127, "not in the image"),
        ("/fifo", 126, "special file"),
        ("/script", 127, "needs /no/python"),
        ("/dynamic", 127, "needs /lib64/ld.so"),
        ("x" * 5000, 127, "not in the image"),
    ],
)
def test_programs_that_cannot_be_run(root: Path, name: str, code: int, says: str) -> None:
    (root / "loop").symlink_to("/loop2")
    (root / "loop2").symlink_to("loop")
    (root / "out").symlink_to("../../../../../../../../../../usr/bin/env")
    (root / "dangling").symlink_to("/none")
    os.mkfifo(root / "fifo", 0o755)
    (root / "script").write_text("#! /no/python -u\n")
    (root / "script").chmod(0o755)
    (root / "dynamic").write_bytes(elf("/lib64/ld.so"))
    (root / "dynamic").chmod(0o755)
    with pytest.raises(CommandError, match=says) as caught:
        run(root, {}, name)
    assert caught.value.exit_code == code and caught.value.mend


@ROOT_ONLY
def test_the_right_to_execute_is_the_user_s(root: Path) -> None:
    program = root / "usr/bin/nginx"
    os.chown(program, 33, 4)
    for mode, user, may in (
        (0o700, "web", True),
        (0o070, "web", False),
        (0o070, "1:4", True),
        (0o770, "1:2", False),
        (0o001, "1:2", True),
        (0o001, "root", True),
    ):
        program.chmod(mode)
        if may:
            assert run(root, {"user": user}, "nginx").argv == ("nginx",)
        else:
            with pytest.raises(CommandError, match="may not be executed"):
                run(root, {"user": user}, "nginx")


def test_the_path_of_the_spec_counts(root: Path) -> None:
    assert run(root, {"environment": {"PATH": "/opt/app:/bin"}}, "run").executable == "/opt/app/run"
    assert run(root, {"environment": {"PATH": "/none::"}, "working_dir": "/bin"}, "sh").executable == "/bin/sh"
    with pytest.raises(CommandError, match="looked in /none") as caught:
        run(root, {"environment": {"PATH": "/none"}}, "sh")
    assert caught.value.exit_code == 127


def test_links_are_resolved_inside(root: Path) -> None:
    (root / "up").symlink_to("../../../etc")
    (root / "abs").symlink_to("/usr/./bin/../bin")
    passwd, shell = (root / "etc/passwd").stat(), (root / "usr/bin/sh").stat()
    assert tree.status(root, "/up/passwd").st_ino == passwd.st_ino
    assert tree.status(root, "/abs/sh").st_ino == shell.st_ino
    assert tree.status(root, "/../../..").st_ino == root.stat().st_ino
    for path, error in (("/none", FileNotFoundError), ("/etc/passwd/..", NotADirectoryError)):
        with pytest.raises(error):
            tree.status(root, path)
    for number in range(41):
        (root / f"n{number}").symlink_to(f"n{number + 1}")
    (root / "n41").touch()
    with pytest.raises(OSError, match="Too many levels"):
        tree.status(root, "/n0")
    assert tree.status(root, "/n2").st_size == 0 and tree.read(root, "/n0", 9) == b""
    assert tree.read(root, "/up/group", 4) == b"root" and tree.read(root, "/etc", 9) == b""


def test_an_image_config_is_read() -> None:
    found = config.parse(
        b'{"architecture": "arm64", "os": "linux", "created": "now", "config": {"Cmd": ["a"], "Env": ["A=b=c", "D="],'
        b'"Entrypoint": null, "ExposedPorts": {"80/tcp": {}}, "Volumes": null, "Labels": {"l": "m"},'
        b'"Healthcheck": {"Test": ["CMD-SHELL", "x y"], "Interval": 5000000000, "StartPeriod": 1000000}}}'
    )
    assert found.cmd == ("a",) and found.entrypoint == () and found.env == {"A": "b=c", "D": ""}
    assert found.exposed_ports == ("80/tcp",) and found.labels == {"l": "m"} and found.architecture == "arm64"
    assert found.healthcheck == Healthcheck(("/bin/sh", "-c", "x y"), interval=5.0, start_period=0.001)
    assert found.working_dir == "/" and found.stop_signal == "SIGTERM" and found.user == ""
    assert config.parse(b"{}") == ImageConfig()
    assert config.parse(b'{"config": {"Healthcheck": {"Test": ["NONE"]}}}').healthcheck is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"nonsense",
        b"[" * 100_000,
        b'{"config": [1]}',
        b'{"config": {"Cmd": "a"}}',
        b'{"config": {"Cmd": [1]}}',
        b'{"config": {"Cmd": ["a\\u0000b"]}}',
        b'{"config": {"Env": ["=x"]}}',
        b'{"config": {"User": 5}}',
        b'{"config": {"Healthcheck": {"Test": ["CMD"]}}}',
        b'{"config": {"Healthcheck": {"Test": ["CMD", "x"], "Interval": -1}}}',
        b'{"config": {"Healthcheck": {"Test": ["CMD", "x"], "Interval": 1e400}}}',
        b'{"os": {"a": 1}}',
    ],
    ids=range(14),
)
def test_a_damaged_config_is_refused(data: bytes) -> None:
    with pytest.raises(ImageError, match="config is damaged"):
        config.parse(data)


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("nginx", "docker.io/library/nginx:latest"),
        ("nginx:1.2", "docker.io/library/nginx:1.2"),
        ("team/app", "docker.io/team/app:latest"),
        ("docker.io/nginx", "docker.io/library/nginx:latest"),
        ("localhost/app", "localhost/app:latest"),
        ("localhost:5000/a/b:1", "localhost:5000/a/b:1"),
        ("r.example/a__b/c-d.e", "r.example/a__b/c-d.e:latest"),
        ("[::1]:5000/x", "[::1]:5000/x:latest"),
        (f"x@sha256:{'a' * 64}", f"docker.io/library/x@sha256:{'a' * 64}"),
        (f"x:1@sha256:{'a' * 64}", f"docker.io/library/x:1@sha256:{'a' * 64}"),
    ],
)
def test_references(text: str, whole: str) -> None:
    found = reference.parse(text)
    assert str(found) == whole and str(reference.parse(whole)) == whole
    assert not found.transport.endswith(":None") and found.transport.count("@") <= 1


@pytest.mark.parametrize(
    "text", ["", "A", "a b", "-x", "a//b", "/a", "a:", "a:b:c", "x@sha256:ab", "a..b", "../a", "x" * 2000, "a\n", "é"]
)
def test_what_is_no_reference(text: str) -> None:
    with pytest.raises(HybridError, match="no image reference"):
        reference.parse(text)


def test_loopback_is_plain_http_and_nothing_else_is() -> None:
    for text in ("localhost:5000/x", "127.0.0.1:5000/x", "127.9.9.9/x", "[::1]:5000/x", "[::1]/x"):
        assert reference.parse(text).loopback, text
    for text in ("x", "localhost.example/x", "10.0.0.1:5000/x", "127.0.0.1.example/x", "[fe80::1]:5000/x"):
        assert not reference.parse(text).loopback, text


def test_names_given_here() -> None:
    assert str(reference.local("nginx")) == "localhost/nginx:latest"
    assert str(reference.local("a/b:2")) == "localhost/a/b:2"
    assert str(reference.local("r.example/x:1")) == "r.example/x:1"
    with pytest.raises(ImageError, match="digest"):
        reference.local(f"x@sha256:{'a' * 64}")
