"""What a container starts with: environment, command line and identity, from the pod, its references and its image."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from tidegate_local.node.images import Image
from tidegate_local.podapi.kinds import CONFIG_MAPS, SECRETS, Kind
from tidegate_local.podapi.quantity import quantity, whole
from tidegate_local.podapi.refusals import Json

#: Who runs what does not say: the "nonroot" of distroless images.
DEFAULT_USER: Final = 65532
_VARIABLE: Final = re.compile(r"\$\$|\$\(([^()$]+)\)")
_SUBSCRIPT: Final = re.compile(r"metadata\.(labels|annotations)\['([^']*)'\]")

#: (kind, name) of the pod's namespace to the object, or None.
Lookup = Callable[[Kind, str], Json | None]


class ConfigError(Exception):
    """The container cannot be made yet: something it refers to is missing. In the kubelet's words."""


@dataclass(frozen=True, slots=True)
class NodeFacts:
    name: str
    address: str
    allocatable: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Identity:
    uid: int
    gid: int
    groups: tuple[int, ...]


def data_of(kind: Kind, item: Json) -> dict[str, bytes]:
    """The entries of a Secret or ConfigMap as bytes."""
    if kind is SECRETS:
        return {key: base64.b64decode(value) for key, value in item.get("data", {}).items()}
    binary = {key: base64.b64decode(value) for key, value in item.get("binaryData", {}).items()}
    return {**{key: value.encode() for key, value in item.get("data", {}).items()}, **binary}


def environment(pod: Json, container: Json, image: Image, node: NodeFacts, lookup: Lookup) -> dict[str, str]:
    """Image, then envFrom, then env; later ones win and may refer to earlier ones as $(NAME)."""
    namespace = pod["metadata"]["namespace"]
    result = {"HOME": "/", "HOSTNAME": pod["metadata"]["name"], **image.environment}
    for source in container.get("envFrom") or []:
        for field, kind in (("secretRef", SECRETS), ("configMapRef", CONFIG_MAPS)):
            reference = source.get(field)
            if reference is None:
                continue
            item = lookup(kind, reference["name"])
            if item is None and not reference.get("optional"):
                raise ConfigError(f'{kind.singular} "{reference["name"]}" not found')
            entries = data_of(kind, item) if item else {}
            result |= {source.get("prefix", "") + key: _text(value) for key, value in entries.items()}
    for variable in container.get("env") or []:
        source = variable.get("valueFrom")
        if source is None:
            result[variable["name"]] = expanded(variable.get("value", ""), result)
        elif (value := _referred(source, pod, container, node, lookup, namespace)) is not None:
            result[variable["name"]] = value
    return {name: value for name, value in result.items() if "=" not in name and "\0" not in name + value}


def _referred(
    source: Json, pod: Json, container: Json, node: NodeFacts, lookup: Lookup, namespace: str
) -> str | None:  # fmt: skip
    for field, kind in (("secretKeyRef", SECRETS), ("configMapKeyRef", CONFIG_MAPS)):
        if reference := source.get(field):
            item = lookup(kind, reference["name"])
            entries = data_of(kind, item) if item else {}
            if reference["key"] in entries:
                return _text(entries[reference["key"]])
            if reference.get("optional"):
                return None
            if item is None:
                raise ConfigError(f'{kind.singular} "{reference["name"]}" not found')
            raise ConfigError(f"couldn't find key {reference['key']} in {kind.name} {namespace}/{reference['name']}")
    if reference := source.get("fieldRef"):
        return field_value(pod, reference["fieldPath"], node)
    if reference := source.get("resourceFieldRef"):
        return resource_value(pod, container, reference, node)
    raise ConfigError(f"unsupported source of an environment variable: {sorted(source)}")


def _text(value: bytes) -> str:
    return value.decode(errors="surrogateescape")


def field_value(pod: Json, path: str, node: NodeFacts) -> str:
    """The downward API's fieldRef."""
    metadata, spec, status = pod["metadata"], pod["spec"], pod.get("status", {})
    if match := _SUBSCRIPT.fullmatch(path):
        return str((metadata.get(match[1]) or {}).get(match[2], ""))
    plain = {
        "metadata.name": metadata["name"],
        "metadata.namespace": metadata["namespace"],
        "metadata.uid": metadata["uid"],
        "spec.nodeName": node.name,
        "spec.serviceAccountName": spec.get("serviceAccountName", ""),
        "status.hostIP": node.address,
        "status.hostIPs": node.address,
        "status.podIP": status.get("podIP", ""),
        "status.podIPs": status.get("podIP", ""),
    }
    for field in ("labels", "annotations"):
        pairs = sorted((metadata.get(field) or {}).items())
        plain[f"metadata.{field}"] = "\n".join(f'{key}="{value}"' for key, value in pairs)
    if path not in plain:
        raise ConfigError(f"unsupported fieldPath: {path}")
    return str(plain[path])


def resource_value(pod: Json, container: Json, reference: Json, node: NodeFacts) -> str:
    """The downward API's resourceFieldRef; without a limit the node's allocatable stands in for it."""
    wanted = reference.get("containerName") or container["name"]
    named = next((each for each in pod["spec"]["containers"] if each["name"] == wanted), container)
    part, _, resource = reference["resource"].partition(".")
    given = (named.get("resources") or {}).get(part, {}).get(resource)
    divisor = quantity(reference.get("divisor") or "1") or quantity("1")
    if given is None and part == "limits":
        given = f"{node.allocatable['cpu']}m" if resource == "cpu" else node.allocatable.get(resource, 0)
    return str(math.ceil(quantity(given or 0) / divisor))


def expanded(text: str, variables: Mapping[str, str]) -> str:
    """$(NAME) replaced where NAME is known, left as it stands where not; $$ is one $."""

    def replacement(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        return variables.get(match[1], match[0])

    return _VARIABLE.sub(replacement, text)


def command_line(container: Json, image: Image, variables: Mapping[str, str]) -> list[str]:
    """The pod's command, or the image's; the image's arguments only without a command of the pod's."""
    command, args = container.get("command") or [], container.get("args") or []
    if not command:
        command, args = list(image.command), args or list(image.args)
    line = [expanded(word, variables) for word in [*command, *args]]
    if not line:
        raise ConfigError(f"no command specified: neither the container nor the image {container['image']} names one")
    return line


def identity(pod: Json, container: Json) -> Identity:
    """Who the container runs as; never uid 0, which admission has refused."""
    context = {**(pod["spec"].get("securityContext") or {}), **(container.get("securityContext") or {})}
    uid = int(context.get("runAsUser") or DEFAULT_USER)
    gid = int(context.get("runAsGroup") or DEFAULT_USER)
    shared = context.get("fsGroup")
    extra = [*context.get("supplementalGroups", []), *([shared] if shared else [])]
    return Identity(uid, gid, tuple(int(each) for each in extra))


def memory_limit(resources: Json) -> int | None:
    given = (resources.get("limits") or {}).get("memory")
    return None if given is None else whole(given)
