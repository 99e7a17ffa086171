"""Images from every source, for real: trees and tars, archives, a registry on loopback, Debian packages."""

from __future__ import annotations

import base64
import gzip
import hashlib
import http.server
import io
import json
import lzma
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from hybrid.driver import Kind
from hybrid.errors import ImageError
from hybrid.home import Home
from hybrid.image import Image, merge
from hybrid.images import ImageStore
from hybrid.spec import Spec, for_image, load
from hybrid.store import InstanceStore, Record
from tests.registry import running_registry

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="unpacking with owners needs root")

Write = Callable[[str], Spec]


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(Home(tmp_path / "home", tmp_path / "run"))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small tree with what packing and unpacking can lose."""
    root = tmp_path / "tree"
    for directory in ("bin", "etc", "tmp", "srv/www"):
        (root / directory).mkdir(parents=True)
    (root / "bin/hello").write_text("#!/bin/sh\n")
    (root / "bin/hello").chmod(0o755)
    (root / "bin/sh").write_bytes(b"\x7fELF")
    (root / "bin/sh").chmod(0o4755)
    (root / "bin/twin").hardlink_to(root / "bin/sh")
    (root / "tmp").chmod(0o1777)
    root.chmod(0o750)
    os.chown(root, 0, 33)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nweb:x:33:33::/srv/www:/bin/sh\n")
    os.chown(root / "srv/www", 33, 65534)
    (root / "etc/up").symlink_to("../../../../outside")
    (root / "etc/absolute").symlink_to("/etc/passwd")
    os.close(os.open(os.fsencode(root) + b"/srv/\xff\xfe", os.O_CREAT | os.O_WRONLY, 0o600))
    os.setxattr(root / "bin/hello", "user.note", b"kept")
    os.setxattr(root / "bin/hello", "security.capability", bytes.fromhex("0100000200200000" + "00" * 12))
    return root


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A spec file from its text."""

    def make(text: str) -> Spec:
        path = tmp_path / "app.yaml"
        path.write_text(text)
        return load(path)

    return make


def facts(root: Path) -> dict[bytes, tuple[Any, ...]]:
    """What a tree is made of, names as bytes."""
    found: dict[bytes, tuple[Any, ...]] = {}
    for directory, names, files in os.walk(os.fsencode(root)):
        for path in (directory, *(directory + b"/" + name for name in (*names, *files))):
            each = os.lstat(path)
            content: bytes = b""
            if stat.S_ISREG(each.st_mode):
                content = Path(os.fsdecode(path)).read_bytes()
            elif stat.S_ISLNK(each.st_mode):
                content = os.fsencode(Path(os.fsdecode(path)).readlink())
            xattrs = sorted((name, os.getxattr(path, name)) for name in os.listxattr(path, follow_symlinks=False))
            nlink = each.st_nlink if stat.S_ISREG(each.st_mode) else 0
            key = os.path.relpath(path, os.fsencode(root))
            found[key] = (each.st_mode, each.st_uid, each.st_gid, each.st_mtime_ns, nlink, content, tuple(xattrs))
    return found


def nothing_half_made(store: ImageStore) -> bool:
    return not list(store.directory.glob(".work-*"))


def test_a_tree_is_kept_as_it_is_and_equal_trees_are_one_image(store: ImageStore, tree: Path, write: Write) -> None:
    image = store.ensure(write("image: {rootfs: ./tree}"))
    assert facts(image.tree) == facts(tree)
    assert image.tree_bytes > 0 and image.source == f"rootfs {tree}"
    copy = tree.with_name("copy")
    subprocess.run(["cp", "-a", tree, copy], check=True)
    assert store.ensure(write("image: {rootfs: ./copy}")).digest == image.digest
    (copy / "etc/more").write_text("x")
    assert store.ensure(write("image: {rootfs: ./copy}")).digest != image.digest
    assert len(list(store)) == 2 and nothing_half_made(store)


