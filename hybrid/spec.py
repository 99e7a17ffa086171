"""The spec: one YAML file, one Compose service. Keys of the Compose Specification keep their meaning.

Ours are few: `isolation`, `vm`, `container`, and an `image` that may be a mapping. What is not known
or not supported is an error, never ignored; only keys that start with `x-` are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PrivateAttr,
    StrictBool,
    Tag,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)

from hybrid import specforms as forms
from hybrid import yamlfile
from hybrid.driver import Kind
from hybrid.errors import HybridError, SpecError
from hybrid.image import Healthcheck
from hybrid.specerrors import explain

_ENVIRONMENT = "environment"
_DIRECTORY = "directory"

_Check: TypeAlias = Callable[[Any], Any]


def _form(read: _Check, schema: Mapping[str, Any]) -> tuple[BeforeValidator, WithJsonSchema]:
    return BeforeValidator(read), WithJsonSchema(dict(schema))


def _argv(value: Any) -> Any:
    return forms.argv(value)


def _existing(value: Any, info: ValidationInfo) -> Path:
    return forms.existing_path(value, (info.context or {}).get(_DIRECTORY, Path()))


def _environment(value: Any, info: ValidationInfo) -> dict[str, str]:
    return forms.environment(value, (info.context or {}).get(_ENVIRONMENT, {}))


# `*_form(...)` in an Annotated subscript is how one validator and its schema stay together.
_Argv = Annotated[tuple[str, ...], *_form(_argv, forms.STRING_OR_LIST)]
_Text = Annotated[str, BeforeValidator(forms.text)]
_Duration = Annotated[float, *_form(forms.duration, forms.DURATION)]
_Path = Annotated[Path, BeforeValidator(_existing), WithJsonSchema({"type": "string", "minLength": 1})]
_Suite = Annotated[str, *_form(forms.suite, {"type": "string", "pattern": f"^(?:{forms.SUITE.pattern})$"})]
_Package = Annotated[str, *_form(forms.package, {"type": "string", "pattern": f"^(?:{forms.PACKAGE.pattern})$"})]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DebianSource(_Model):
    """A root filesystem made of a Debian suite's packages."""

    debian: _Suite = Field(description="Suite: bookworm, trixie, stable …", examples=["bookworm"])
    packages: tuple[_Package, ...] = Field(
        default=(), description="Packages beside the essential ones", examples=[["nginx-light"]]
    )


class RootfsSource(_Model):
    """A root filesystem that exists: a directory or a tar, compressed or not."""

    rootfs: _Path = Field(description="Directory or tar, relative to the spec", examples=["./tree"])


class ArchiveSource(_Model):
    """An image in a file, as `docker save`, `podman save` and `skopeo copy` write them."""

    archive: _Path = Field(description="OCI or Docker archive, relative to the spec", examples=["./image.tar"])


class BuildSource(_Model):
    """A Containerfile and the directory it is built in. Compose's short form is the directory alone."""

    context: _Path = Field(description="Directory, relative to the spec", examples=["."])
    dockerfile: Annotated[str, *_form(forms.text, {"type": "string", "minLength": 1})] | None = Field(
        default=None, description="Containerfile, relative to the context (Dockerfile or Containerfile)"
    )
    args: Annotated[dict[str, str], BeforeValidator(_environment), WithJsonSchema(dict(forms.MAP_OR_LIST))] = Field(
        default_factory=dict, description="Build arguments; a name alone takes the caller's value"
    )
    target: Annotated[str, *_form(forms.stage, {"type": "string", "minLength": 1})] | None = Field(
        default=None, description="Stage to build", examples=["run"]
    )

    @property
    def file(self) -> Path:
        """The Containerfile."""
        return forms.containerfile(self.context, self.dockerfile)

    @model_validator(mode="after")
    def _check_file(self) -> Self:
        forms.check_containerfile(self.context, self.dockerfile)
        return self


_Image = Annotated[
    Annotated[str, Tag("Reference"), WithJsonSchema({"type": "string", "minLength": 1})]
    | Annotated[DebianSource, Tag("DebianSource")]
    | Annotated[RootfsSource, Tag("RootfsSource")]
    | Annotated[ArchiveSource, Tag("ArchiveSource")],
    Discriminator(forms.image_tag),
    BeforeValidator(forms.image),
]


