"""Registries on loopback for tests: the real one, and one made of a dictionary that can lie, stall and count."""

from __future__ import annotations

import hashlib
import http.server
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

PASSWORDS = "user:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n"
"""For htpasswd: the password is `secret`."""


@contextmanager
def running_registry(directory: Path, *, password: bool = False, tls: bool = False) -> Iterator[str]:
    """docker-registry on a free port of loopback; yields HOST:PORT once it listens.

    With `tls` its certificate is `directory/ca.crt`'s; with `password` it wants user and secret.
    """
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("docker-registry is not installed")
    directory.mkdir()
    config = directory / "config.yml"
    text = f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {directory}/data}}}}\n"
    text += "http:\n  addr: '127.0.0.1:0'\n  secret: test\n"
    if tls:
        certificates(directory)
        text += f"  tls: {{certificate: {directory}/server.crt, key: {directory}/server.key}}\n"
    if password:
        (directory / "htpasswd").write_text(PASSWORDS)
        text += f"auth: {{htpasswd: {{realm: test, path: {directory}/htpasswd}}}}\n"
    config.write_text(text)
    with subprocess.Popen([program, "serve", config], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as registry:
        try:
            assert registry.stderr is not None
            for line in registry.stderr:
                if match := re.search(rb"listening on (127\.0\.0\.1:\d+)", line):
                    drain = threading.Thread(target=registry.stderr.read)
                    drain.start()
                    yield match[1].decode()
                    break
            else:
                pytest.fail("the registry did not start")
        finally:
            registry.terminate()
            registry.wait()
    drain.join()


def certificates(directory: Path) -> None:
    """An authority of our own, ca.crt, and a certificate of its for 127.0.0.1."""
    quiet: dict[str, object] = {"check": True, "capture_output": True, "cwd": directory}
    new = ["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    subprocess.run([*new, "-x509", "-days", "2", "-subj", "/CN=test", "-keyout", "ca.key", "-out", "ca.crt"], **quiet)  # type: ignore[call-overload]
    subprocess.run([*new, "-subj", "/CN=127.0.0.1", "-keyout", "server.key", "-out", "server.csr"], **quiet)  # type: ignore[call-overload]
    (directory / "san").write_text("subjectAltName=IP:127.0.0.1")
    sign = ["openssl", "x509", "-req", "-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial"]
    subprocess.run([*sign, "-days", "2", "-extfile", "san", "-out", "server.crt"], **quiet)  # type: ignore[call-overload]


@dataclass
class Served:
    """What a registry made of a dictionary serves, and what it was asked for."""

    address: str = ""
    manifests: dict[str, bytes] = field(default_factory=dict)
    """By tag, and by digest."""
    blobs: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    """Digests of blobs, in order."""
    before: Callable[[str], None] = lambda digest: None
    """Called before a blob is sent."""
    half: set[str] = field(default_factory=set)
    """Blobs of which half is sent, and then nothing until `release` is set."""
    halfway: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)

    def add(self, layout: Path, tag: str = "1") -> str:
        """Serve the image of an OCI layout; its digest."""
        for path in (layout / "blobs/sha256").iterdir():
            self.blobs[f"sha256:{path.name}"] = path.read_bytes()
        digest = str(json.loads((layout / "index.json").read_text())["manifests"][0]["digest"])
        self.put(self.blobs[digest], tag)
        return digest

    def put(self, manifest: bytes, tag: str | None = None) -> str:
        digest = f"sha256:{hashlib.sha256(manifest).hexdigest()}"
        self.manifests[digest] = manifest
        if tag:
            self.manifests[tag] = manifest
        return digest


@contextmanager
def serving() -> Iterator[Served]:
    """A registry with whatever is put into it; one repository name is as good as another."""
    served = Served()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            *_, kind, name = self.path.rstrip("/").split("/")
            if kind == "manifests" and (found := served.manifests.get(name)) is not None:
                self.reply(found, json.loads(found).get("mediaType", ""))
            elif kind == "blobs" and name in served.blobs:
                served.asked.append(name)
                served.before(name)
                self.reply(served.blobs[name], "application/octet-stream", half=name in served.half)
            elif self.path.rstrip("/") == "/v2":
                self.reply(b"{}", "application/json")
            else:
                self.send_error(404)

        do_HEAD = do_GET

        def reply(self, body: bytes, kind: str, *, half: bool = False) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "HEAD":
                return
            try:
                self.wfile.write(body[: len(body) // 2] if half else body)
                if half:
                    served.halfway.set()
                    served.release.wait(60)
                    self.close_connection = True
            except OSError:
                self.close_connection = True

        def log_message(self, *words: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *words: object) -> None:
            pass  # the client may be killed at any moment

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        served.address = f"127.0.0.1:{server.server_port}"
        try:
            yield served
        finally:
            served.release.set()
            server.shutdown()
            thread.join()