@pytest.mark.parametrize("compress", ["", "gzip", "xz", "zstd", "lz4"])
def test_a_tar_compressed_or_not_is_the_same_image(store: ImageStore, tree: Path, write: Write, compress: str) -> None:
    tar = tree.with_name("tree.tar")
    subprocess.run(["tar", "--xattrs", "--xattrs-include=*", "--format=pax", "-C", tree, "-cf", tar, "."], check=True)
    plain = store.ensure(write("image: {rootfs: ./tree.tar}"))
    assert {key: value[:3] for key, value in facts(plain.tree).items()} == {
        key: value[:3] for key, value in facts(tree).items()
    }
    if compress:
        if shutil.which(compress) is None:
            pytest.skip(f"{compress} is not installed")
        packed = tree.with_name(f"tree.tar.{compress}")
        packed.write_bytes(subprocess.run([compress, "-c", tar], check=True, capture_output=True).stdout)
        assert store.ensure(write(f"image: {{rootfs: ./{packed.name}}}")).digest == plain.digest


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", data: bytes = b"") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(data)
    return info, data


@pytest.mark.parametrize(
    "entries",
    [
        [entry("../escaped", data=b"x")],
        [entry("../../../../../../../../../../tmp/hybrid-escaped", data=b"x")],
        [entry("out", tarfile.SYMTYPE, "../.."), entry("out/escaped", data=b"x")],
        [entry("out", tarfile.SYMTYPE, "/"), entry("out/escaped", data=b"x")],
        [entry("steal", tarfile.LNKTYPE, "../../../../../../etc/shadow")],
        [entry("steal", tarfile.LNKTYPE, "/etc/shadow")],
        [entry(".wh...", data=b"")],
        [entry("a/.wh...", data=b"")],
    ],
    ids=["up", "far-up", "link-up", "link-root", "hardlink-up", "hardlink-root", "whiteout-dots", "whiteout-parent"],
)
def test_a_hostile_tar_reaches_nothing_outside(
    store: ImageStore, tmp_path: Path, write: Write, entries: list[tuple[tarfile.TarInfo, bytes]]
) -> None:
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        for info, data in entries:
            tar.addfile(info, io.BytesIO(data))
    shadow = Path("/etc/shadow").stat()
    try:
        image = store.ensure(write("image: {rootfs: ./evil.tar}"))
    except ImageError as error:
        assert "cannot be unpacked" in error.what and error.mend
    else:
        stolen = image.tree / "steal"
        assert not stolen.exists() or stolen.stat().st_ino != shadow.st_ino
    outside = [path for path in tmp_path.rglob("*escaped*") if "rootfs" not in path.parts]
    assert outside == [] and not Path("/escaped").exists() and not Path("/tmp/hybrid-escaped").exists()
    assert Path("/etc/shadow").stat().st_nlink == shadow.st_nlink
    assert nothing_half_made(store)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("text.tar", b"not a tar at all", "no tar"),
        ("empty.tar", b"\0" * 10240, "empty"),
        ("cut.tar.gz", gzip.compress(os.urandom(4000))[:2000], "decompressed"),
        ("gzip.tar", gzip.compress(b"hello"), "no tar"),
        ("cut.tar.xz", lzma.compress(b"x" * 4000)[:60], "decompressed"),
    ],
)
def test_what_is_no_tar_is_refused(
    store: ImageStore, tmp_path: Path, write: Write, name: str, content: bytes, says: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageError, match=says) as caught:
        store.ensure(write(f"image: {{rootfs: ./{name}}}"))
    assert caught.value.mend and name in caught.value.where and nothing_half_made(store) and not list(store)


CONFIG = {
    "Entrypoint": ["/bin/hello"],
    "Cmd": ["world"],
    "Env": ["PATH=/bin", "GREETING=hi"],
    "WorkingDir": "/srv/www",
    "User": "web",
    "StopSignal": "SIGQUIT",
    "Healthcheck": {"Test": ["CMD", "/bin/hello"], "Interval": 2_000_000_000, "Retries": 5},
    "Labels": {"a": "b"},
}