class HealthcheckSpec(_Model):
    """Compose's healthcheck. What is None comes from the image's own, then from the defaults."""

    test: Annotated[tuple[str, ...] | None, *_form(forms.health_test, forms.STRING_OR_LIST)] = Field(
        default=None,
        description="Command that exits 0 when healthy: a string for the shell, [CMD, …], [CMD-SHELL, …] or [NONE]",
        examples=[["CMD", "curl", "-fsS", "http://127.0.0.1/"]],
    )
    interval: _Duration | None = Field(default=None, gt=0, description="Between probes", examples=["30s"])
    timeout: _Duration | None = Field(default=None, gt=0, description="Longest probe", examples=["30s"])
    retries: Annotated[int, *_form(forms.integer, forms.INTEGER)] | None = Field(
        default=None, ge=1, description="Failures in a row that make it unhealthy", examples=[3]
    )
    start_period: _Duration | None = Field(default=None, ge=0, description="Grace at the start", examples=["10s"])
    start_interval: _Duration | None = Field(
        default=None, gt=0, description="Between probes until the first has passed (0.1 s, not Docker's 5 s)"
    )
    disable: StrictBool = Field(default=False, description="Run no healthcheck, not even the image's")

    def resolve(self, image: Healthcheck | None) -> Healthcheck | None:
        """The healthcheck to run, given the image's own; None when there is none or it is disabled."""
        test = self.test or (image.test if image else None)
        if self.disable or self.test == () or test is None:
            return None
        values = {name: getattr(self, name) for name in type(self).model_fields if name not in ("test", "disable")}
        base = image or Healthcheck(test)
        return Healthcheck(
            test, **{name: getattr(base, name) if value is None else value for name, value in values.items()}
        )


class VmOptions(_Model):
    """What only a virtual machine has."""

    kernel: _Path | None = Field(default=None, description="Kernel to boot (vmlinuz or vmlinux)")


class ContainerOptions(_Model):
    """What only a container has."""

    runtime: Annotated[str, *_form(forms.program, {"type": "string", "minLength": 1})] | None = Field(
        default=None, description="OCI runtime, by name or path", examples=["crun"]
    )
    userns: StrictBool = Field(default=True, description="Map root to an unprivileged user of the host")


