"""Registries: with password and TLS, for several machines, that stall, lie or lead in circles."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hybrid.errors import ImageError
from hybrid.home import Home
from hybrid.images import ImageStore
from hybrid.spec import load
from hybrid.store import locked
from tests import oci
from tests.oci import entry, folder, tar
from tests.registry import Served, running_registry, serving

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="unpacking with owners needs root")


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(Home(tmp_path / "home", tmp_path / "run"))


@pytest.fixture
def served() -> Iterator[Served]:
    with serving() as registry:
        yield registry


@pytest.fixture
def layers() -> list[bytes]:
    """Busybox, and a file above it; compressed they are not one byte's difference apart."""
    busybox = shutil.which("busybox")
    assert busybox is not None, "busybox-static is needed"
    program = entry("bin/busybox", data=Path(busybox).read_bytes(), mode=0o755)
    lower = tar(folder("bin"), program, entry("bin/sh", tarfile.SYMTYPE, "busybox"))
    return [lower, tar(folder("etc"), entry("etc/note", data=b"above\n"), root=False)]


def login(home: Path, registry: str) -> Path:
    """What `skopeo login` writes."""
    token = base64.b64encode(b"user:secret").decode()
    path = home / "auth.json"
    path.write_text(json.dumps({"auths": {registry: {"auth": token}}}))
    return path


def push(layout: Path, name: str, *words: str) -> None:
    argv = ["skopeo", "--insecure-policy", "copy", "--quiet", *words, f"oci:{layout}", f"docker://{name}"]
    subprocess.run(argv, check=True, capture_output=True)


@pytest.mark.parametrize("kind", ["container", "vm"])
def test_a_registry_with_password_and_tls(
    tmp_path: Path, layers: list[bytes], another_cli: Callable[..., Any], able: Callable[[str], None], kind: str
) -> None:
    """Pushed by skopeo, pulled by us, run."""
    able(kind)
    tmp_path.chmod(0o711)
    with running_registry(tmp_path / "registry", password=True, tls=True) as registry:
        trusted = tmp_path / "user/.config/containers/certs.d" / registry
        trusted.mkdir(parents=True)
        shutil.copy(tmp_path / "registry/ca.crt", trusted)
        auth = login(tmp_path, registry)
        name = f"{registry}/team/app:1"
        layout = oci.layout(tmp_path / "layout", layers, compress=True, Cmd=["sh", "-c", "cat /etc/note; exit 7"])
        push(layout, name, f"--dest-cert-dir={trusted}", "--dest-creds=user:secret")
        cli = another_cli(env={"HOME": str(tmp_path / "user"), "REGISTRY_AUTH_FILE": str(auth)})
        pulled = cli("image", "pull", name)
        assert pulled.returncode == 0, pulled.stderr
        digest = json.loads((layout / "index.json").read_text())["manifests"][0]["digest"]
        assert pulled.stdout.decode().strip() == digest
    try:
        ran = cli("run", "--rm", "--as", kind, name)
        assert (ran.returncode, ran.stdout) == (7, b"above\n"), ran.stderr
    finally:
        assert cli("image", "rm", name).returncode == 0