@pytest.fixture
def saved(tree: Path) -> Path:
    """What `docker save` writes."""
    path = tree.with_name("saved:1.tar")
    layer = tree.with_name("layer.tar")
    subprocess.run(["tar", "--xattrs", "--xattrs-include=*", "--format=pax", "-C", tree, "-cf", layer, "."], check=True)
    diff = hashlib.sha256(layer.read_bytes()).hexdigest()
    config = json.dumps(
        {
            "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine],
            "os": "linux",
            "config": CONFIG,
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{diff}"]},
            "history": [],
        }
    ).encode()
    manifest = [{"Config": "config.json", "RepoTags": ["app:1"], "Layers": ["layer.tar"]}]
    members = {"config.json": config, "layer.tar": layer.read_bytes(), "manifest.json": json.dumps(manifest).encode()}
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info, data = entry(name, data=data)
            tar.addfile(info, io.BytesIO(data))
    return path


def skopeo(*words: str | Path) -> None:
    subprocess.run(["skopeo", "--insecure-policy", "copy", "--quiet", *words], check=True, capture_output=True)


def test_a_docker_archive_keeps_its_config(store: ImageStore, saved: Path, tree: Path, write: Write) -> None:
    spec = write(f"image: {{archive: './{saved.name}'}}\nenvironment: {{GREETING: ho}}")
    image = store.ensure(spec)
    assert store.ensure(spec) == image
    assert facts(image.tree).keys() == facts(tree).keys()
    process = merge(spec, image, ["you"], "app-1")
    assert process.argv == ("/bin/hello", "you") and process.executable == "/bin/hello"
    assert (process.uid, process.gid, process.cwd, process.stop_signal) == (33, 33, "/srv/www", signal.SIGQUIT)
    assert process.env == {"PATH": "/bin", "HOSTNAME": "app-1", "HOME": "/srv/www", "GREETING": "ho"}
    assert process.healthcheck is not None and process.healthcheck.test == ("/bin/hello",)
    assert (process.healthcheck.interval, process.healthcheck.retries) == (2.0, 5)


@pytest.mark.parametrize("form", ["oci-archive", "oci", "docker-archive.gz", "docker-archive.zstd"])
def test_other_forms_of_archives(store: ImageStore, saved: Path, tree: Path, write: Write, form: str) -> None:
    target = tree.with_name("image.out")
    source = tree.with_name("saved.tar")
    saved.rename(source)
    if form == "docker-archive.gz":
        target.write_bytes(gzip.compress(source.read_bytes()))
    elif form == "docker-archive.zstd":
        subprocess.run(["zstd", "-q", source, "-o", target], check=True)
    else:
        skopeo(f"docker-archive:{source}", f"{form}:{target}:app")
    image = store.ensure(write("image: {archive: ./image.out}"))
    assert image.config.entrypoint == ("/bin/hello",) and image.config.user == "web"
    assert facts(image.tree).keys() == facts(tree).keys() and nothing_half_made(store)


def test_archives_under_the_wrong_key_say_so(store: ImageStore, saved: Path, tree: Path, write: Write) -> None:
    oci = tree.with_name("oci.tar")
    saved = saved.rename(tree.with_name("saved.tar"))
    skopeo(f"docker-archive:{saved}", f"oci-archive:{oci}:app")
    with pytest.raises(ImageError, match="archive") as caught:
        store.ensure(write("image: {rootfs: ./oci.tar}"))
    assert caught.value.mend == "write archive: oci.tar"
    subprocess.run(["tar", "-C", tree, "-cf", tree.with_name("tree.tar"), "."], check=True)
    with pytest.raises(ImageError, match="holds no image") as caught:
        store.ensure(write("image: {archive: ./tree.tar}"))
    assert "rootfs: tree.tar" in caught.value.mend
    with pytest.raises(ImageError, match="no OCI layout"):
        store.ensure(write("image: {archive: ./tree}"))


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    with running_registry(tmp_path / "registry") as address:
        yield address


