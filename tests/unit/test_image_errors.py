"""What mmdebstrap, apt and skopeo say when they fail, in one clear message each."""

from __future__ import annotations

import errno
import re
from pathlib import Path

import pytest

from hybrid.errors import ImageError, ToolError
from hybrid.images import buildah, debian, skopeo
from hybrid.images.reference import parse
from hybrid.images.tools import disk_full_told, watch


@pytest.mark.parametrize(
    ("stderr", "says"),
    [
        (
            "E: Unable to locate package nginxx\nE: setup-hook failed: exit code 100",
            "package nginxx is not in bookworm",
        ),
        ("E: Couldn't find any package by glob 'a.b'", "package a.b is not in bookworm"),
        ("E: Package 'x' has no installation candidate", "package x is not in bookworm"),
        ("E: Version '1' for 'curl' was not found", "bookworm has no version 1 of curl"),
        ("Err:1 http://m.example x InRelease\n  Could not resolve 'm.example'", "source m.example cannot be found"),
        ("  Temporary failure resolving 'm.example'", "source m.example cannot be found"),
        (
            "  Could not connect to m.example:80 (10.0.0.1), connection timed out",
            "source m.example:80 cannot be reached",
        ),
        (
            "W: GPG error: x: The following signatures ... NO_PUBKEY 0E98404D386FA1D9",
            "no key for the sources of bookworm",
        ),
        ("E: The repository 'http://m.example x Release' does not have a Release file.", "have no suite bookworm"),
        ("E: Release file for http://m.example/x is expired (invalid since 1d).", "lists of bookworm are out of date"),
        ("The following packages have unmet dependencies:\nE: broken packages", "do not go together"),
        ("dpkg: error processing package foo (--configure):", "package foo failed to install"),
        ("I: x\nE: something new\nE: mmdebstrap failed to run", "cannot be built: something new"),
        ("", "cannot be built: mmdebstrap: exit status 1"),
    ],
)
def test_debian(stderr: str, says: str) -> None:
    error = debian._explain("bookworm", ToolError("mmdebstrap: exit status 1", returncode=1, stderr=stderr))
    assert isinstance(error, ImageError) and says in error.what and error.mend and "\n" not in error.what


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ("initializing source docker://r.example/a:1: reading manifest: manifest unknown", "has no image a:1"),
        ("... requested access to the resource is denied", "does not let this user read a"),
        ("... unauthorized: authentication required", "does not let this user read a"),
        ('pinging container registry r.example: Get x: dial tcp: lookup r.example: no such host', "cannot be reached"),
        ('pinging container registry r.example: Get \\"x\\": x509: certificate signed by nobody', "not trusted"),
        ("choosing image instance: no image found in manifest list", "no image for this machine"),
        ("Manifest does not match provided manifest digest sha256:1", "gave other bytes"),
        ("something new", "cannot be pulled: something new"),
    ],
)  # fmt: skip
def test_skopeo(message: str, says: str) -> None:
    stderr = f'time="2024-01-01T00:00:00Z" level=fatal msg="{message}"'
    error = skopeo._explain(parse("r.example/a:1"), ToolError("skopeo: x", returncode=1, stderr=stderr))
    assert isinstance(error, ImageError) and says in error.what and error.mend


def test_what_buildah_is_told_of_registries() -> None:
    names = ["busybox", "127.0.0.1:5000/base:1", "localhost/made", "docker://[::1]:5000/x", "${BASE}", "reg.example/x"]
    text = buildah.registries('[[registry]]\nlocation = "mirror"\n', names)
    assert text.startswith('unqualified-search-registries = ["docker.io"]\n[[registry]]\nlocation = "mirror"')
    assert re.findall(r'location = "(.*)"\ninsecure = true', text) == ["127.0.0.1:5000", "[::1]:5000"]
    given = 'unqualified-search-registries = ["own.example"]'
    assert buildah.registries(given, ["busybox"]) == given


def test_a_full_disk_however_it_shows() -> None:
    for error in (OSError(errno.ENOSPC, "x"), OSError(errno.EDQUOT, "x")):
        with pytest.raises(ImageError, match="no space is left") as caught, disk_full_told(Path("/images")):
            raise error
        assert caught.value.where == "/images"
    with pytest.raises(ImageError, match="no space is left"), disk_full_told(Path("/images")):
        watch(["sh", "-c", "echo 'write /x: no space left on device' >&2; exit 1"], lambda line: None)
    for other in (ToolError("x", returncode=1), OSError(errno.EIO, "x")):
        with pytest.raises(type(other)), disk_full_told(Path("/images")):
            raise other


def test_a_program_is_watched_line_by_line() -> None:
    lines: list[str] = []
    with pytest.raises(ToolError, match="sh: two") as caught:
        watch(["sh", "-c", "echo one >&2; echo two >&2; exit 3"], lines.append)
    assert lines == ["one", "two"] and caught.value.returncode == 3 and "one" in caught.value.stderr