class Spec(_Model):
    """One image, what to run of it, and within which bounds."""

    image: _Image | None = Field(
        default=None,
        description="Name in a registry or in the store, or {debian:}, {rootfs:}, {archive:}; with `build`, a name",
        examples=["docker.io/library/nginx:latest"],
    )
    build: Annotated[BuildSource, BeforeValidator(forms.build)] | None = Field(
        default=None, description="Build the image from a Containerfile", examples=["."]
    )
    pull_policy: (
        Annotated[Literal["missing", "always", "never", "build"], BeforeValidator(forms.pull_policy)] | None
    ) = Field(default=None, description="When to fetch or build the image: missing (usual), always, never, build")
    platform: Annotated[str, *_form(forms.platform, {"type": "string", "pattern": "^[a-z0-9]+/[a-z0-9]+"})] | None = (
        Field(default=None, description="Which of an image's several machines", examples=["linux/amd64"])
    )
    command: _Argv | None = Field(default=None, description="Replaces the image's command", examples=[["sleep", "60"]])
    entrypoint: _Argv | None = Field(default=None, description="Replaces the image's entrypoint; drops its command")
    environment: Annotated[dict[str, str], BeforeValidator(_environment), WithJsonSchema(dict(forms.MAP_OR_LIST))] = (
        Field(default_factory=dict, description="Variables; a name alone takes the caller's value")
    )
    working_dir: Annotated[str, *_form(forms.absolute, {"type": "string", "pattern": "^/"})] | None = Field(
        default=None, description="Absolute path inside the image", examples=["/srv"]
    )
    user: Annotated[str, *_form(forms.user, {"type": ["string", "integer"]})] | None = Field(
        default=None, description="name[:group] or uid[:gid], looked up in the image", examples=["www-data"]
    )
    hostname: Annotated[str, *_form(forms.hostname, {"type": "string", "maxLength": 63})] | None = Field(
        default=None, description="Host name; the instance's name if not given", examples=["web"]
    )
    cpus: Annotated[float, *_form(forms.number, forms.NUMBER)] | None = Field(
        default=None, gt=0, le=4096, description="CPUs that may be used at once", examples=[1.5]
    )
    mem_limit: Annotated[int, *_form(forms.size, forms.SIZE)] | None = Field(
        default=None, ge=6 * 1024**2, description="Most memory: bytes, or 256m, 1g", examples=["256m"]
    )
    pids_limit: Annotated[int | None, *_form(forms.pids, forms.INTEGER)] = Field(
        default=None, ge=1, description="Most processes; -1 for no limit", examples=[100]
    )
    stop_signal: Annotated[int, *_form(forms.signal, {"type": ["string", "integer"]})] | None = Field(
        default=None, description="Asks the command to end", examples=["SIGQUIT"]
    )
    stop_grace_period: _Duration | None = Field(
        default=None, ge=0, description="From the stop signal to SIGKILL (10s)", examples=["10s"]
    )
    healthcheck: HealthcheckSpec | None = Field(default=None, description="How to tell that it is ready")
    network_mode: Annotated[Literal["none"], BeforeValidator(forms.network_mode)] = Field(
        default="none", description="The network; loopback only for now"
    )
    isolation: Kind | None = Field(
        default=None, description="Kind to run it as when the command line does not say", examples=["container"]
    )
    labels: Annotated[dict[str, str], *_form(forms.labels, forms.MAP_OR_LIST)] = Field(
        default_factory=dict, description="Metadata"
    )
    vm: VmOptions = Field(default_factory=VmOptions, description="Options of the kind vm")
    container: ContainerOptions = Field(default_factory=ContainerOptions, description="Options of the kind container")

    _source: Path | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _check_image(self) -> Self:
        forms.check_image(self.image, self.build, self.pull_policy)
        return self

    @property
    def made_of(self) -> DebianSource | RootfsSource | ArchiveSource | BuildSource | None:
        """What the image is made of on this machine; None when it is only named."""
        if self.build is not None and not (self.pull_policy == "always" and isinstance(self.image, str)):
            return self.build
        return None if isinstance(self.image, str) else self.image

    @property
    def source(self) -> Path | None:
        """The file that the spec was read from."""
        return self._source

    def from_file(self, path: Path) -> Self:
        """This spec, known to come from `path`."""
        copy = self.model_copy()
        copy._source = path
        return copy


def load(path: Path, environment: Mapping[str, str] | None = None) -> Spec:
    """The spec in a file. SpecError names every mistake in it.

    `environment` (this process's own, if None) gives the values of variables named without one.
    Relative paths in a spec start from its directory.
    """
    document = yamlfile.read(path)
    values = {key: value for key, value in document.values.items() if not key.startswith("x-")}
    if "services" in values:
        mend = "move one service's own keys to the top level"
        where = f"{path}:{document.line(('services',))}"
        raise SpecError([HybridError("a spec is one service, without `services:`", where=where, mend=mend)])
    context = {
        _DIRECTORY: path.absolute().parent,
        _ENVIRONMENT: os.environ if environment is None else environment,
    }
    try:
        return Spec.model_validate(values, context=context).from_file(path)
    except ValidationError as error:
        raise SpecError(explain(error, Spec, document)) from None


def for_image(reference: str) -> Spec:
    """The spec that only names an image."""
    try:
        return Spec(image=reference)
    except ValidationError as error:
        found = explain(error, Spec, None)
        raise SpecError([HybridError(each.what.removeprefix("image: "), mend=each.mend) for each in found]) from None


def schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a spec file, for editors. It accepts what `load` reads."""
    body = Spec.model_json_schema()
    body["properties"]["build"]["anyOf"].insert(0, {"type": "string", "minLength": 1})
    del body["$defs"]["BuildSource"]["required"]  # Compose's short form, and its default context
    body["anyOf"] = [{"required": ["image"]}, {"required": ["build"]}]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "hybrid spec",
        **{key: value for key, value in _standard(body).items() if key != "title"},
        "patternProperties": {"^x-": True},
    }


def _standard(value: Any) -> Any:
    """The schema without the words for bounds that pydantic leaves beside our own forms."""
    if isinstance(value, dict):
        return {key: _standard(each) for key, each in value.items() if key not in ("gt", "ge", "le")}
    return [_standard(each) for each in value] if isinstance(value, list) else value
