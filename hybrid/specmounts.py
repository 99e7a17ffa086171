"""What a spec mounts (`volumes`, `tmpfs`), and the limits with a form of their own (`ulimits`, `blkio_config`)."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)

from hybrid import specforms as forms
from hybrid.specforms import Bad
from hybrid.volumes import NAME

_RESERVED = ("/", "/proc", "/sys", "/dev")
"""What a mount would cover of the system's own."""
_TMPFS_FLAGS = {
    "ro": ("read_only", True),
    "rw": ("read_only", False),
    "exec": ("exec", True),
    "noexec": ("exec", False),
}
_HARMLESS = ("nosuid", "nodev")
"""Options of a tmpfs that it has anyway."""

ULIMITS = (
    *("as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue"),
    *("nice", "nofile", "nproc", "rss", "rtprio", "rttime", "sigpending", "stack"),
)
UNLIMITED = -1


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def target(value: Any) -> str:
    """An absolute path in the instance, without `..`, that covers nothing of the system's."""
    path = forms.absolute(value)
    if ".." in PurePosixPath(path).parts or path in _RESERVED or path.startswith(("/proc/", "/sys/")):
        raise Bad(f"{path!r} cannot be mounted on", "name a directory of the image's, or a new one")
    if "\0" in path or len(path) > 4000:
        raise Bad("a path with a NUL byte, or too long, cannot be mounted on")
    return path


def mode(value: Any) -> int:
    """Permission bits: a number as YAML reads it (0o755, 493), or octal digits as text."""
    if isinstance(value, str) and re.fullmatch(r"0?o?[0-7]{1,4}", value):
        return int(value.replace("o", ""), 8)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 0o7777:
        raise Bad(f"{value!r} is no file mode", 'write octal digits in quotes: "1777"')
    return value


_Target = Annotated[str, BeforeValidator(target), WithJsonSchema({"type": "string", "pattern": "^/"})]
_Size = Annotated[int, BeforeValidator(forms.size), WithJsonSchema(dict(forms.SIZE))]
_Mode = Annotated[int, BeforeValidator(mode), WithJsonSchema({"type": ["integer", "string"]})]
_Integer = Annotated[int, BeforeValidator(forms.integer), WithJsonSchema(dict(forms.INTEGER))]


class BindOptions(_Model):
    """How a directory of the host is mounted."""

    create_host_path: StrictBool = Field(default=True, description="Make the directory if nothing is there")


class VolumeOptions(_Model):
    """How a named volume is mounted."""

    nocopy: StrictBool = Field(default=False, description="Do not fill an empty volume with what the image has there")


class TmpfsOptions(_Model):
    """A file system in memory."""

    size: _Size | None = Field(default=None, ge=4096, description="Most that it may hold", examples=["64m"])
    mode: _Mode | None = Field(default=None, description="Permission bits of its root (1777)", examples=["1777"])
    uid: _Integer | None = Field(default=None, ge=0, description="Owner of its root")
    gid: _Integer | None = Field(default=None, ge=0, description="Group of its root")
    exec: StrictBool = Field(default=False, description="Programs in it may be executed")


class Mount(_Model):
    """One mount, in Compose's long form."""

    type: Literal["bind", "volume", "tmpfs"] = Field(description="What is mounted", examples=["volume"])
    source: Annotated[str, BeforeValidator(forms.text)] | None = Field(
        default=None, description="Path on the host, or the volume's name; none: a volume that goes with the instance"
    )
    target: _Target = Field(description="Where, in the instance", examples=["/data"])
    read_only: StrictBool = Field(default=False, description="The instance cannot write there")
    bind: BindOptions = Field(default_factory=BindOptions)
    volume: VolumeOptions = Field(default_factory=VolumeOptions)
    tmpfs: TmpfsOptions = Field(default_factory=TmpfsOptions)

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("bind", "volume", "tmpfs"):
            if name in self.model_fields_set and name != self.type:
                raise Bad(f"a mount of type {self.type} has no {name} options", f"remove `{name}:`")
        if self.type == "tmpfs" and self.source is not None:
            raise Bad("a tmpfs has no source", "remove `source:`")
        if self.type == "bind" and not self.source:
            raise Bad("a bind mount needs a source", "add `source: ./directory`")
        if self.type == "volume" and self.source is not None and not NAME.fullmatch(self.source):
            raise Bad(f"{self.source!r} is no volume's name", "use letters, digits, '_', '.' and '-'; a path is a bind")
        return self


def mount(value: Any, info: ValidationInfo) -> Any:
    """The long form of a mount; a bind's source is made absolute, from the spec's directory on."""
    directory = (info.context or {}).get("directory", Path())
    if isinstance(value, str):
        value = short(value)
    if isinstance(value, dict) and value.get("type") == "bind" and isinstance(value.get("source"), str):
        value = {**value, "source": _host_path(value["source"], directory)}
    return value


