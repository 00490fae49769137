"""Volumes of a pod: folders made for it on this machine, and where each container mounts them."""

from __future__ import annotations

import os
import posixpath
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tidegate_local.node.container_config import Lookup, NodeFacts, data_of, field_value, resource_value
from tidegate_local.podapi.kinds import CLAIMS, CONFIG_MAPS, SECRETS, Kind
from tidegate_local.podapi.quantity import whole
from tidegate_local.podapi.refusals import Json

_WRITTEN: Final = ("secret", "configMap", "downwardAPI", "projected")


class VolumeMissing(Exception):
    """The volume may come: what it refers to is not there yet."""


class VolumeRefused(Exception):
    """The volume will never be mounted here; the message says what would be."""


@dataclass(frozen=True, slots=True)
class Mount:
    """One instruction of the shim's."""

    kind: str
    target: str
    source: str = ""
    #: The way below `source`, walked without following links.
    inside: str = ""
    creates: bool = False
    options: tuple[str, ...] = ("nosuid", "nodev")
    #: Options of a file system that the kernel makes.
    data: str = ""


def read_only(source: str, target: str | None = None) -> Mount:
    return Mount("bind", target or source, source, options=("ro", "nosuid", "nodev"))


@dataclass(frozen=True, slots=True)
class Folders:
    """Where volumes live below the work folder."""

    work: Path

    @property
    def shared(self) -> Path:
        """The only folder that hostPath may name."""
        return self.work / "shared"

    def claim(self, namespace: str, name: str) -> Path:
        return self.work / "claims" / namespace / name

    def pod(self, uid: str) -> Path:
        return self.work / "pods" / uid

    def volume(self, uid: str, name: str) -> Path:
        return self.pod(uid) / "volumes" / name


