"""`hybrid image …` as it is typed, pull policies, and builds from Containerfiles; over images made entry by entry."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from hybrid.errors import ImageError, SpecError
from hybrid.home import Home
from hybrid.images import ImageStore
from hybrid.spec import Spec, load
from tests import oci
from tests.oci import entry, folder, tar
from tests.registry import Served, running_registry, serving

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="unpacking with owners needs root")

Write = Callable[[str], Spec]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    tmp_path.chmod(0o711)
    return tmp_path


@pytest.fixture
def store(root: Path) -> ImageStore:
    return ImageStore(Home(root / "home", root / "run"))


@pytest.fixture
def write(root: Path) -> Write:
    def make(text: str) -> Spec:
        (root / "app.yaml").write_text(text)
        return load(root / "app.yaml")

    return make


@pytest.fixture
def layout(root: Path) -> Path:
    layers = [tar(folder("etc"), entry("etc/name", data=b"one\n"), entry("etc/\x1b]0;gone", data=b"2" * 3000))]
    layers += [tar(folder("etc"), entry("etc/more", data=b"x" * 5000), root=False)]
    return oci.layout(root / "layout", layers, compress=True, Labels={"evil": "\x1b[2J"})


@pytest.fixture
def hybrid(root: Path, another_cli: Callable[..., Any], layout: Path) -> Callable[..., str]:
    """The command line in a home where the image `app` was built; returns what is printed."""
    (root / "app.yaml").write_text("image: {archive: ./layout}")
    cli = another_cli(root=root / "home")

    def call(*words: str, code: int = 0, error: str = "") -> str:
        ran = cli("image", *words)
        assert ran.returncode == code, ran.stderr
        assert error in ran.stderr.decode()
        assert b"\x1b" not in ran.stdout + ran.stderr
        return str(ran.stdout.decode())

    call("build", str(root / "app.yaml"))
    return call


def test_history_and_inspect(hybrid: Callable[..., str]) -> None:
    lines = hybrid("history", "app").splitlines()
    assert re.split(r"  +", lines[0]) == ["IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT"]
    assert [re.split(r"  +", line)[1:] for line in lines[1:]] == [
        ["2023-11-14T22:13:20", "step 1", "10.2 kB"],
        ["2023-11-14T22:13:20", "step 0", "10.2 kB"],
    ]
    steps = json.loads(hybrid("history", "app", "--format", "json"))
    found = json.loads(hybrid("inspect", "app"))[0]
    assert steps[0]["id"] == found["digest"] and steps[1]["id"] == ""
    assert len(found["layers"]) == 2 and len(found["blobs"]) == 3
    assert (found["os"], found["architecture"]) == ("linux", oci.ARCHITECTURE)
    assert found["config"]["labels"] == {"evil": "\x1b[2J"}


def test_tag_and_rm(hybrid: Callable[..., str]) -> None:
    hybrid("tag", "app", "other:2")
    hybrid("tag", "app", "reg.example:5000/team/app:3")
    rows = json.loads(hybrid("ls", "--format", "json"))
    assert len(rows) == 1 and len(rows[0]["names"]) == 3
    assert hybrid("rm", "app", "other:2", "reg.example:5000/team/app:3").split()[-1].endswith("app:3")
    assert json.loads(hybrid("ls", "--format", "json")) == []
    hybrid("tag", "app", "x", code=1, error="no image is named 'app'")
    hybrid("rm", "app", code=1, error="no image is named 'app'")


def test_verify_names_what_differs(hybrid: Callable[..., str], store: ImageStore) -> None:
    assert hybrid("verify", "app").splitlines()[1].split() == ["app", "ok"]
    image = store.get("app")
    (image.tree / "etc/name").write_text("two\n")
    (image.tree / "etc/more").chmod(0o4755)
    (image.tree / "etc/new\x1b").write_text("")
    (image.tree / "etc/\x1b]0;gone").unlink()
    blob = next(path for path in store.blobs.unused(()) if path.stat().st_size < 400)
    blob.write_bytes(b"rot")
    said = hybrid("verify", "app", code=1)
    assert f"blob {blob.name[:12]}: its digest is" in said
    assert re.search(r"\./etc/name: time \S+ -> \S+, sha256digest \w+ -> \w+", said)
    assert "./etc/more: mode 0644 -> 4755" in said
    assert "./etc/new\\033 was added" in said and "./etc/\\033]0;gone is missing" in said
    found = json.loads(hybrid("verify", "--format", "json", code=1))
    assert found[0]["ok"] is False and len(found[0]["differences"]) == 6
    (image.directory / "mtree").write_text("#mtree v2.0\n")
    assert "the record of its files is damaged" in hybrid("verify", "app", code=1)


@pytest.mark.parametrize("name", ["manifest.json", "config.json"])
def test_a_changed_image_is_not_used(hybrid: Callable[..., str], store: ImageStore, name: str) -> None:
    image = store.get("app")
    path = image.directory / name
    path.write_bytes(path.read_bytes().replace(b'"linux"', b'"Linux"') + b" ")
    hybrid("inspect", "app", code=1, error=f"its {name.partition('.')[0]} was changed")
    assert "was changed" in hybrid("verify", "app", code=1)
    hybrid("rm", "app")
    assert not image.directory.exists()


def test_disk_usage_and_prune(hybrid: Callable[..., str], root: Path, store: ImageStore) -> None:
    rows = [line.split("  ") for line in hybrid("disk-usage").splitlines()]
    assert [row[0] for row in rows] == ["TYPE", "Images", "Blobs", "Build Cache"]
    before = {row["kind"]: row for row in json.loads(hybrid("disk-usage", "--format", "json"))}
    assert before["Images"]["total"] == 1 and before["Blobs"]["total"] == 3
    assert before["Images"]["size"] == before["Images"]["reclaimable"] > 8000
    (store.blobs.directory / ("0" * 64)).write_bytes(bytes(100_000))
    (store.directory / ".work-abc").mkdir()
    shutil.copytree(root / "layout", root / "second")
    (root / "second/oci-layout").write_text('{"imageLayoutVersion": "1.0.0" }')
    hybrid("tag", "app", "kept")
    assert json.loads(hybrid("prune", "--format", "json")) == {"removed": [], "reclaimed": 102_400}
    assert not (store.directory / ".work-abc").exists()
    digest = store.get("app").digest
    said = json.loads(hybrid("prune", "--all", "--format", "json"))
    assert said["removed"] == [digest] and not list(store) and not list(store.blobs.unused(()))


def test_prune_leaves_what_is_used(hybrid: Callable[..., str], root: Path, another_cli: Callable[..., Any]) -> None:
    cli = another_cli(root=root / "home")
    busybox = shutil.which("busybox")
    assert busybox is not None
    program = entry("bin/sleep", data=Path(busybox).read_bytes(), mode=0o755)
    oci.layout(root / "used", [tar(folder("bin"), program)], Cmd=["/bin/sleep", "60"])
    (root / "used.yaml").write_text("image: {archive: ./used}")
    assert cli("run", "-d", "--name", "busy", "--as", "host", root / "used.yaml").returncode == 0
    try:
        removed = json.loads(hybrid("prune", "--all", "--format", "json"))["removed"]
        assert len(removed) == 1
        used = json.loads(hybrid("ls", "--format", "json"))
        assert len(used) == 1
        hybrid("rm", used[0]["digest"], code=1, error="in use by busy")
    finally:
        assert cli("rm", "--force", "busy").returncode == 0


def test_hybrid_prune_sweeps_the_images_too(root: Path, store: ImageStore, another_cli: Callable[..., Any]) -> None:
    store.directory.mkdir(parents=True)
    (store.directory / ".work-abc").mkdir()
    assert another_cli(root=root / "home")("prune").returncode == 0
    assert not (store.directory / ".work-abc").exists()


# Pull policies


@pytest.fixture
def served() -> Iterator[Served]:
    with serving() as registry:
        yield registry


def test_pull_policies(store: ImageStore, served: Served, root: Path, layout: Path, write: Write) -> None:
    name = f"{served.address}/app:1"

    def digest(policy: str) -> str:
        return store.ensure(write(f"image: {name}\n{policy}")).digest

    with pytest.raises(ImageError, match=f"no image is named '{name}'") as caught:
        digest("pull_policy: never")
    assert "pull_policy: never" in caught.value.mend and served.asked == []
    first = served.add(layout)
    assert digest("pull_policy: missing") == first
    second = served.add(oci.layout(root / "second", [tar(entry("new"))]))
    assert digest("pull_policy: missing") == digest("") == digest("pull_policy: if_not_present") == first
    assert digest("pull_policy: never") == first
    assert digest("pull_policy: always") == second == digest("pull_policy: never")
    served.manifests.clear()
    with pytest.raises(ImageError, match="has no image app:1"):
        digest("pull_policy: always")
    assert digest("") == second


def test_policies_of_images_made_here(store: ImageStore, root: Path, write: Write) -> None:
    (root / "tree").mkdir()
    (root / "tree/file").write_text("x")
    with pytest.raises(ImageError, match="is not made yet"):
        store.ensure(write("image: {rootfs: ./tree}\npull_policy: never"))
    image = store.ensure(write("image: {rootfs: ./tree}\npull_policy: build"))
    for policy in ("never", "missing", "always", "build"):
        assert store.ensure(write(f"image: {{rootfs: ./tree}}\npull_policy: {policy}")).digest == image.digest


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("image: x\npull_policy: daily", "'daily' is no pull policy"),
        ("image: x\npull_policy: build", "there is nothing to build"),
        ("build: .\npull_policy: always", "an image without a name cannot be pulled"),
        ("build: .\nimage: {debian: bookworm}", "an image is built or has another source, not both"),
        ("command: x", "image is missing"),
        ("build: ./nowhere", "'./nowhere' does not exist"),
        ("build: {context: ., dockerfile: Nofile}", "has no Nofile"),
        ("build: {context: ., cache_from: [x]}", "build.cache_from is no known key"),
        ("build: {context: ., target: '-x'}", "'-x' is no stage"),
        ("build: {context: ., args: [A=b, '=c']}", "'' is no name of a variable"),
        ("image: x\nplatform: windows/amd64", "'windows/amd64' is no platform"),
    ],
)
def test_mistakes_in_a_spec(root: Path, write: Write, text: str, says: str) -> None:
    (root / "Containerfile").write_text("FROM scratch\n")
    with pytest.raises(SpecError) as caught:
        write(text)
    assert [error.what for error in caught.value.errors if says in error.what], caught.value.errors[0].what
    assert all(error.mend for error in caught.value.errors)


# Containerfiles


@pytest.fixture
def base(root: Path) -> Iterator[str]:
    """An image with a shell in a registry; what a Containerfile may start from."""
    if shutil.which("buildah") is None:
        pytest.skip("buildah is not installed")
    busybox = shutil.which("busybox")
    assert busybox is not None
    with running_registry(root / "registry") as registry:
        links = [entry(f"bin/{name}", tarfile.SYMTYPE, "busybox") for name in ("sh", "cat", "id", "mkdir", "adduser")]
        program = entry("bin/busybox", data=Path(busybox).read_bytes(), mode=0o755)
        layer = tar(folder("bin"), folder("etc"), folder("tmp", 0o1777), program, *links)
        oci.layout(root / "base", [layer])
        argv = ["skopeo", "--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"]
        subprocess.run([*argv, f"oci:{root / 'base'}", f"docker://{registry}/base:1"], check=True, capture_output=True)
        yield f"{registry}/base:1"


CONTAINERFILE = """
ARG BASE
FROM {base} AS first
ARG WHO=nobody
RUN mkdir /made && echo "$WHO" > /made/who
COPY note /made/
USER 33:44
WORKDIR /made
ENV WHO=$WHO EMPTY=
STOPSIGNAL SIGQUIT
HEALTHCHECK --interval=3s --retries=2 CMD cat /made/note
ENTRYPOINT ["cat"]
CMD ["who"]

