"""The image table: an image name to an environment of this machine that stands for it.

A YAML or JSON file:

    images:
      "tidegate-worker:*":                 # * matches any tag
        python: /opt/tidegate/.venv/worker # prefix of the environment: its bin goes first on PATH
        command: [tidegate-worker]         # entry point, where the pod names none
        args: []
        environment: {TZ: UTC}
        paths: [/opt/models]               # more folders that the container may read

A container sees the system's programs, its environment and what that imports from; nothing else of the machine.
"""

from __future__ import annotations

import asyncio
import fnmatch
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tidegate.core.errors import FixConfig, RetryLater

_SYSTEM_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ASK: Final = "import json, sys; print(json.dumps([sys.prefix, sys.base_prefix, *sys.path]))"
_ASK_SECONDS: Final = 30


class _Entry(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)

    python: Path | None = None
    command: list[str] = []
    args: list[str] = []
    environment: dict[str, str] = {}
    paths: list[Path] = []


class _Table(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)

    images: Annotated[dict[str, _Entry], Field(min_length=1)]


@dataclass(frozen=True, slots=True)
class Image:
    """What a container of this image starts with and may read."""

    command: tuple[str, ...]
    args: tuple[str, ...]
    environment: dict[str, str]
    paths: tuple[str, ...]


@dataclass(slots=True)
class Images:
    """The table of one node."""

    entries: dict[str, _Entry]
    _paths: dict[Path, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def from_file(cls, path: Path | None) -> Images:
        """The table in `path`; without one, `python:*` is the environment that runs this program."""
        if path is None:
            return cls({"python:*": _Entry(python=Path(sys.prefix), command=["python3"])})
        try:
            content: Any = yaml.safe_load(path.read_text())
            return cls(dict(_Table.model_validate(content).images))
        except OSError as error:
            raise FixConfig(f"the image table {path} cannot be read: {error.strerror}") from None
        except yaml.YAMLError as error:
            raise FixConfig(f"the image table {path} is no YAML: {error}") from None
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise FixConfig(f"the image table {path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None

    def names(self) -> list[str]:
        return list(self.entries)

    def _entry(self, name: str) -> _Entry | None:
        short = name.removeprefix("docker.io/").removeprefix("library/")
        short = short if ":" in short.rpartition("/")[2] or "@" in short else f"{short}:latest"
        exact = self.entries.get(name) or self.entries.get(short)
        if exact is not None:
            return exact
        matching = (entry for pattern, entry in self.entries.items() if fnmatch.fnmatchcase(short, pattern))
        return next(matching, None)

    async def resolve(self, name: str) -> Image | None:
        """The environment behind `name`, None where the table has none, RetryLater where it cannot be used now."""
        entry = self._entry(name)
        if entry is None:
            return None
        paths = tuple(str(path) for path in entry.paths)
        search = _SYSTEM_PATH
        if entry.python is not None:
            if entry.python not in self._paths:
                self._paths[entry.python] = await _import_paths(entry.python)
            paths += self._paths[entry.python]
            search = f"{entry.python}/bin:{search}"
        environment = {"PATH": search, "LANG": "C.UTF-8", **entry.environment}
        return Image(tuple(entry.command), tuple(entry.args), environment, _outermost(paths))


async def _import_paths(prefix: Path) -> tuple[str, ...]:
    """Where the environment imports from, links of editable installs included."""
    python = prefix / "bin" / "python3"
    try:
        process = await asyncio.create_subprocess_exec(
            str(python), "-I", "-c", _ASK, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL, env={}
        )
        output, _ = await asyncio.wait_for(process.communicate(), _ASK_SECONDS)
        found = json.loads(output)
    except (OSError, ValueError, TimeoutError) as error:
        raise RetryLater(f"the environment {prefix} does not run: {error}") from None
    return tuple(path for path in found if path.startswith("/") and Path(path).is_dir() and path != "/")


def _outermost(paths: tuple[str, ...]) -> tuple[str, ...]:
    """`paths` without those inside another one."""
    kept: list[str] = []
    for path in sorted(set(paths), key=len):
        if not any(path == other or path.startswith(f"{other}/") for other in kept):
            kept.append(path)
    return tuple(kept)
