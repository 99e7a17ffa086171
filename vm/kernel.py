"""The guest's kernel: found once, unpacked once, kept in the cache.

By default it is the distribution's kernel for virtual machines, fetched as a package with the
machine's own package manager and unpacked, never installed. An exported disk gets the one for all
machines, since nobody knows on which bus a hypervisor will show it. `vm: {kernel: FILE}` gives
another; its modules are looked for in /lib/modules of the same release.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hybrid.errors import HostError, ToolError
from hybrid.home import Home
from hybrid.process import need, run
from hybrid.store import locked


@dataclass(frozen=True, slots=True)
class Flavour:
    """What a kernel is for."""

    folder: str
    """Of the cache."""
    metapackages: tuple[str, ...]
    """Debian's, then Ubuntu's."""
    modules: tuple[str, ...]
    """Without which nothing runs."""
    drivers: tuple[str, ...] = ()
    """Of hardware that may be there or not."""


GUEST = Flavour(
    "kernels",
    ("linux-image-cloud-amd64", "linux-image-virtual"),  # small, and without drivers for real hardware
    ("virtio_pci", "virtio_blk", "virtio_console", "ext4"),
)
PORTABLE = Flavour(
    "kernels-portable",
    ("linux-image-amd64", "linux-image-generic"),
    ("ext4", "sd_mod"),
    (
        *("virtio_pci", "virtio_blk", "virtio_scsi"),  # KVM
        *("ahci", "ata_piix", "nvme"),  # VirtualBox, and every other
        *("vmw_pvscsi", "mptspi", "mptsas"),  # VMware
        *("hv_vmbus", "hv_storvsc"),  # Hyper-V
        *("xen_blkfront",),
        *("button", "evdev"),  # the power button
    ),
)
# How a compressed payload starts, and the program that unpacks it.
COMPRESSIONS = (
    (b"\x02\x21\x4c\x18", ("lz4", "-dc")),
    (b"\x28\xb5\x2f\xfd", ("zstd", "-dcq")),
    (b"\xfd7zXZ\x00", ("xz", "-dc", "--single-stream")),
    (b"\x1f\x8b", ("gzip", "-dc")),
)
MODULE_COMPRESSIONS = {".xz": ("xz", "-dc"), ".zst": ("zstd", "-dcq"), ".gz": ("gzip", "-dc")}


@dataclass(frozen=True, slots=True)
class Kernel:
    """An uncompressed kernel that QEMU starts by PVH, and the modules to load, in loading order."""

    vmlinux: Path
    release: str
    modules: tuple[Path, ...]
    drivers: tuple[Path, ...]
    image: Path
    """The file it was unpacked from: what a boot loader or firmware starts."""


def find_kernel(home: Home, given: Path | None, flavour: Flavour = GUEST) -> Kernel:
    """The kernel to boot: `given`, or the distribution's. HostError says why there is none."""
    cache = home.cache / flavour.folder
    cache.mkdir(parents=True, exist_ok=True)
    with locked(cache / "lock"):
        if given is not None:
            return _unpacked(cache, given, Path("/lib/modules"), flavour)
        tree = _distribution_kernel(cache, flavour)
        return _unpacked(cache, next((tree / "boot").glob("vmlinuz-*")), tree / "lib/modules", flavour)


def cached(home: Home) -> bool:
    """Whether the distribution's kernel has been fetched before."""
    return any((home.cache / GUEST.folder).glob("package-*"))


def _distribution_kernel(cache: Path, flavour: Flavour) -> Path:
    """The unpacked package of the newest kernel fetched; fetched now when there is none."""
    if kept := sorted(cache.glob("package-*"), key=lambda path: path.stat().st_mtime):
        return kept[-1]
    with tempfile.TemporaryDirectory(dir=cache, prefix=".fetch-") as folder:
        names = _kernel_packages(flavour)
        try:
            run([need("apt-get", "apt"), "-qq", "download", *names], cwd=Path(folder), timeout=600)
        except ToolError as error:
            raise HostError(
                f"the guest's kernel ({names[0]}) cannot be fetched: {error.what}",
                mend="apt-get update, or name a kernel file with `vm: {kernel: FILE}`",
            ) from None
        tree = Path(folder) / "tree"
        for package in Path(folder).glob("*.deb"):
            run(["dpkg-deb", "-x", package, tree])
        if (tree / "usr/lib/modules").is_dir() and not (tree / "lib").exists():
            (tree / "lib").symlink_to("usr/lib")
        return tree.rename(cache / f"package-{names[0]}")


def _kernel_packages(flavour: Flavour) -> list[str]:
    """The packages that hold the newest kernel image and its modules."""
    others = [f"--no-{relation}" for relation in ("recommends", "suggests", "conflicts", "replaces", "breaks")]
    for meta in flavour.metapackages:
        try:
            text = run(["apt-cache", "depends", "--recurse", *others, meta]).decode()
        except (ToolError, HostError):
            continue
        found = re.findall(r"^\s*(?:\|?Depends: )?(linux-(?:image|modules)-\d\S*)$", text, re.MULTILINE)
        if found:
            return sorted(set(found))
    raise HostError(
        "the package sources hold no kernel for virtual machines",
        mend=f"apt-get update (looked for {' and '.join(flavour.metapackages)}), or `vm: {{kernel: FILE}}`",
    )