def test_certificates_and_passwords_that_do_not_fit(
    store: ImageStore, tmp_path: Path, layers: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    oci.layout(tmp_path / "layout", layers)
    (tmp_path / "app.yaml").write_text("image: {archive: ./layout}")
    image = store.build(load(tmp_path / "app.yaml"))
    with running_registry(tmp_path / "registry", password=True, tls=True) as registry:
        trusted = tmp_path / "user/.config/containers/certs.d" / registry
        trusted.mkdir(parents=True)
        (tmp_path / "other").mkdir()
        with pytest.raises(ImageError, match=f"certificate of {registry} is not trusted") as caught:
            store.pull(f"{registry}/app:1")
        assert "certs.d" in caught.value.mend
        shutil.copy(tmp_path / "registry/ca.crt", trusted)
        with pytest.raises(ImageError, match="does not let this user write team/app") as caught:
            store.push("app", f"{registry}/team/app:2")
        assert f"skopeo login {registry}" in caught.value.mend
        (tmp_path / "docker").mkdir()
        login(tmp_path / "docker", registry).rename(tmp_path / "docker/config.json")
        assert store.push("app", f"{registry}/team/app:2") == f"{registry}/team/app@{image.digest}"
        store.remove("app")
        assert store.pull(f"{registry}/team/app:2").digest == image.digest
        with pytest.raises(ImageError, match="no place in a registry"):
            store.push(f"{registry}/team/app:2", "localhost/app:2")


def several(served: Served, tmp_path: Path, *platforms: str) -> dict[str, str]:
    """A list, tagged `many`, of one image for each platform; their digests."""
    found, entries = {}, []
    for number, platform in enumerate(platforms):
        layout = oci.layout(tmp_path / f"layout{number}", [tar(entry("arch", data=platform.encode()))])
        found[platform] = served.add(layout, platform.replace("/", "-"))
        system, architecture, variant = (*platform.split("/"), "")[:3]
        values = {"os": system, "architecture": architecture} | ({"variant": variant} if variant else {})
        kind, size = "application/vnd.oci.image.manifest.v1+json", len(served.manifests[found[platform]])
        entries.append({"mediaType": kind, "digest": found[platform], "size": size, "platform": values})
    served.put(index(entries), "many")
    return found


def index(entries: list[dict[str, Any]]) -> bytes:
    kind = "application/vnd.oci.image.index.v1+json"
    return json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": entries}).encode()


def test_an_image_for_several_machines(store: ImageStore, served: Served, tmp_path: Path) -> None:
    here = f"linux/{oci.ARCHITECTURE}"
    digests = several(served, tmp_path, "linux/s390x", here, "linux/arm/v7")
    name = f"{served.address}/app:many"
    image = store.pull(name)
    assert image.digest == digests[here] and (image.tree / "arch").read_text() == here
    assert len(served.asked) == 2, "nothing of the other machines' images"
    for platform, says in {
        "linux/riscv64": "has no image for linux/riscv64; there are linux/",
        "linux/arm/v6": "has no image for linux/arm/v6",
    }.items():
        (tmp_path / "app.yaml").write_text(f"image: {name}\nplatform: {platform}\n")
        with pytest.raises(ImageError, match=says) as caught:
            store.ensure(load(tmp_path / "app.yaml"))
        assert caught.value.mend
    (tmp_path / "app.yaml").write_text(f"image: {name}\nplatform: {here}\n")
    assert store.ensure(load(tmp_path / "app.yaml")).digest == image.digest


def test_an_image_of_another_machine_is_refused(store: ImageStore, served: Served, tmp_path: Path) -> None:
    layout = oci.layout(tmp_path / "layout", [tar(entry("x"))])
    for path in (layout / "blobs/sha256").iterdir():
        text = path.read_bytes()
        if b'"diff_ids"' in text:
            foreign = text.replace(f'"{oci.ARCHITECTURE}"'.encode(), b'"mips64"')
            manifest = served.blobs | {oci.digest(foreign): foreign}
            served.blobs |= manifest
            old, new = oci.digest(text), oci.digest(foreign)
            sizes = (f'"size": {len(text)}'.encode(), f'"size": {len(foreign)}'.encode())
    for path in (layout / "blobs/sha256").iterdir():
        served.blobs[f"sha256:{path.name}"] = path.read_bytes()
        if b'"layers"' in path.read_bytes() and b"schemaVersion" in path.read_bytes():
            served.put(path.read_bytes().replace(old.encode(), new.encode()).replace(*sizes), "1")
    with pytest.raises(ImageError, match="for 'linux/mips64', this machine is linux/"):
        store.pull(f"{served.address}/app:1")
    assert not list(store)


def test_lists_that_lead_to_lists(store: ImageStore, served: Served) -> None:
    kind = "application/vnd.oci.image.index.v1+json"
    digest, size = f"sha256:{'0' * 64}", 2
    for number in range(9):
        text = index([{"mediaType": kind, "digest": digest, "size": size}])
        digest, size = served.put(text, f"deep{number}"), len(text)
    with pytest.raises(ImageError, match="a list of lists of images, more than 4 deep") as caught:
        store.pull(f"{served.address}/app:deep8")
    assert caught.value.mend and not list(store)


def test_a_list_that_leads_to_itself(store: ImageStore, served: Served) -> None:
    """No list can name its own digest: what is served under the name is another one, and that is found out."""
    kind = "application/vnd.oci.image.index.v1+json"
    first = index([{"mediaType": kind, "digest": f"sha256:{'1' * 64}", "size": 2}])
    served.put(first, "loop")
    served.manifests[f"sha256:{'1' * 64}"] = first
    with pytest.raises(ImageError, match="gave other bytes than"):
        store.pull(f"{served.address}/app:loop")


def test_what_is_here_is_not_fetched(store: ImageStore, served: Served, tmp_path: Path, layers: list[bytes]) -> None:
    first = served.add(oci.layout(tmp_path / "one", layers, compress=True), "1")
    image = store.pull(f"{served.address}/app:1")
    assert image.digest == first and len(served.asked) == 3
    served.asked.clear()
    assert store.pull(f"{served.address}/app:1").digest == first and served.asked == []
    more = [*layers, tar(entry("more", data=b"new"), root=False)]
    served.add(oci.layout(tmp_path / "two", more, compress=True), "2")
    second = store.pull(f"{served.address}/app:2")
    assert len(served.asked) == 2, "one layer and the config"
    assert (second.tree / "more").read_bytes() == b"new" and (second.tree / "etc/note").exists()
    shared = {path.name for path in store.blobs.unused(())}
    store.remove(f"{served.address}/app:2")
    assert {path.name for path in store.blobs.unused(())} < shared
    assert list(store.blobs.unused(store.used_blobs())) == []


def test_layers_come_side_by_side(store: ImageStore, served: Served, tmp_path: Path, layers: list[bytes]) -> None:
    together = threading.Barrier(2)
    both = {oci.digest(layer) for layer in layers}

    def before(digest: str) -> None:
        if digest in both:
            together.wait(60)

    served.before = before
    served.add(oci.layout(tmp_path / "layout", layers))
    store.pull(f"{served.address}/app:1")
    assert not together.broken


def test_a_killed_pull_goes_on_where_it_was(
    store: ImageStore, served: Served, tmp_path: Path, layers: list[bytes]
) -> None:
    digest = served.add(oci.layout(tmp_path / "layout", layers))
    small, large = oci.digest(layers[1]), oci.digest(layers[0])
    served.half = {large}
    script = (
        "import sys; from pathlib import Path; from hybrid.home import Home; from hybrid.images import ImageStore\n"
        "ImageStore(Home(Path(sys.argv[1]), Path(sys.argv[1]))).pull(sys.argv[2])\n"
    )
    name = f"{served.address}/app:1"
    with subprocess.Popen([sys.executable, "-c", script, store.home.root, name]) as pulling:
        try:
            assert served.halfway.wait(60)
            watch = arrivals(store.blobs.path(small))
            assert watch, "the small layer came while the large one hung"
        finally:
            pulling.send_signal(signal.SIGKILL)
    assert not list(store) and not store.blobs.has(large)
    served.half, served.asked = set(), []
    served.release.set()
    assert store.pull(name).digest == digest
    assert large in served.asked and small not in served.asked
    for leftover in store.directory.glob(".work-*"):
        with locked(leftover / "lock"):
            pass  # until the killed pull's skopeo is gone, too
    store.sweep()
    assert not list(store.directory.glob(".work-*"))


def arrivals(path: Path) -> bool:
    """Wait, without polling, until there is a file at `path`."""
    from inotify_simple import INotify, flags

    with INotify() as notifier:
        notifier.add_watch(path.parent, flags.MOVED_TO | flags.CREATE)
        while not path.exists():
            if not notifier.read(timeout=60_000):
                return False
    return True


def test_blobs_that_are_not_what_was_promised(
    store: ImageStore, served: Served, tmp_path: Path, layers: list[bytes]
) -> None:
    served.add(oci.layout(tmp_path / "layout", layers))
    layer, config = oci.digest(layers[1]), oci.digest(oci.config(layers))
    for lying in (layer, config):
        right = served.blobs[lying]
        for wrong in (right[:-1] + b"!", right + bytes(30 * 1024**2), right[: len(right) // 2]):
            served.blobs[lying] = wrong
            with pytest.raises(ImageError) as caught:
                store.pull(f"{served.address}/app:1")
            assert caught.value.mend and not list(store) and not list(store.directory.glob(".work-*"))
        served.blobs[lying] = right
    assert store.pull(f"{served.address}/app:1")


def test_a_blob_that_rotted_here_is_found_and_fetched_anew(
    store: ImageStore, served: Served, tmp_path: Path, layers: list[bytes]
) -> None:
    served.add(oci.layout(tmp_path / "one", layers), "1")
    store.pull(f"{served.address}/app:1")
    path = store.blobs.path(oci.digest(layers[0]))
    path.write_bytes(bytes(path.stat().st_size))
    served.add(oci.layout(tmp_path / "two", [*layers, tar(entry("x"), root=False)]), "2")
    with pytest.raises(ImageError, match="is not what its manifest says"):
        store.pull(f"{served.address}/app:2")
    assert (store.pull(f"{served.address}/app:2").tree / "etc/note").exists()