FROM first AS second
CMD ["note"]
"""


def test_a_containerfile(
    store: ImageStore, root: Path, base: str, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = root / "context"
    context.mkdir()
    (context / "Containerfile").write_text(CONTAINERFILE.format(base=base))
    (context / "note").write_text("a note\n")
    steps: list[str] = []

    class Heard:
        def step(self, text: str) -> None:
            steps.append(text)

        def amount(self, text: str, total: int, done: Callable[[], int]) -> None:
            pass

    monkeypatch.setenv("WHO", "caller")
    spec = write("build: {context: ./context, args: [WHO], target: first}\nimage: team/made:1\n")
    image = store.ensure(spec, Heard())
    assert image.names == ("localhost/team/made:1",)
    assert (image.tree / "made/who").read_text() == "caller\n"
    assert (image.tree / "made/note").read_text() == "a note\n"
    found = image.config
    assert (found.entrypoint, found.cmd, found.user, found.working_dir) == (("cat",), ("who",), "33:44", "/made")
    assert (found.env["WHO"], found.env["EMPTY"], found.stop_signal) == ("caller", "", "SIGQUIT")
    assert found.healthcheck is not None and found.healthcheck.interval == 3
    assert any("RUN mkdir" in step for step in steps)
    steps.clear()
    assert store.ensure(spec, Heard()).digest == image.digest and steps == []
    assert store.build(spec).digest == image.digest, "from buildah's layers"
    (context / "note").write_text("another\n")
    changed = store.ensure(spec)
    assert changed.digest != image.digest and (changed.tree / "made/note").read_text() == "another\n"
    second = store.ensure(write("build: {context: ./context, dockerfile: Containerfile}"))
    assert second.config.cmd == ("note",) and (second.tree / "made/who").read_text() == "nobody\n"
    assert not list(store.directory.glob(".work-*"))
    assert not [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(root) in line]


FAILING: Mapping[str, tuple[str, str]] = {
    "step": ("RUN echo some words; exit 3", "STEP 2/2: RUN echo some words; exit 3"),
    "file": ("COPY missing /", "missing"),
    "word": ("NONSENSE x", "(?i)nonsense"),
}


@pytest.mark.parametrize("case", FAILING)
def test_a_containerfile_that_fails(store: ImageStore, root: Path, base: str, write: Write, case: str) -> None:
    line, says = FAILING[case]
    (root / "context").mkdir()
    (root / "context/Dockerfile").write_text(f"FROM {base}\n{line}\n")
    with pytest.raises(ImageError, match=says) as caught:
        store.ensure(write("build: ./context"))
    assert caught.value.where.endswith("Dockerfile") and caught.value.mend and "\n" not in caught.value.what
    assert not list(store) and not list(store.directory.glob(".work-*"))
