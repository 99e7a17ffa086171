"""A fuzzer of everything that reads strangers' images: tars, manifests, lists, configs, references.

    python -m tests.fuzz.archive SECONDS [SEED]

Inputs are made from a fixed set of layers by changes that keep what makes a reader go deep (checksums are put
right again, sizes and names come from lists of awkward ones). What the reader refuses has to be refused by an
ImageError; what it lets through is unpacked for real, and nothing beside the tree may have changed then.
Prints how many inputs there were and what became of them; the first failure ends it, and its input is kept.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import shutil
import signal
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from hybrid.errors import ImageError
from hybrid.images import config, layers, manifest, mtree, reference
from hybrid.images.layout import Layout, digest_of, unpack
from hybrid.images.limits import Limits
from hybrid.images.manifest import Descriptor
from hybrid.images.tools import erase
from tests import oci
from tests.oci import entry, folder, tar

LIMITS = Limits(bytes=8 * 1024**2, entries=2000, ratio=2000)
NAMES = (
    b"../../outside", b"../../outside/file",
    b"../x", b"/x", b"a/../../x", b".wh.", b".wh...", b".wh..wh..opq", b"a/.wh.b", b"./", b"", b"a", b"a/b", b"b/c/d",
    b"\xff\xfe", b"a\n\x1b[2J", b"n" * 100, b"a/" * 49, b"/etc/passwd", b"../../../../etc/passwd", b"link/x",
)  # fmt: skip
NUMBERS = (0, 1, 511, 512, 513, 1024, 4096, 2**20, 2**31, 2**33 - 1, 2**62, 2**63 - 1)
FIELDS = ((0, 100), (100, 108), (108, 116), (116, 124), (124, 136), (136, 148), (156, 157), (157, 257), (257, 265),
          (329, 337), (337, 345), (345, 500), (482, 483), (483, 495))  # fmt: skip
KINDS = b"\x0001234567xgLKSVADZ"


def seeds() -> list[bytes]:
    """Layers with everything that a tar may have in it."""
    long = "long/" * 30 + "name"
    plain = tar(
        folder("dir"),
        entry("dir/file", data=b"x" * 700),
        entry("link", tarfile.SYMTYPE, "/dir"),
        entry("hard", tarfile.LNKTYPE, "dir/file"),
        entry("null", tarfile.CHRTYPE, device=(1, 3)),
        entry("pipe", tarfile.FIFOTYPE),
        entry("link/through", data=b"y"),
    )
    records = tar(entry(long, data=b"z"), entry(b"\xff\xfe", xattrs={"user.a": "b"}), entry("ü" * 60))
    whiteouts = tar(folder("dir"), entry("dir/.wh.file"), entry("dir/.wh..wh..opq"), entry(".wh.link"))
    return [plain, records, whiteouts, plain[:-1024], tar(root=False), tar(), _gnu(long)]


def _gnu(name: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as file:
        for info, data in (entry(name, data=b"g"), entry("l", tarfile.SYMTYPE, name)):
            file.addfile(info, io.BytesIO(data))
    return out.getvalue()


def change(data: bytes, rng: random.Random, others: list[bytes], names: Sequence[bytes] = NAMES) -> bytes:
    """One input made from another."""
    blocks = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        match rng.randrange(9):
            case 0 if blocks:
                blocks[rng.randrange(len(blocks))] = rng.randrange(256)
            case 1:
                del blocks[rng.randrange(len(blocks) + 1) :]
            case 2:
                at = rng.randrange(len(blocks) // 512 + 1) * 512
                other = rng.choice(others)
                start = rng.randrange(len(other) // 512 + 1) * 512
                blocks[at:at] = other[start : start + 512 * rng.randint(1, 4)]
            case 3 if len(blocks) >= 1024:
                at = rng.randrange(len(blocks) // 512) * 512
                del blocks[at : at + 512]
            case 4:
                at = rng.randrange(len(blocks) // 512 + 1) * 512
                blocks[at:at] = bytes(512)
            case _:
                _change_header(blocks, rng, names)
    return bytes(blocks)


def _change_header(blocks: bytearray, rng: random.Random, names: Sequence[bytes]) -> None:
    """Change a field of a header and put its checksum right again."""
    headers = [at for at in range(0, len(blocks) - 511, 512) if blocks[at + 257 : at + 262] == b"ustar"]
    if not headers:
        return
    at = rng.choice(headers)
    start, end = rng.choice(FIELDS)
    size = end - start
    match rng.randrange(4):
        case 0:
            value = rng.choice(names)
        case 1:
            value = b"%o" % rng.choice(NUMBERS)
        case 2:
            value = b"\x80" + rng.choice(NUMBERS).to_bytes(max(size - 1, 8), "big")[-(size - 1) :] if size > 1 else b""
        case _:
            value = rng.randbytes(size)
    if (start, end) == (156, 157):
        value = bytes([rng.choice(KINDS)])
    blocks[at + start : at + end] = value[:size].ljust(size, b"\0")
    blocks[at + 148 : at + 156] = b" " * 8
    blocks[at + 148 : at + 156] = b"%06o\0 " % sum(blocks[at : at + 512])


_LONGEST = 60
"""Seconds after which one input has hung its reader."""


def _too_long(*given: object) -> None:
    raise AssertionError(f"one input took longer than {_LONGEST} s")


class Fuzzer:
    """Tries inputs in a directory of its own."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.directory, self.rng = directory, random.Random(seed)
        self.seeds = seeds()
        self.pool = list(self.seeds)
        self.counts: Counter[str] = Counter()
        self.names = (*NAMES, *(os.fsencode(directory / name) for name in ("outside", "outside/file", "outside/new")))
        (directory / "outside").mkdir()
        (directory / "outside/file").write_text("mine")
        (directory / "work").mkdir()

    def run(self, seconds: float, every: int = 4) -> Counter[str]:
        """Try inputs for so long; of those let through, every so manyth is unpacked."""
        until = time.monotonic() + seconds
        before = signal.signal(signal.SIGALRM, _too_long)
        try:
            while time.monotonic() < until:
                signal.alarm(_LONGEST)
                self.layer(every)
                self.texts()
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)
        return self.counts

    def layer(self, every: int) -> None:
        data = change(self.rng.choice(self.pool), self.rng, self.seeds, self.names)
        self.counts["layers"] += 1
        packed = gzip.compress(data, 1) if self.rng.random() < 0.2 else data
        if self.rng.random() < 0.02:
            packed = change(packed, self.rng, self.seeds)
        work = self.directory / "work"
        for path in work.iterdir():
            path.unlink()
        blob = work / "blob"
        blob.write_bytes(packed)
        found = Descriptor("application/vnd.oci.image.layer.v1.tar", digest_of(packed), len(packed))
        try:
            layers.look(blob, found, digest_of(data), work / "plain", layers.Contents(LIMITS))
        except ImageError as error:
            self.counts["layers refused"] += 1
            assert error.mend and error.what.isprintable(), error.what
        else:
            self.counts["layers let through"] += 1
            if len(self.pool) < 400:
                self.pool.append(data)
            if self.counts["layers let through"] % every == 0:
                self.unpack(data)

    def unpack(self, data: bytes) -> None:
        """Unpack it for real, and look whether anything beside the tree has changed."""
        place = self.directory / "place"
        (place / "blobs").mkdir(parents=True)
        (place / "work").mkdir()
        (place / "blobs" / digest_of(data)[7:]).write_bytes(data)
        text = oci.config([data])
        given = {
            "schemaVersion": 2,
            "config": _described("config.v1+json", text),
            "layers": [_described("layer.v1.tar", data)],
        }
        layout = Layout(json.dumps(given).encode(), text, place / "blobs")
        try:
            unpack(layout, place / "rootfs", place / "work")
            mtree.write(place / "rootfs", place / "mtree")
        except ImageError as error:
            self.counts["refused while unpacked"] += 1
            assert error.mend
        else:
            self.counts["unpacked"] += 1
        erase(place)
        here = sorted(str(path.relative_to(self.directory)) for path in self.directory.rglob("*"))
        inside = [name for name in here if not name.startswith("work/")]
        assert inside == ["outside", "outside/file", "work"], inside
        assert (self.directory / "outside/file").read_text() == "mine"

    def texts(self) -> None:
        """Manifests, lists, configs and references, made from right ones."""
        readers: list[tuple[bytes, Callable[[bytes], object]]] = [
            (_MANIFEST, manifest.parse),
            (_LIST, lambda data: manifest.is_list(data) and manifest.choose(data, manifest.here(), "x")),
            (_CONFIG, config.parse),
            (b"registry.example:5000/team/app:1.2@sha256:" + b"0" * 64, lambda data: reference.parse(data.decode())),
        ]
        for text, read in readers:
            data = _change_text(text, self.rng)
            self.counts["texts"] += 1
            try:
                read(data)
            except (ImageError, UnicodeDecodeError):
                self.counts["texts refused"] += 1