def _unpacked(cache: Path, image: Path, modules: Path, flavour: Flavour) -> Kernel:
    try:
        data = image.read_bytes()
    except OSError as error:
        raise HostError(
            f"the kernel {image} cannot be read: {error.strerror}", mend="check `vm: {kernel: …}`"
        ) from None
    vmlinux = cache / f"vmlinux-{hashlib.sha256(data).hexdigest()[:16]}"
    if not vmlinux.exists():
        temporary = vmlinux.with_suffix(".tmp")
        temporary.write_bytes(extract_vmlinux(data, image))
        temporary.chmod(0o644)
        temporary.rename(vmlinux)
    release = kernel_release(data, vmlinux)
    order = module_order(cache, modules / release, flavour.modules)
    drivers = module_order(cache, modules / release, flavour.drivers)
    rest = tuple(path for path in drivers if path not in order)
    return Kernel(vmlinux, release, tuple(order), rest, image)


def extract_vmlinux(data: bytes, name: Path) -> bytes:
    """The ELF kernel inside a bzImage, by the header that Documentation/arch/x86/boot.rst describes."""
    if data[:4] == b"\x7fELF":
        return data
    if data[0x202:0x206] != b"HdrS":
        raise HostError(f"{name} is no Linux kernel for x86", mend="give a bzImage or a vmlinux")
    setup = ((data[0x1F1] or 4) + 1) * 512
    start = setup + int.from_bytes(data[0x248:0x24C], "little")
    payload = data[start : start + int.from_bytes(data[0x24C:0x250], "little")]
    for magic, tool in COMPRESSIONS:
        if payload.startswith(magic):
            # The last four bytes are the unpacked size, which the compression's format does not know.
            elf = run([need(tool[0]), *tool[1:]], input=payload[:-4])
            if elf[:4] == b"\x7fELF":
                return elf
    raise HostError(f"{name} is compressed in a way that is not known here", mend="give its vmlinux")


def kernel_release(data: bytes, vmlinux: Path) -> str:
    """The release (`uname -r`) that a kernel image names in its header or its banner."""
    if data[0x202:0x206] == b"HdrS":
        start = int.from_bytes(data[0x20E:0x210], "little") + 0x200
        return data[start : start + 128].split(b"\0")[0].split(b" ")[0].decode(errors="replace")
    found = re.search(rb"Linux version (\S+)", data or vmlinux.read_bytes())
    return found[1].decode(errors="replace") if found else ""


def module_order(cache: Path, folder: Path, wanted: tuple[str, ...]) -> list[Path]:
    """Files of the wanted modules and of those they need, each after what it needs.

    What has no file is built in, if modules.builtin says so; else HostError.
    """
    files = {path.name.split(".ko")[0].replace("-", "_"): path for path in folder.rglob("*.ko*")}
    builtin = folder / "modules.builtin"
    built = {Path(line).stem.replace("-", "_") for line in (builtin.read_text().split() if builtin.exists() else [])}
    order: dict[str, Path] = {}

    def wished(name: str) -> str | None:
        return next((file for file in (name, f"{name}_generic") if file in files), None)

    def visit(name: str) -> None:
        if name in order or (name in built and name not in files):
            return
        if name not in files:
            raise HostError(
                f"the guest's kernel {folder.name} has no module {name}",
                mend=f"install that kernel's modules in {folder}, or choose another with `vm: {{kernel: FILE}}`",
            )
        plain = _plain_module(cache, files[name], folder.name)
        data = plain.read_bytes()
        for needed in (*module_needs(data), *(file for each in module_wishes(data) if (file := wished(each)))):
            visit(needed)
        order[name] = plain

    for name in wanted:
        visit(name)
    return list(order.values())


def module_needs(data: bytes) -> list[str]:
    """The modules that a module file names in its `depends=` note."""
    found = re.search(rb"\0depends=([^\0]*)\0", data)
    return [name.replace("-", "_") for name in found[1].decode().split(",") if name] if found else []


def module_wishes(data: bytes) -> list[str]:
    """The modules that a module file wants loaded before it if there are any: most often a checksum, by its name."""
    found = re.search(rb"\0softdep=pre: ([^\0]*)\0", data)
    words = found[1].decode().split() if found else []
    if "post:" in words:
        words = words[: words.index("post:")]
    return [word.removeprefix("crypto-").replace("-", "_") for word in words]


def _plain_module(cache: Path, path: Path, release: str) -> Path:
    """The uncompressed file of a module; the guest's init does not unpack."""
    if (tool := MODULE_COMPRESSIONS.get(path.suffix)) is None:
        return path
    plain = cache / f"modules-{release}" / path.stem
    if not plain.exists():
        plain.parent.mkdir(exist_ok=True)
        plain.with_suffix(".tmp").write_bytes(run([need(tool[0]), *tool[1:]], input=path.read_bytes()))
        shutil.move(plain.with_suffix(".tmp"), plain)
    return plain
