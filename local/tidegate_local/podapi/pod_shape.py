"""The shape of a pod as far as this machine acts on it: types and formats, checked before any rule reads a field.

Fields that are not named here pass unread, as on a cluster whose version does not know them.
"""

# Fields carry the API's own names.
# ruff: noqa: N815

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from tidegate_local.podapi.quantity import quantity
from tidegate_local.podapi.refusals import Cause, Json, bad_request, invalid

#: Objects larger than this do not fit into etcd either.
MAX_OBJECT_BYTES: Final = 1_500_000

_LABEL: Final = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_DNS_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_DNS_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_ENV_NAME: Final = re.compile(r"[!-<>-~]+")


def _matching(pattern: re.Pattern[str], what: str, length: int = 253) -> AfterValidator:
    def check(text: str) -> str:
        if len(text) > length or not pattern.fullmatch(text):
            raise ValueError(f"a {what} must match '{pattern.pattern}' and hold at most {length} characters")
        return text

    return AfterValidator(check)


def _label_value(text: str) -> str:
    if text and not _LABEL.fullmatch(text):
        raise ValueError(f"a valid label must match '{_LABEL.pattern}'")
    return text


def _label_key(text: str) -> str:
    prefix, slash, name = text.rpartition("/")
    if not _LABEL.fullmatch(name) or (slash and not _DNS_NAME.fullmatch(prefix)):
        raise ValueError("name part must consist of alphanumeric characters, '-', '_' or '.'")
    return text


def _is_quantity(value: Any) -> Any:
    if quantity(value) < 0:
        raise ValueError("must be greater than or equal to 0")
    return value


def _no_null(value: str) -> str:
    if "\0" in value:
        raise ValueError("must not contain a null character")
    return value


def _path(value: str) -> str:
    if not value.startswith("/") or "\0" in value or ".." in value.split("/"):
        raise ValueError("must be an absolute path without '..'")
    return value


def _relative_path(value: str) -> str:
    if value.startswith("/") or "\0" in value or ".." in value.split("/"):
        raise ValueError("must be a relative path without '..'")
    return value


Text = Annotated[str, AfterValidator(_no_null)]
ShortName = Annotated[str, _matching(_DNS_LABEL, "lowercase RFC 1123 label", 63)]
ObjectName = Annotated[str, _matching(_DNS_NAME, "lowercase RFC 1123 subdomain")]
AbsolutePath = Annotated[str, AfterValidator(_path)]
RelativePath = Annotated[str, AfterValidator(_relative_path)]
Quantity = Annotated[Any, BeforeValidator(_is_quantity)]
Quantities = dict[str, Quantity]
UserId = Annotated[int, Field(ge=0, le=2**31 - 1)]
Labels = dict[Annotated[str, AfterValidator(_label_key)], Annotated[str, AfterValidator(_label_value)]]