@pytest.fixture
def pushed(registry: str, saved: Path) -> str:
    plain = saved.rename(saved.with_name("saved.tar"))
    skopeo("--dest-tls-verify=false", f"docker-archive:{plain}", f"docker://{registry}/team/app:1")
    return f"{registry}/team/app"


def remote_digest(name: str) -> str:
    argv = ["skopeo", "inspect", "--tls-verify=false", "--raw", f"docker://{name}"]
    return f"sha256:{hashlib.sha256(subprocess.run(argv, check=True, capture_output=True).stdout).hexdigest()}"


def test_pull_by_tag_and_digest(store: ImageStore, pushed: str) -> None:
    steps: list[str] = []

    class Heard:
        def step(self, text: str) -> None:
            steps.append(text)

        def amount(self, text: str, total: int, done: Callable[[], int]) -> None:
            assert total > 0 and done() == 0
            steps.append(text)

    image = store.ensure(for_image(f"{pushed}:1"), Heard())
    assert image.digest == remote_digest(f"{pushed}:1")
    assert image.names == (f"{pushed}:1",) and steps[0] == f"pulling {pushed}:1"
    assert image.config.healthcheck is not None, "the registry's own config is kept, Docker's parts too"
    assert (image.directory / "manifest.json").exists() and (image.directory / "config.json").exists()
    steps.clear()
    assert store.ensure(for_image(f"{pushed}:1"), Heard()).digest == image.digest and steps == []
    pinned = store.pull(f"{pushed}@{image.digest}")
    assert pinned.digest == image.digest and f"{pushed}@{image.digest}" in pinned.names
    assert store.get(image.digest[7:20]).digest == image.digest == store.get(f"{pushed}:1").digest


def test_pulls_that_fail_say_why(store: ImageStore, pushed: str, registry: str) -> None:
    zero = "sha256:" + "0" * 64
    for name, says in {
        f"{pushed}:2": "has no image team/app:2",
        f"{registry}/nobody:1": "has no image nobody:1",
        f"{pushed}@{zero}": f"has no image team/app@{zero}",
        "127.0.0.1:1/app": "cannot be reached",
        "localhost/app": "no image is named",
        "Upper/app": "is no image reference",
    }.items():
        with pytest.raises(ImageError, match=re.escape(says)) as caught:
            store.pull(name)
        assert caught.value.mend and caught.value.exit_code == 125 and "\n" not in caught.value.what
    assert not list(store) and nothing_half_made(store)


def test_a_registry_that_wants_a_password(
    store: ImageStore, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = saved.rename(saved.with_name("saved.tar"))
    with running_registry(tmp_path / "closed", password=True) as closed:
        name = f"{closed}/team/app:1"
        skopeo("--dest-tls-verify=false", "--dest-creds=user:secret", f"docker-archive:{plain}", f"docker://{name}")
        with pytest.raises(ImageError, match="does not let this user read team/app") as caught:
            store.pull(name)
        assert f"skopeo login {closed}" in caught.value.mend and not list(store)
        token = base64.b64encode(b"user:secret").decode()
        (tmp_path / "auth.json").write_text(json.dumps({"auths": {closed: {"auth": token}}}))
        monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "auth.json"))
        assert store.pull(name).names == (name,)


