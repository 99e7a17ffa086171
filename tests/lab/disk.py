"""The lab host's disk: a fresh Debian of this machine's own suite, made ready by the role `host`.

Nothing is mounted and nothing started: mmdebstrap makes the tree, the role runs inside it (twice, since
the second time must change nothing), mke2fs turns it into a disk. The disk is kept by a hash of all that
went into it.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import site
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hybrid.process import need, run
from hybrid.store import locked

ROOT = Path(__file__).parents[2]
ANSIBLE = ROOT / "ansible"
BASE = (
    *("systemd-sysv", "dbus", "udev", "kmod", "openssh-server", "procps", "python3", "python3-apt"),
    *("linux-image-cloud-amd64", "initramfs-tools", "zstd"),
)
WITHOUT = ("/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*")
KEPT = 2
BUILD_TIMEOUT = 900.0

# Only sshd may open the port: what it carries is lost to whoever opens it second.
UNIT = """\
[Unit]
Description=SSH over the lab's virtio port
DefaultDependencies=no
After=sysinit.target dbus.socket
RequiresMountsFor=/lab

[Service]
ExecStart=/usr/sbin/sshd -i -f /lab/sshd_config
StandardInput=file:/dev/virtio-ports/lab
StandardOutput=file:/dev/virtio-ports/lab
StandardError=journal+console
RuntimeDirectory=sshd

[Install]
WantedBy=multi-user.target
"""
HYBRID = '#!/bin/sh\nPYTHONPATH=/lab/site exec /usr/bin/python3 -m hybrid "$@"\n'

# The role, as a user runs it. $1 is the tree; its second run proves that it is idempotent.
ROLE = """\
set -eu
cp -r {ansible} "$1/root/ansible"
role() {{
    chroot "$1" env LC_ALL=C.UTF-8 ANSIBLE_CONFIG=/root/ansible/ansible.cfg python3 -m ansible playbook \\
        /root/ansible/host.yml
}}
role "$1"
role "$1" | tee /dev/stderr | grep -q 'changed=0 .*failed=0'
rm -r "$1/root/ansible" "$1/root/.ansible"
"""


@dataclass(frozen=True, slots=True)
class Disk:
    """A read-only raw disk with a Debian system, and what boots it."""

    image: Path
    kernel: Path
    initrd: Path


def cache_directory() -> Path:
    """Where disks are kept: HYBRID_LAB_CACHE, else in the user's cache."""
    return Path(os.environ.get("HYBRID_LAB_CACHE") or Path.home() / ".cache/hybrid-lab")


def disk() -> Disk:
    """The lab host's disk; built now, in a minute or two, unless it is kept already."""
    cache = cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    with locked(cache / "lock"):
        sources = apt_sources()
        kept = cache / fingerprint(sources)
        if not kept.exists():
            with tempfile.TemporaryDirectory(dir=cache, prefix=".build-") as folder:
                build(Path(folder), sources)
                (Path(folder) / "disk").rename(kept)
        os.utime(kept)
        for old in sorted(cache.glob("????????????????"), key=lambda path: path.stat().st_mtime)[:-KEPT]:
            shutil.rmtree(old)
    return Disk(kept / "image.raw", kept / "vmlinuz", kept / "initrd.img")


def apt_sources() -> str:
    """The distribution's own package sources as this machine has them, one per line; no third party's."""
    origin = platform.freedesktop_os_release()["ID"].capitalize()
    template = "deb $(REPO_URI) $(RELEASE) $(COMPONENT)"
    found = run(["apt-get", "indextargets", "--format", template, "Created-By: Packages", f"Origin: {origin}"])
    return "".join(sorted({f"{line}\n" for line in found.decode().splitlines()}))


def fingerprint(sources: str) -> str:
    """Sixteen hex digits that change whenever the disk would."""
    files = sorted(path for path in ANSIBLE.rglob("*") if path.is_file())
    libraries = sorted(path.name for path in libraries_directory().glob("*.dist-info"))
    inputs = [sources, Path(__file__).read_text(), sys.version, *libraries, *(path.read_text() for path in files)]
    return hashlib.sha256("\0".join(inputs).encode()).hexdigest()[:16]


def libraries_directory() -> Path:
    """The Python libraries of this virtual environment, made for the very Python that the lab host has."""
    assert sys.base_prefix == "/usr", f"the tests must run under the system's python3, not {sys.base_prefix}"
    return Path(site.getsitepackages()[0])


def build(folder: Path, sources: str) -> None:
    """Make `folder`/disk, whole."""
    tree, made = folder / "tree", folder / "disk"
    made.mkdir()
    make_tree(folder, tree, sources)
    configure(tree)
    shutil.copy(tree / "vmlinuz", made)
    shutil.copy(tree / "initrd.img", made)
    run([need("mke2fs", "e2fsprogs"), "-q", "-t", "ext4", "-d", tree, made / "image.raw", "8G"], timeout=BUILD_TIMEOUT)


def make_tree(folder: Path, tree: Path, sources: str) -> None:
    """A minimal Debian with the libraries and with the role applied."""
    libraries = f"usr/local/lib/python{sys.version_info.major}.{sys.version_info.minor}/dist-packages"
    hook = folder / "role"
    hook.write_text("#!/bin/sh\n" + ROLE.format(ansible=ANSIBLE))
    hook.chmod(0o755)
    run(
        [
            *(need("mmdebstrap"), "--mode=root", "--variant=minbase", "--format=directory"),
            f"--include={','.join(BASE)}",
            *(f"--dpkgopt=path-exclude={pattern}" for pattern in WITHOUT),
            "--dpkgopt=force-unsafe-io",
            '--aptopt=APT::Install-Recommends "false"',
            '--aptopt=Acquire::Retries "5"',
            f'--customize-hook=mkdir -p "$1/{libraries}" && cp -r {libraries_directory()}/. "$1/{libraries}"',
            f"--customize-hook={hook}",
            *(platform.freedesktop_os_release()["VERSION_CODENAME"], tree, "-"),
        ],
        input=sources.encode(),
        timeout=BUILD_TIMEOUT,
    )
    for link in (tree / libraries).glob("*hybrid*"):  # the editable install, which leads nowhere there
        shutil.rmtree(link) if link.is_dir() else link.unlink()


def configure(tree: Path) -> None:
    """Name the machine, load what a host of VMs has loaded, and open the one way in."""
    etc = tree / "etc"
    (etc / "hostname").write_text("lab\n")
    (etc / "fstab").write_text("/dev/vdb /lab ext4 ro 0 0\n")
    (tree / "lab").mkdir()
    (etc / "modules-load.d/lab.conf").write_text("kvm_amd\nvhost_vsock\n")
    (etc / "systemd/system/lab.service").write_text(UNIT)
    (tree / "usr/local/bin/hybrid").write_text(HYBRID)
    (tree / "usr/local/bin/hybrid").chmod(0o755)
    wants = etc / "systemd/system/multi-user.target.wants"
    (wants / "lab.service").symlink_to("/etc/systemd/system/lab.service")
    for unit in ("apt-daily.timer", "apt-daily-upgrade.timer", "e2scrub_all.timer", "ssh.service"):
        (etc / "systemd/system" / unit).unlink(missing_ok=True)
        (etc / "systemd/system" / unit).symlink_to("/dev/null")