def short(text: str) -> dict[str, Any]:
    """`[SOURCE:]TARGET[:MODE]` as a mapping: a source with a slash or a leading dot or ~ is a path, else a name."""
    parts = text.split(":")
    if len(parts) > 3 or not all(parts):
        raise Bad(f"{text!r} is no volume", "write name:/path, ./directory:/path or /path, with :ro for read-only")
    if len(parts) == 1:
        return {"type": "volume", "target": parts[0]}
    source, where, *modes = parts
    found: dict[str, Any] = {"type": "bind" if source.startswith((".", "~")) or "/" in source else "volume"}
    for option in modes[0].split(",") if modes else ():
        match option:
            case "ro" | "rw":
                found["read_only"] = option == "ro"
            case "nocopy" if found["type"] == "volume":
                found["volume"] = {"nocopy": True}
            case _:
                raise Bad(f"{option!r} is no mode of a volume here", "write ro or rw, or nocopy for a named volume")
    return {**found, "source": source, "target": where}


def _host_path(source: str, directory: Path) -> str:
    if "\0" in source:
        raise Bad("a path cannot hold a NUL byte")
    try:
        path = directory.absolute() / Path(source).expanduser()
    except RuntimeError as error:
        raise Bad(f"{source!r}: {error}", "write the path in full") from None
    return str(Path(*path.parts)) if ".." not in path.parts else str(path.resolve())


def mounts(value: Any) -> Any:
    """Refuses two mounts on one place."""
    seen: set[str] = set()
    for each in value:
        if each.target in seen:
            raise Bad(f"{each.target} is mounted twice", "keep one of them")
        seen.add(each.target)
    return value


def tmpfs(value: Any) -> Any:
    """Compose's `tmpfs`: one path or a list of them, each with options after a colon."""
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list | tuple):
        raise Bad("tmpfs is neither a path nor a list", "write /run, or - /run:size=64m")
    return tuple(each if isinstance(each, Mount) else _tmpfs(forms.text(each)) for each in value)


def _tmpfs(text: str) -> dict[str, Any]:
    where, _, rest = text.partition(":")
    found: dict[str, Any] = {"type": "tmpfs", "target": where}
    options: dict[str, Any] = {}
    for option in filter(None, rest.split(",")):
        name, equals, value = option.partition("=")
        if name in ("size", "mode", "uid", "gid") and equals:
            options[name] = value
        elif option in _TMPFS_FLAGS:
            key, flag = _TMPFS_FLAGS[option]
            (found if key == "read_only" else options)[key] = flag
        elif option not in _HARMLESS:
            raise Bad(
                f"{option!r} is no option of a tmpfs here", "known: size=, mode=, uid=, gid=, ro, rw, exec, noexec"
            )
    return {**found, "tmpfs": options}


class Ulimit(_Model):
    """A resource limit of each process; -1 for none."""

    soft: _Integer = Field(ge=UNLIMITED, description="What counts", examples=[1024])
    hard: _Integer = Field(ge=UNLIMITED, description="What a process may raise it to", examples=[4096])

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.hard != UNLIMITED and (self.soft == UNLIMITED or self.soft > self.hard):
            raise Bad("the soft limit is above the hard one", "raise hard, or lower soft")
        return self


def ulimits(value: Any) -> Any:
    """A map of names to one number for both, or to soft and hard."""
    if not isinstance(value, dict):
        raise Bad("ulimits is no map", "write `nofile: 1024`, or `nofile: {soft: 1024, hard: 4096}`")
    for name in value:
        if name not in ULIMITS:
            raise Bad(f"{name!r} is no ulimit", f"known: {', '.join(ULIMITS)}")
    return {
        name: each if isinstance(each, dict | Ulimit) else {"soft": forms.integer(each), "hard": forms.integer(each)}
        for name, each in value.items()
    }


class Rate(_Model):
    """How fast a device may be used."""

    path: Annotated[str, Field(pattern="^/dev/")] = Field(description="The device", examples=["/dev/vda"])
    rate: _Size = Field(gt=0, description="Bytes or operations a second", examples=["10m"])


class Weight(_Model):
    """A device's share, beside other groups'."""

    path: Annotated[str, Field(pattern="^/dev/")] = Field(description="The device", examples=["/dev/vda"])
    weight: int = Field(ge=10, le=1000, description="10 to 1000")


class BlockIo(_Model):
    """Compose's blkio_config. Devices are the host's, by path."""

    weight: int | None = Field(default=None, ge=10, le=1000, description="Share of block I/O, 10 to 1000")
    weight_device: tuple[Weight, ...] = ()
    device_read_bps: tuple[Rate, ...] = ()
    device_write_bps: tuple[Rate, ...] = ()
    device_read_iops: tuple[Rate, ...] = ()
    device_write_iops: tuple[Rate, ...] = ()