def _described(kind: str, data: bytes) -> dict[str, object]:
    return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": digest_of(data), "size": len(data)}


_MANIFEST = json.dumps(
    {"schemaVersion": 2, "config": _described("config.v1+json", b"c"), "layers": [_described("layer.v1.tar", b"l")]}
).encode()
_LIST = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [
            {**_described("manifest.v1+json", b"m"), "platform": {"os": "linux", "architecture": oci.ARCHITECTURE}}
        ],
    }
).encode()
_CONFIG = oci.config(
    [b"l"],
    Entrypoint=["/bin/x"],
    Cmd=["a"],
    Env=["A=b"],
    User="u:g",
    WorkingDir="/w",
    StopSignal="SIGTERM",
    Labels={"a": "b"},
    ExposedPorts={"80/tcp": {}},
    Volumes={"/v": {}},
    Healthcheck={"Test": ["CMD", "x"], "Interval": 1, "Retries": 2},
)
_TOKENS = (
    b"null",
    b"[]",
    b"{}",
    b"-1",
    b"1e999",
    b'""',
    b"[[[[",
    b'"\\u0000"',
    b"true",
    b"9" * 30,
    b'"a"',
    b"NaN",
    b",",
)


def _change_text(text: bytes, rng: random.Random) -> bytes:
    data = bytearray(text)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(4):
            case 0:
                data[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                del data[at : at + rng.randint(1, 20)]
            case 2:
                data[at:at] = rng.choice(_TOKENS)
            case _:
                values = [place for place in range(len(data)) if data[place : place + 2] == b": "]
                if values:
                    place = rng.choice(values) + 2
                    end = min((x for x in (data.find(b",", place), data.find(b"}", place)) if x >= 0), default=place)
                    data[place:end] = rng.choice(_TOKENS)
    return bytes(data)


def main(words: list[str]) -> int:
    os.environ |= {"HYBRID_IMAGE_BYTES": str(LIMITS.bytes), "HYBRID_IMAGE_ENTRIES": str(LIMITS.entries)}
    seconds, seed = float(words[0]), int(words[1]) if len(words) > 1 else 1
    directory = Path(tempfile.mkdtemp(prefix="hybrid-fuzz-"))
    fuzzer = Fuzzer(directory, seed)
    try:
        fuzzer.run(seconds)
    except BaseException:
        print(f"failed after {dict(fuzzer.counts)}; what failed is in {directory}", flush=True)
        raise
    shutil.rmtree(directory)
    print(json.dumps({"seconds": seconds, "seed": seed, **fuzzer.counts}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
