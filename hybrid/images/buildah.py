"""Images built of a Containerfile by buildah, with a storage of its own: the user's is neither used nor touched."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from hybrid import process
from hybrid.errors import ImageError, ToolError
from hybrid.home import Home
from hybrid.images import reference, skopeo
from hybrid.images.layout import Layout, from_dir
from hybrid.images.limits import limits
from hybrid.images.progress import Progress
from hybrid.images.tools import alone, watch
from hybrid.spec import BuildSource

_STEP = re.compile(r"(?:\[\d+/\d+\] )?STEP (\d+/\d+): (.*)")
_FROM = re.compile(r"^\s*(?:FROM\s+(?:--\S+\s+)*|COPY\s+--from=)([^\s]+)", re.IGNORECASE | re.MULTILINE)
_CONFIGS = (Path("/etc/containers/registries.conf"), Path("/usr/share/containers/registries.conf"))
_MAX_FILE = 1024 * 1024


def storage(home: Home) -> Path:
    """Where buildah keeps the layers that the next build may use again."""
    return home.cache / "buildah"


def make(source: BuildSource, home: Home, work: Path, lock: int, progress: Progress) -> Layout:
    """Build the image in `work`, in Docker's form: OCI's has no healthcheck. Layers built before are used again."""
    context = source.context.absolute()
    told = f"building {context.name}"
    progress.step(told)
    env = {"TMPDIR": str(work), "CONTAINERS_REGISTRIES_CONF": str(_registries(source.file, work))}
    lines: list[str] = []

    def line(text: str) -> None:
        lines.append(text)
        if match := _STEP.fullmatch(text):
            progress.step(f"{told}: {match[1]} {match[2][:60]}")

    base = _base(home, work)
    build = [
        *base,
        "build",
        "--isolation=chroot",
        "--layers",
        "--force-rm",
        "--format=docker",
        "--pull=false",
        "--network=host",
    ]
    build += [f"--iidfile={work / 'built'}", f"--file={source.file.absolute()}", *_options(source), str(context)]
    try:
        # Archives are named from the context on: FROM oci-archive:PATH.
        watch(alone(["sh", "-c", 'exec "$@" >&2', "sh", *build]), line, env=env, pass_fds=[lock], cwd=context)
        image = (work / "built").read_text().strip()
        push = [*base, "push", "--quiet", "--disable-compression", image, f"dir:{work / 'fetched'}"]
        watch(alone(push), line, env=env, pass_fds=[lock], largest=limits().bytes)
    except ToolError as error:
        raise _explain(source, error, lines) from None
    return from_dir(work / "fetched")


def erase_cache(home: Home) -> None:
    """Forget the layers of earlier builds."""
    from hybrid.images.tools import erase

    erase(storage(home))


def _base(home: Home, work: Path) -> list[str]:
    root = storage(home)
    root.mkdir(parents=True, mode=0o700, exist_ok=True)
    return [process.need("buildah"), "--root", str(root), "--runroot", str(work / "run")]


def _options(source: BuildSource) -> Iterable[str]:
    yield from (f"--build-arg={name}={value}" for name, value in source.args.items())
    if source.target is not None:
        yield f"--target={source.target}"


def _registries(file: Path, work: Path) -> Path:
    """The user's settings for registries; with Docker's meaning of short names, and no TLS asked of this machine."""
    with file.open("rb") as opened:
        text = opened.read(_MAX_FILE).decode(errors="replace")
    given = [Path(os.environ["CONTAINERS_REGISTRIES_CONF"])] if "CONTAINERS_REGISTRIES_CONF" in os.environ else []
    found = next((path.read_text() for path in (*given, *_CONFIGS) if path.is_file()), "")
    settings = work / "registries.conf"
    settings.write_text(registries(found, _FROM.findall(text)))
    return settings


def registries(found: str, names: Iterable[str]) -> str:
    """The text of a registries.conf: `found`, with what it lacks for these names of images."""
    lines = [] if re.search(r"^\s*unqualified-search-registries", found, re.MULTILINE) else [_UNQUALIFIED]
    lines += [found]
    hosts = set()
    for name in names:
        try:
            parsed = reference.parse(name.removeprefix("docker://"))
        except ImageError:
            continue
        if skopeo.plain(parsed) and parsed.registry != reference.LOCAL:
            hosts.add(parsed.registry)
    lines += [f'[[registry]]\nlocation = "{host}"\ninsecure = true\n' for host in sorted(hosts)]
    return "\n".join(lines)


_UNQUALIFIED = 'unqualified-search-registries = ["docker.io"]'


def _explain(source: BuildSource, error: ToolError, lines: list[str]) -> ImageError:
    """Buildah's last words, the step at which it failed, and what that step said last."""
    said = [line.strip() for line in lines if line.strip()]
    at = max((number for number, line in enumerate(said) if _STEP.fullmatch(line)), default=-1)
    last = said[-1] if said else error.what
    cause = re.sub(r"^error: ", "", re.sub(r"^.*msg=", "", last), flags=re.IGNORECASE)
    if len(cause) > 400:
        cause = f"… {cause[-400:]}"
    step = f" at {said[at]}" if at >= 0 else ""
    words = (
        [line for line in said[at + 1 : -1] if not line.startswith(("-->", "Trying to pull"))][-1:] if at >= 0 else []
    )
    heard = f" ({words[0][:200]})" if words else ""
    return ImageError(
        f"the Containerfile cannot be built{step}: {cause}{heard}",
        where=str(source.file),
        mend="mend the step, or try it by hand with buildah build",
    )