@dataclass(frozen=True, slots=True)
class Volumes:
    """The volumes of one pod."""

    pod: Json
    folders: Folders
    node: NodeFacts
    lookup: Lookup

    def prepare(self) -> None:
        """Make and fill every folder; VolumeMissing where to try again later."""
        for volume in self.pod["spec"].get("volumes") or []:
            if "emptyDir" in volume:
                self._prepare_empty(volume)
            elif "persistentVolumeClaim" in volume:
                self._prepare_claim(volume["persistentVolumeClaim"]["claimName"])
            elif "hostPath" in volume:
                self._shared_path(volume)
            elif any(field in volume for field in _WRITTEN):
                self._write(volume)
            else:
                kinds = sorted(volume.keys() - {"name"})
                raise VolumeRefused(f'volume "{volume["name"]}": this machine offers no {"/".join(kinds)}')

    def mounts(self, container: Json) -> Iterator[Mount]:
        """The container's volume mounts, outer ones first."""
        volumes = {volume["name"]: volume for volume in self.pod["spec"].get("volumes") or []}
        for each in sorted(container.get("volumeMounts") or [], key=lambda mount: str(mount["mountPath"])):
            yield self._mount(volumes[each["name"]], each, container)

    def _mount(self, volume: Json, mount: Json, container: Json) -> Mount:
        name, target = volume["name"], posixpath.normpath(mount["mountPath"])
        sub_path = posixpath.normpath(mount.get("subPath") or ".").removeprefix(".")
        if (volume.get("emptyDir") or {}).get("medium") == "Memory":
            return Mount("tmpfs", target, data=f"mode=1777{self._size(volume, container)}")
        source, inside, may_write = self.folders.volume(self._uid, name), "", True
        if "hostPath" in volume:
            source, inside = self.folders.shared, self._shared_path(volume)
        elif claim := volume.get("persistentVolumeClaim"):
            source, may_write = self._claim_folder(claim["claimName"]), not claim.get("readOnly")
        elif any(field in volume for field in _WRITTEN):
            may_write = False
        may_write = may_write and not mount.get("readOnly")
        options = ("nosuid", "nodev") if may_write else ("ro", "nosuid", "nodev")
        way = posixpath.join(inside, sub_path) if sub_path else inside
        creates = may_write and ("hostPath" not in volume or volume["hostPath"].get("type") == "DirectoryOrCreate")
        return Mount("bind", target, str(source), way, creates, options)

    def _size(self, volume: Json, container: Json) -> str:
        given = volume["emptyDir"].get("sizeLimit")
        limit = (container["resources"].get("limits") or {}).get("memory") if given is None else given
        return "" if limit is None else f",size={whole(limit)}"

    @property
    def _uid(self) -> str:
        return str(self.pod["metadata"]["uid"])

    @property
    def _group(self) -> int | None:
        group = (self.pod["spec"].get("securityContext") or {}).get("fsGroup")
        return None if group is None else int(group)

    def _prepare_empty(self, volume: Json) -> None:
        name = volume["name"]
        users = [
            container["name"]
            for container in self.pod["spec"]["containers"]
            if any(mount["name"] == name for mount in container.get("volumeMounts") or [])
        ]
        if volume["emptyDir"].get("medium") == "Memory" and len(users) > 1:
            # Each container has a tmpfs of its own, so that its pages count against its own limit.
            raise VolumeRefused(f'volume "{name}": an emptyDir in memory cannot be shared by containers here')
        _make_open(self.folders.volume(self._uid, name))

    def _claim_folder(self, name: str) -> Path:
        return self.folders.claim(self.pod["metadata"]["namespace"], name)

    def _prepare_claim(self, name: str) -> None:
        if self.lookup(CLAIMS, name) is None:
            raise VolumeMissing(f'persistentvolumeclaim "{name}" not found')
        _make_open(self._claim_folder(name))

    def _shared_path(self, volume: Json) -> str:
        """The way below the shared folder that a hostPath names; links in it are met by the shim."""
        path = posixpath.normpath(str(volume["hostPath"]["path"]))
        shared = str(self.folders.shared)
        if path != shared and not path.startswith(f"{shared}/"):
            why = f"only folders inside {shared} may be mounted here, not {path}"
            raise VolumeRefused(f'hostPath volume "{volume["name"]}": {why}')
        kind = volume["hostPath"].get("type") or ""
        if kind not in ("", "Directory", "DirectoryOrCreate", "File"):
            raise VolumeRefused(f'hostPath volume "{volume["name"]}": type {kind} is not offered here')
        return path.removeprefix(shared).lstrip("/")

    # -- volumes that are written from objects

    def _write(self, volume: Json) -> None:
        folder = self.folders.volume(self._uid, volume["name"])
        if folder.exists():
            # Another container of the pod may have it mounted already.
            return
        source: Json = next(volume[field] for field in _WRITTEN if field in volume)
        files: dict[str, tuple[bytes, int]] = {}
        default = int(source.get("defaultMode", 0o644))
        for field in ("secret", "configMap", "downwardAPI"):
            if field in volume:
                files |= self._files(field, volume[field], default)
        for part in (volume.get("projected") or {}).get("sources") or []:
            for field, content in part.items():
                if field not in ("secret", "configMap", "downwardAPI"):
                    raise VolumeRefused(f'volume "{volume["name"]}": this machine projects no {field}')
                files |= self._files(field, content, default)
        draft = folder.with_name(f".{folder.name}")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        draft.chmod(0o755)
        for path, (content, mode) in files.items():
            file = draft / path
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
            file.write_bytes(content)
            file.chmod(mode if self._group is None else mode | 0o440)
            if self._group is not None and os.geteuid() == 0:
                os.chown(file, 0, self._group)
        draft.rename(folder)

    def _files(self, field: str, source: Json, default: int) -> dict[str, tuple[bytes, int]]:
        if field == "downwardAPI":
            return {
                _inside(item["path"]): (self._downward(item).encode(), int(item.get("mode", default)))
                for item in source.get("items") or []
            }
        kind = SECRETS if field == "secret" else CONFIG_MAPS
        name = source.get("secretName") or source.get("name") or ""
        entries = self._entries(kind, name, optional=bool(source.get("optional")))
        items = source.get("items")
        if items is None:
            return {key: (content, default) for key, content in entries.items()}
        for item in items:
            if item["key"] not in entries and not source.get("optional"):
                raise VolumeMissing(f"references non-existent {kind.singular} key: {item['key']}")
        return {
            _inside(item["path"]): (entries[item["key"]], int(item.get("mode", default)))
            for item in items
            if item["key"] in entries
        }

    def _downward(self, item: Json) -> str:
        if reference := item.get("resourceFieldRef"):
            first: Json = self.pod["spec"]["containers"][0]
            return resource_value(self.pod, first, reference, self.node)
        return field_value(self.pod, item["fieldRef"]["fieldPath"], self.node)

    def _entries(self, kind: Kind, name: str, *, optional: bool) -> dict[str, bytes]:
        item = self.lookup(kind, name)
        if item is None and not optional:
            raise VolumeMissing(f'{kind.singular} "{name}" not found')
        return data_of(kind, item) if item else {}


def _inside(path: str) -> str:
    if path.startswith("/") or ".." in path.split("/"):
        raise VolumeRefused(f"the path {path!r} leaves its volume")
    return path


def _make_open(folder: Path) -> None:
    """A folder that any uid may write to: whoever mounts it has a uid of its own choice."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o777)
