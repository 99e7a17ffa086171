"""hybrid as an ordinary user: made for the test, in a mount namespace in which /etc knows it."""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user is made by root"),
    pytest.mark.timeout(600),
]

UID, FIRST = 51_500, 1_700_000_000
KINDS = ("host", "container", "vm")
ENTER = """\
set -eu
mount --make-rprivate /
mount -t tmpfs none "$1"
{ cat /etc/passwd; echo "hybrid-user:x:$2:$2::$3:/bin/sh"; } >"$1/passwd"
{ cat /etc/group; echo "hybrid-user:x:$2:"; } >"$1/group"
echo "$4" >"$1/subuid"
echo "$4" >"$1/subgid"
for name in passwd group subuid subgid; do
    [ -e "/etc/$name" ] && mount --bind "$1/$name" "/etc/$name"
done
mknod -m 666 "$1/tun" c 10 200
mount --bind "$1/tun" /dev/net/tun
umount -l "$1"
cd "$3"
shift 4
exec setpriv --reuid "$HYBRID_TEST_UID" --regid "$HYBRID_TEST_UID" --clear-groups "$@"
"""
"""What the host looks like to the user: with ids in /etc/subuid, and a /dev/net/tun as systemd makes it."""


class User:
    """Runs `hybrid` as an ordinary user with a home of its own."""

    def __init__(self, another_cli: Callable[..., Any], directory: Path, ids: str) -> None:
        self.directory = directory
        scratch = directory.parent / "etc"
        scratch.mkdir(exist_ok=True)
        env = {"HOME": str(directory), "HYBRID_TEST_UID": str(UID), "XDG_RUNTIME_DIR": str(directory / "run")}
        inside = ("unshare", "--mount", "sh", "-c", ENTER, "sh", str(scratch), str(UID), str(directory), ids)
        self.cli = another_cli(directory / "hybrid", env, inside)

    def __call__(self, *words: str | Path, code: int = 0, **keys: Any) -> str:
        done = self.cli(*words, **keys)
        assert done.returncode == code, done.stderr.decode()
        return str(done.stdout.decode())

    def error(self, *words: str | Path, code: int = 125) -> str:
        done = self.cli(*words)
        assert done.returncode == code, (done.stdout, done.stderr)
        return " ".join(done.stderr.decode().split())

    def processes(self) -> list[str]:
        """Command lines of what runs as the user, or as one of its own ids."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                real = int((path / "status").read_text().partition("\nUid:")[2].split()[0])
                words = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
            except (OSError, IndexError):
                continue
            if words and (real == UID or FIRST <= real < FIRST + 65536):
                found.append(words)
        return found


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    base = Path(tempfile.mkdtemp(prefix="hu-", dir="/tmp"))
    base.chmod(0o755)
    for path in (base / "home", base / "home/run"):
        path.mkdir(mode=0o700)
        os.chown(path, UID, UID)
    yield base / "home"
    shutil.rmtree(base)


@pytest.fixture
def user(another_cli: Callable[..., Any], directory: Path) -> Iterator[User]:
    """The user, who leaves no process behind."""
    made = User(another_cli, directory, f"{UID}:{FIRST}:65536")
    yield made
    for name in made.cli.ps():
        made.cli("rm", "-f", name)
    assert made.processes() == []
    assert list((directory / "run/hybrid").glob("libvirt-*")) == []


@pytest.fixture(scope="module")
def image(directory: Path) -> Path:
    """A spec whose image has files of others, a setuid program and a device node."""
    path = directory / "tools.tar"
    with tarfile.open(path, "w") as tar:
        tar.add("/bin/busybox", "bin/busybox")
        for name in ("sh", "cat", "id", "stat", "sleep", "nc", "echo", "touch", "chown", "ping", "kill"):
            _link(tar, f"bin/{name}", "busybox")
        _file(tar, "etc/passwd", "root:x:0:0::/root:/bin/sh\nwww-data:x:33:33::/srv:/bin/sh\n")
        _file(tar, "etc/group", "root:x:0:\nwww-data:x:33:\n")
        _file(tar, "srv/page", "of www-data", uid=33)
        _file(tar, "srv/last", "of the last", uid=65534)
        node = tarfile.TarInfo("dev/sda")
        node.type, node.devmajor, node.devminor = tarfile.BLKTYPE, 8, 0
        tar.addfile(node)
    spec = directory / "tools.yaml"
    spec.write_text("image: {rootfs: ./tools.tar}\ncommand: [sleep, '1000']\nstop_signal: SIGKILL\n")
    return spec


def _file(tar: tarfile.TarFile, name: str, text: str, uid: int = 0) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.uid, info.gid = len(text), uid, uid
    tar.addfile(info, io.BytesIO(text.encode()))


def _link(tar: tarfile.TarFile, name: str, target: str) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, target
    tar.addfile(info)


def _port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_doctor_says_what_can_be_had_and_what_cannot(user: User) -> None:
    report = json.loads(user("doctor", "--json"))
    assert all(report["kinds"][kind]["works"] for kind in KINDS)
    assert str(UID) in report["host"]["user"]
    said = json.dumps(report)
    assert "ordinary user" in said


def test_without_ids_in_subuid_doctor_says_how_to_get_them(another_cli: Callable[..., Any], directory: Path) -> None:
    bare = User(another_cli, directory, "somebody:1:1")
    report = json.loads(bare("doctor", "--json", code=1))
    for kind in KINDS:
        assert "usermod --add-subuids" in report["kinds"][kind]["problems"][0]["mend"]
    assert bare.processes() == []


def test_device_nodes_are_left_out_and_named(user: User, image: Path) -> None:
    done = user.cli("image", "build", image, "--tag", "tools")
    assert done.returncode == 0, done.stderr
    assert b"dev/sda left out" in done.stderr
    kept = next((user.directory / "hybrid/images/sha256").glob("*/rootfs"))
    assert [(kept / "srv" / name).stat().st_uid for name in ("page", "last")] == [FIRST + 32, FIRST + 65533]


@pytest.mark.parametrize("kind", KINDS)
def test_runs_with_the_images_owners_streams_and_exit_codes(user: User, image: Path, kind: str) -> None:
    script = "cat; stat -c %u:%n /srv/page /srv/last; id -u; touch /srv/new; chown 33 /srv/new; stat -c %u /srv/new"
    script += "; echo gone >&2; exit 7"
    done = user.cli("run", "--rm", "--as", kind, image, "--", "sh", "-c", script, input=b"in\n")
    assert (done.returncode, done.stdout) == (7, b"in\n33:/srv/page\n65534:/srv/last\n0\n33\n"), done.stderr
    assert done.stderr.strip() == b"gone"
    assert user.error("run", "--rm", "--as", kind, image, "--", "nothing", code=127)


@pytest.mark.parametrize("kind", KINDS)
def test_a_detached_instance_is_seen_by_later_commands(user: User, image: Path, kind: str) -> None:
    assert user("run", "-d", "--as", kind, "--name", "one", image, "--", "sh", "-c", "echo said; sleep 1000").strip()
    assert user.cli.ps()["one"]["state"] == "running"
    user("stop", "-t", "1", "one")
    assert user.cli.ps()["one"]["state"] == "exited"
    user("rm", "one")
    assert user.cli.ps() == {}


@pytest.mark.parametrize("kind", ("container", "vm"))
def test_a_published_port_leads_in_and_names_resolve(user: User, image: Path, kind: str) -> None:
    port = _port()
    spec = image.with_name("server.yaml")
    spec.write_text(
        f"image: {{rootfs: ./tools.tar}}\nports: ['127.0.0.1:{port}:80']\nstop_signal: SIGKILL\n"
        "command: [sh, -c, 'while :; do echo hello | nc -l -p 80; done']\n"
    )
    user("run", "-d", "--as", kind, "--name", "server", spec)
    assert _read(port) == b"hello\n"
    assert "1 packets received" in user("run", "--rm", image, "--", "ping", "-c", "1", "server")
    user("rm", "-f", "server")


def _read(port: int) -> bytes:
    """What the server says, once it listens."""
    deadline = time.monotonic() + 60
    while True:
        with socket.socket() as client:
            client.settimeout(10)
            client.connect(("127.0.0.1", port))
            try:
                if said := client.recv(100):
                    return said
            except ConnectionResetError:
                pass
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.parametrize("kind", KINDS)
def test_exec_and_copies_land_inside(user: User, image: Path, kind: str) -> None:
    user("run", "-d", "--as", kind, "--name", "box", image)
    assert user("exec", "-i", "-u", "www-data", "box", "sh", "-c", "id -u; cat", input=b"in") == "33\nin"
    assert user.cli("exec", "box", "sh", "-c", "exit 9").returncode == 9
    if kind != "vm":
        user("cp", image, "box:/srv/copy")
        assert user("exec", "box", "cat", "/srv/copy") == image.read_text()
        assert "KiB" in (said := user("stats", "--no-stream", "--format", "{{.MemUsage}}", "box")) or "MiB" in said
    user("rm", "-f", "box")


def test_qemu_is_the_user_without_any_capability(user: User, image: Path) -> None:
    user("run", "-d", "--as", "vm", "--network", "none", "--name", "box", image)
    found = subprocess.run(["pgrep", "-U", str(UID), "qemu-system"], capture_output=True, text=True, check=True)
    said = Path(f"/proc/{int(found.stdout)}/status").read_text()
    lines = {name: rest.split() for name, _, rest in (line.partition(":") for line in said.splitlines())}
    assert set(lines["Uid"]) == {str(UID)}
    assert int(lines["CapEff"][0], 16) == int(lines["CapPrm"][0], 16) == 0
    assert (lines["NoNewPrivs"], lines["Seccomp"]) == (["1"], ["2"])
    user("rm", "-f", "box")


def test_prune_ends_what_a_killed_command_left(user: User, image: Path) -> None:
    """Killed are the command that waits for it and all of its own; the container's command lives on."""
    script = ("sh", "-c", "echo up; sleep 1000")
    with user.cli.start("run", "--as", "container", "--name", "lost", image, "--", *script) as running:
        assert running.stdout.readline() == b"up\n"
        running.kill()
    assert user.cli.ps()["lost"]["state"] == "running"
    user("rm", "-f", "lost")
    user("prune")