class Shape(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(strict=True, extra="allow", frozen=True)


class Metadata(Shape):
    name: ObjectName
    namespace: ShortName | None = None
    labels: Labels = {}
    annotations: dict[str, str] = {}


class KeyReference(Shape):
    name: ObjectName
    key: Text
    optional: bool = False


class FieldReference(Shape):
    fieldPath: str


class ResourceFieldReference(Shape):
    resource: str
    containerName: str = ""
    divisor: Quantity = "1"


class EnvSource(Shape):
    fieldRef: FieldReference | None = None
    resourceFieldRef: ResourceFieldReference | None = None
    secretKeyRef: KeyReference | None = None
    configMapKeyRef: KeyReference | None = None


class Env(Shape):
    name: Annotated[str, _matching(_ENV_NAME, "environment variable name", 10_000)]
    value: Text = ""
    valueFrom: EnvSource | None = None


class Reference(Shape):
    name: ObjectName
    optional: bool = False


class EnvFrom(Shape):
    prefix: Text = ""
    secretRef: Reference | None = None
    configMapRef: Reference | None = None


class Mount(Shape):
    name: ShortName
    mountPath: AbsolutePath
    subPath: RelativePath = ""
    readOnly: bool = False


class Resources(Shape):
    requests: Quantities = {}
    limits: Quantities = {}


class ResizePolicy(Shape):
    resourceName: str
    restartPolicy: Literal["NotRequired", "RestartContainer"]


class Capabilities(Shape):
    add: list[str] = []


class Port(Shape):
    containerPort: Annotated[int, Field(ge=1, le=65535)]


class SecurityContext(Shape):
    runAsUser: UserId | None = None
    runAsGroup: UserId | None = None
    runAsNonRoot: bool | None = None
    privileged: bool = False
    readOnlyRootFilesystem: bool = False
    capabilities: Capabilities = Capabilities()
    fsGroup: UserId | None = None
    supplementalGroups: list[UserId] = []


class Container(Shape):
    name: ShortName
    image: Annotated[str, Field(min_length=1, max_length=1024)]
    command: list[Text] = []
    args: list[Text] = []
    workingDir: Text = ""
    env: list[Env] = []
    envFrom: list[EnvFrom] = []
    volumeMounts: list[Mount] = []
    ports: list[Port] = []
    resources: Resources = Resources()
    resizePolicy: list[ResizePolicy] = []
    securityContext: SecurityContext = SecurityContext()
    terminationMessagePath: AbsolutePath = "/dev/termination-log"
    terminationMessagePolicy: Literal["File", "FallbackToLogsOnError"] = "File"
    imagePullPolicy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"


Mode = Annotated[int, Field(ge=0, le=0o777)]


class KeyToPath(Shape):
    key: Text
    path: RelativePath
    mode: Mode | None = None


class DownwardItem(Shape):
    path: RelativePath
    mode: Mode | None = None
    fieldRef: FieldReference | None = None
    resourceFieldRef: ResourceFieldReference | None = None

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        if (self.fieldRef is None) == (self.resourceFieldRef is None):
            raise ValueError("exactly one of fieldRef and resourceFieldRef is required")
        return self


class SecretVolume(Shape):
    secretName: ObjectName
    items: list[KeyToPath] | None = None
    defaultMode: Mode = 0o644


class NamedSource(Shape):
    name: ObjectName
    items: list[KeyToPath] | None = None
    defaultMode: Mode = 0o644


class DownwardSource(Shape):
    items: list[DownwardItem] = []
    defaultMode: Mode = 0o644


class ProjectedSource(Shape):
    secret: NamedSource | None = None
    configMap: NamedSource | None = None
    downwardAPI: DownwardSource | None = None


class Projected(Shape):
    sources: list[ProjectedSource] = []
    defaultMode: Mode = 0o644


class EmptyDirectory(Shape):
    medium: Literal["", "Memory"] = ""
    sizeLimit: Quantity | None = None


class HostPath(Shape):
    path: AbsolutePath
    type: str = ""


class Claim(Shape):
    claimName: ObjectName
    readOnly: bool = False


class Volume(Shape):
    name: ShortName
    emptyDir: EmptyDirectory | None = None
    hostPath: HostPath | None = None
    persistentVolumeClaim: Claim | None = None
    secret: SecretVolume | None = None
    configMap: NamedSource | None = None
    downwardAPI: DownwardSource | None = None
    projected: Projected | None = None


class PodSpec(Shape):
    containers: Annotated[list[Container], Field(min_length=1)]
    initContainers: list[Container] = []
    volumes: list[Volume] = []
    restartPolicy: Literal["Always", "OnFailure", "Never"] = "Always"
    terminationGracePeriodSeconds: Annotated[int, Field(ge=0, le=2**31 - 1)] = 30
    activeDeadlineSeconds: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    nodeName: str = ""
    nodeSelector: dict[str, str] = {}
    hostNetwork: bool = False
    hostPID: bool = False
    hostIPC: bool = False
    hostname: ShortName | None = None
    securityContext: SecurityContext = SecurityContext()


class Pod(Shape):
    metadata: Metadata
    spec: PodSpec


class PlainObject(Shape):
    metadata: Metadata


def checked(shape: type[Shape], kind: str, item: Json) -> None:
    """Refuse `item` where its shape is wrong: 400 for a wrong type, 422 for a value that cannot be."""
    try:
        shape.model_validate(item)
    except ValidationError as error:
        name = str(item.get("metadata", {}).get("name", "")) if isinstance(item.get("metadata"), dict) else ""
        causes = []
        for problem in error.errors(include_url=False, include_context=False):
            place = _place(problem["loc"])
            if problem["type"].endswith("_type"):
                raise bad_request(f"json: cannot unmarshal {place}: {problem['msg'].lower()}") from None
            reason = "FieldValueRequired" if problem["type"] in {"missing", "too_short"} else "FieldValueInvalid"
            told = problem["msg"].removeprefix("Value error, ")
            causes.append(
                Cause(place, reason, told if reason == "FieldValueRequired" else f"{_short(problem['input'])}: {told}")
            )
        raise invalid(kind, name, *causes[:20]) from None


def _place(location: tuple[int | str, ...]) -> str:
    text = ""
    for step in location:
        if step == "[key]":
            continue
        text += f"[{step}]" if isinstance(step, int) else f".{step}"
    return text.removeprefix(".")


def _short(value: Any) -> str:
    text = f'"{value}"' if isinstance(value, str) else str(value)
    return text if len(text) <= 100 else f"{text[:97]}..."
