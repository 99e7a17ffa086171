"""Images made of Debian packages by mmdebstrap, from the sources that this machine's apt uses."""

from __future__ import annotations

import os
import re
import shlex
import time
from collections.abc import Sequence
from pathlib import Path

from hybrid import process
from hybrid.errors import ImageError, ToolError
from hybrid.images.layout import Layout, from_tar
from hybrid.images.progress import Progress
from hybrid.images.tools import alone, watch

_DAY = 86400
_LEFT_OUT = ("/usr/share/man/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/doc/*")
_KEPT = ("/usr/share/locale/locale.alias", "/usr/share/doc/*/copyright")
_HOST_FILES = '"$1/etc/resolv.conf" "$1/etc/hostname" "$1/etc/apt/apt.conf.d/00host"'
_STEPS = {
    "running apt-get update": "reading the package lists",
    "downloading packages": "downloading packages",
    "extracting archives": "unpacking packages",
    "installing essential": "installing the essential packages",
    "installing remaining": "installing packages",
    "creating tarball": "packing the tree",
}


def make(suite: str, packages: Sequence[str], work: Path, lock: int, progress: Progress) -> Layout:
    """The image of `suite`'s essential packages, apt, and `packages`.

    Files newer than SOURCE_DATE_EPOCH (in the environment, else today's midnight, UTC) get that time, so that
    the same packages make the same image. What belongs to this machine (resolv.conf, hostname) is left out.
    """
    epoch = _epoch()
    settings = work / "apt.conf"
    settings.write_text(_settings())
    layer = work / "layer.tar"
    env = {"SOURCE_DATE_EPOCH": str(epoch), "TMPDIR": str(work), "DEBIAN_FRONTEND": "noninteractive"}
    told = f"debian {suite}"
    progress.step(f"{told}: looking up the sources")

    def line(text: str) -> None:
        for start, step in _STEPS.items():
            if text.startswith(f"I: {start}"):
                progress.step(f"{told}: {step}")

    try:
        watch(alone(_argv(suite, packages, settings, layer)), line, env=env, pass_fds=[lock])
    except ToolError as error:
        raise _explain(suite, error) from None
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch))
    return from_tar(work / "layout", layer, created=created)


def _epoch() -> int:
    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    if not given:
        return int(time.time()) // _DAY * _DAY
    if not (given.isascii() and given.isdigit() and len(given) <= 11):
        raise ImageError(
            f"SOURCE_DATE_EPOCH is no time: {given[:40]!r}", mend="give whole seconds since 1970, or unset it"
        )
    return int(given)


def _argv(suite: str, packages: Sequence[str], settings: Path, layer: Path) -> list[str]:
    """mmdebstrap's command line. Its mode `unshare` gives even root a mount namespace that dies with it."""
    return [
        process.need("mmdebstrap"),
        "--mode=unshare",
        "--variant=apt",
        "--format=tar",
        "--skip=output/dev",
        *(f"--dpkgopt=path-exclude={path}" for path in _LEFT_OUT),
        *(f"--dpkgopt=path-include={path}" for path in _KEPT),
        f'--setup-hook=cp {shlex.quote(str(settings))} "$1/etc/apt/apt.conf.d/00host"',
        f"--customize-hook=rm -f {_HOST_FILES}",
        *_wanted(packages),
        suite,
        str(layer),
        *_sources(suite),
    ]


def _wanted(packages: Sequence[str]) -> list[str]:
    """The packages, and a look at whether they exist before the essential ones take their minute."""
    if not packages:
        return []
    look = f"apt-get -qq update && apt-get -qq download --print-uris {' '.join(packages)} >/dev/null"
    return [f'--setup-hook=export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"; {look}', f"--include={','.join(packages)}"]


def _sources(suite: str) -> list[str]:
    """This machine's apt lines for the suite and its updates; empty, for mmdebstrap's defaults, when it has none."""
    tool = process.find("apt-get")
    if tool is None:
        return []
    form = "$(CREATED_BY)|$(ORIGIN)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)"
    listed = process.run([tool, "indextargets", "--format", form]).decode(errors="replace")
    rows = [line.split("|") for line in listed.splitlines()]
    wanted = {suite, f"{suite}-updates", f"{suite}-security"}
    lines = [
        f"deb {uri} {release} {component}"
        for kind, origin, uri, release, component in (row for row in rows if len(row) == 5)
        if kind == "Packages" and origin in ("Debian", "Ubuntu") and release in wanted
    ]
    return list(dict.fromkeys(lines)) if any(line.split()[2] == suite for line in lines) else []


def _settings() -> str:
    """How this machine's apt fetches (proxies, validity), for the time of the build only."""
    tool = process.find("apt-config")
    if tool is None:
        return ""
    lines = process.run([tool, "dump"]).decode(errors="replace").splitlines()
    wanted = re.compile(r"Acquire::(https?|Check-Valid-Until|Check-Date|Retries|Languages)\b.*", re.IGNORECASE)
    return "".join(f"{line}\n" for line in lines if wanted.fullmatch(line))


_NETWORK = "check the network, and the sources and proxy of apt"
_CAUSES: Sequence[tuple[str, str, str]] = (
    (r"Unable to locate package (\S+)", "package {0} is not in {suite}", "apt-cache search finds names"),
    (r"Couldn't find any package by \w+ '([^']+)'", "package {0} is not in {suite}", "apt-cache search finds names"),
    (r"Package '?([^\s']+)'? has no installation candidate", "package {0} is not in {suite}", "check its name"),
    (r"Version '(\S+)' for '(\S+)' was not found", "{suite} has no version {0} of {1}", "leave the version out"),
    (r"(?:Could not|failure) resolv\w+ '?([^\s']+)'?", "the package source {0} cannot be found", _NETWORK),
    (r"(?:Could not|Unable to) connect to (\S+)", "the package source {0} cannot be reached", _NETWORK),
    (r"NO_PUBKEY|is not signed", "no key for the sources of {suite}", "apt-get install debian-archive-keyring"),
    (r"have a Release file|404 +Not Found", "the package sources have no suite {suite}", "check its name"),
    (
        r"Release file for \S+ (?:is|has) (?:expired|not valid)",
        "the lists of {suite} are out of date",
        "check the clock",
    ),
    (r"unmet dependencies|broken packages", "the packages do not go together on {suite}", "leave some out"),
    (r"error processing package (\S+)", "package {0} failed to install", "try it with mmdebstrap by hand"),
)


def _explain(suite: str, error: ToolError) -> ImageError:
    """The cause in mmdebstrap's and apt's many words."""
    for pattern, what, mend in _CAUSES:
        if match := re.search(pattern, error.stderr):
            return ImageError(what.format(*match.groups(), suite=suite), mend=mend)
    lines = [line for line in error.stderr.splitlines() if line.startswith("E: ")]
    cause = next((line for line in lines if "failed:" not in line), lines[0] if lines else error.what)
    return ImageError(f"debian {suite} cannot be built: {cause.removeprefix('E: ')[:300]}", mend="see mmdebstrap(1)")