@pytest.mark.skipif(Path("/sys/fs/cgroup/cgroup.controllers").exists(), reason="this host has cgroup v2")
@pytest.mark.parametrize("limit", ("cpus: 0.5", "mem_limit: 64m", "pids_limit: 9"))
def test_a_limit_that_cannot_be_kept_is_refused(user: User, image: Path, limit: str) -> None:
    spec = image.with_name("limited.yaml")
    spec.write_text(f"image: {{rootfs: ./tools.tar}}\ncommand: [id]\n{limit}\n")
    said = user.error("run", "--rm", "--as", "container", spec)
    assert limit.partition(":")[0] in said
    assert "no control groups for this user" in said


def test_a_strangers_directory_for_sockets_is_refused(user: User, tmp_path: Path) -> None:
    run = user.directory / "run/hybrid"
    shutil.rmtree(run)
    run.mkdir(mode=0o777)
    run.chmod(0o777)
    try:
        assert "only this user" in user.error("ps", "-a", code=1)
    finally:
        shutil.rmtree(run)


def test_first_commands_at_once_share_one_namespace(user: User, image: Path) -> None:
    words = ("run", "-d", "--as", "container", "--network", "none", image, "--", "sleep", "1000")
    started = [user.cli.start(*words) for _ in range(3)]
    for each in started:
        _, err = each.communicate(timeout=120)
        assert each.returncode == 0, err
    links = {str(Path(f"/proc/{pid}/ns/user").readlink()) for pid in _pids_of(user)}
    assert len(links) == 1
    assert sorted(row["state"] for row in user.cli.ps().values()) == ["running"] * 3


def _pids_of(user: User) -> list[int]:
    """The monitors of the user's containers."""
    found = subprocess.run(["pgrep", "-U", str(UID), "conmon"], capture_output=True, text=True, check=True)
    return [int(word) for word in found.stdout.split()]


def test_a_holder_that_was_killed_is_replaced(user: User) -> None:
    user("ps")
    record = user.directory / "run/hybrid/userns.json"
    assert not record.exists()
    record.write_text(json.dumps({"pid": os.getpid(), "started": 1, "boot": "another"}))
    user("ps")
    assert not record.exists()