def test_a_registry_that_lies_about_a_digest_is_found_out(store: ImageStore) -> None:
    """It serves some other manifest under the digest that was asked for."""
    manifest = json.dumps({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json"}).encode()

    class Liar(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = manifest if "/manifests/" in self.path else b"{}"
            self.send_response(200)
            self.send_header("Content-Type", "application/vnd.oci.image.manifest.v1+json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Liar) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            with pytest.raises(ImageError, match="gave other bytes"):
                store.pull(f"127.0.0.1:{server.server_port}/app@sha256:{'1' * 64}")
        finally:
            server.shutdown()
            serving.join()
    assert not list(store) and nothing_half_made(store)


def test_parallel_builds_make_one_image(store: ImageStore, tree: Path, write: Write) -> None:
    spec = write("image: {rootfs: ./tree}")
    with ThreadPoolExecutor(4) as pool:
        images = list(pool.map(lambda _: ImageStore(store.home).ensure(spec), range(8)))
    assert len({image.digest for image in images}) == 1 and nothing_half_made(store)


def test_what_a_killed_build_left_is_swept(store: ImageStore, tree: Path, write: Write) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path\n"
        "from hybrid.home import Home; from hybrid.images import ImageStore, layout; from hybrid.spec import load\n"
        "layout.unpack = lambda *given: os.kill(os.getpid(), signal.SIGKILL)\n"
        "ImageStore(Home(Path(sys.argv[1]), Path(sys.argv[1]))).ensure(load(Path(sys.argv[2])))\n"
    )
    spec = write("image: {rootfs: ./tree}")
    assert spec.source is not None
    died = subprocess.run([sys.executable, "-c", script, store.home.root, spec.source], check=False)
    assert died.returncode == -signal.SIGKILL and not nothing_half_made(store) and not list(store)
    store.ensure(spec)
    assert nothing_half_made(store) and len(list(store)) == 1


def test_a_full_disk_is_one_clear_error(tree: Path, write: Write, tmp_path: Path) -> None:
    (tree / "big").write_bytes(os.urandom(3 * 1024**2))
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", small], check=True)
    try:
        store = ImageStore(Home(small, small))
        with pytest.raises(ImageError, match="no space is left") as caught:
            store.ensure(write("image: {rootfs: ./tree}"))
        assert "HYBRID_HOME" in caught.value.mend
        assert nothing_half_made(store) and not list(store)
    finally:
        subprocess.run(["umount", small], check=True)


def test_names_and_removal(store: ImageStore, tree: Path, write: Write) -> None:
    spec = write("image: {rootfs: ./tree}")
    image = store.build(spec)
    assert image.names == ("localhost/app:latest",)
    assert store.build(spec, name="other:2").names == ("localhost/app:latest", "localhost/other:2")
    assert store.get("app").digest == store.ensure(for_image("other:2")).digest == image.digest
    store.remove("other:2")
    use(store, image, "web")
    with pytest.raises(ImageError, match="in use by web") as caught:
        store.remove("app")
    assert "hybrid rm web" in caught.value.mend and store.get("app").tree.exists()
    shutil.rmtree(store.home.instances / "web")
    store.remove("app")
    assert not list(store) and not image.directory.exists() and nothing_half_made(store)
    with pytest.raises(ImageError, match="no image is named 'app'"):
        store.get("app")
    assert store.ensure(spec).digest == image.digest


def use(store: ImageStore, image: Image, name: str) -> None:
    directory = store.home.instances / name
    directory.mkdir(parents=True)
    Record(name, "0" * 16, Kind.HOST, image.digest, "app", ("x",), 0.0, directory).save()
    assert [record.name for record in InstanceStore(store.home)] == [name]


def test_a_damaged_image_says_so(store: ImageStore, tree: Path, write: Write) -> None:
    image = store.build(write("image: {rootfs: ./tree}"))
    (image.directory / "image.json").write_text("{")
    with pytest.raises(ImageError, match="damaged") as caught:
        store.get("app")
    assert str(image.directory) in caught.value.where


def test_debian_mistakes_are_found_early(store: ImageStore, write: Write) -> None:
    if shutil.which("mmdebstrap") is None:
        pytest.skip("mmdebstrap is not installed")
    with pytest.raises(ImageError, match="package no-such-package is not in bookworm"):
        store.ensure(write("image: {debian: bookworm, packages: [no-such-package]}"))
    with pytest.raises(ImageError, match="bookwormx"):
        store.ensure(write("image: {debian: bookwormx}"))
    assert nothing_half_made(store)
