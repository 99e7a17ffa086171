"""Names of images in registries, as Docker reads them."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from hybrid.errors import ImageError

_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_HOST = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::[0-9]{{1,5}})?"
_REFERENCE = re.compile(
    rf"(?:(?P<registry>{_HOST})/)?(?P<path>{_COMPONENT}(?:/{_COMPONENT})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)
_MAX_NAME = 255

LOCAL = "localhost"
"""The registry part of names given to images made here, as in podman: nothing is ever pulled from it."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A whole name: every default filled in."""

    registry: str
    path: str
    tag: str | None
    digest: str | None

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.registry}/{self.path}{tag}{digest}"

    @property
    def transport(self) -> str:
        """What skopeo calls it. A digest says more than a tag, and skopeo refuses both at once."""
        suffix = f"@{self.digest}" if self.digest else f":{self.tag}"
        return f"docker://{self.registry}/{self.path}{suffix}"

    @property
    def loopback(self) -> bool:
        """Whether the registry is this machine, where plain HTTP is as good as TLS."""
        host = self.registry.rsplit(":", 1)[0] if not self.registry.endswith("]") else self.registry
        if host == "localhost":
            return True
        try:
            return ipaddress.ip_address(host.strip("[]")).is_loopback
        except ValueError:
            return False


def parse(text: str) -> Reference:
    """The reference that `text` names, with Docker's defaults; ImageError when it names none."""
    match = _REFERENCE.fullmatch(text) if len(text) <= 1024 else None
    if match is None or len(match["path"]) > _MAX_NAME:
        raise ImageError(f"{text[:80]!r} is no image reference", mend=_mend(text))
    registry, path = match["registry"], match["path"]
    if registry and not ("." in registry or ":" in registry or registry == "localhost"):
        if not re.fullmatch(_COMPONENT, registry):
            raise ImageError(f"{text[:80]!r} is no image reference", mend=_mend(text))
        registry, path = None, f"{registry}/{path}"
    if registry in (None, "docker.io", "index.docker.io"):
        registry, path = "docker.io", path if "/" in path else f"library/{path}"
    tag = match["tag"] or (None if match["digest"] else "latest")
    return Reference(registry, path, tag, match["digest"])


def local(name: str) -> Reference:
    """The reference of an image made here under `name` (`nginx`, `nginx:2`, or a whole reference)."""
    reference = parse(name)
    if reference.digest:
        raise ImageError(f"{name!r}: a digest cannot be chosen", mend="give a name and a tag")
    if reference.registry == "docker.io" and not name.startswith(("docker.io/", "index.docker.io/")):
        return Reference(LOCAL, reference.path.removeprefix("library/"), reference.tag, None)
    return reference


def _mend(text: str) -> str:
    if text != text.lower() and _REFERENCE.fullmatch(text.lower()):
        return "repository names are in lower case"
    if "/" in text or text.endswith((".yaml", ".yml", ".tar")):
        return "write [REGISTRY/]NAME[:TAG][@sha256:…]; a file is given as `image: {archive: PATH}`"
    return "write [REGISTRY/]NAME[:TAG][@sha256:…]"
