"""What the catalogue files say: detectors, classifiers, the pipelines made of them and the hashes of their files.

Files are YAML, read in the order given; a later file adds entries or replaces whole ones by name, so that an
administrator changes a pipeline or pins a hash without copying the rest. Nothing of a catalogue ever comes from a job.
Not covered: fetching the files (`artifacts`) and making networks of them (`load`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tidegate.core.errors import FixConfig

_NOT_IN_KEYS: Final = re.compile(r"[^a-z0-9_]")

Name = Annotated[str, Field(min_length=1, max_length=255)]
#: Relative to `base`, or a whole URI.
Location = Annotated[str, Field(min_length=1)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Triple = tuple[float, float, float]
T = TypeVar("T")

IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)


def key_of(name: str) -> str:
    """The key under which an algorithm of this name is registered: letters, digits and single underscores."""
    return re.sub("_+", "_", _NOT_IN_KEYS.sub("", name.lower().replace(" ", "_"))).strip("_")


class Entry(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")


class Algorithm(Entry):
    """One network. Its weights lie in a file or are drawn from a seed, never both."""

    name: Name
    description: str = ""
    version: Annotated[int, Field(ge=1)] = 1
    weights: Location | None = None
    seed: int | None = None

    @property
    def key(self) -> str:
        return key_of(self.name)

    @model_validator(mode="after")
    def _weights_or_seed(self) -> Self:
        if (self.weights is None) == (self.seed is None):
            raise ValueError("give either weights (a file) or seed (a number)")
        return self


class Detector(Algorithm):
    architecture: Literal["fasterrcnn_resnet50_fpn", "fasterrcnn_mobilenet_v3_large_fpn", "tiny_detector"]
    #: Boxes at or below this score are dropped.
    score_above: Annotated[float, Field(ge=0, lt=1)]
    most_boxes: Annotated[int, Field(ge=1)] = 100


class Classifier(Algorithm):
    architecture: Literal[
        "torchvision_resnet50", "timm_resnet50", "resnet50_trunk", "timm_convnext_tiny_in22k", "tiny_classifier"
    ]
    category_map: Location | None = None
    #: Labels in the order of the network's outputs, where there is no file.
    labels: tuple[str, ...] = ()
    input_size: Annotated[int, Field(ge=8, le=1024)]
    #: How its training resized crops: as floats, or as 8-bit pictures, which rounds.
    resize: Literal["floats", "picture"] = "floats"
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD
    taxon_rank: str = "SPECIES"

    @model_validator(mode="after")
    def _map_or_labels(self) -> Self:
        if (self.category_map is None) == (not self.labels):
            raise ValueError("give either category_map (a file) or labels (a list)")
        return self


class Filter(Entry):
    """A classifier that runs first; only what it gives the label `keep` goes on."""

    classifier: Name
    keep: Name


class PipelineEntry(Entry):
    detector: Name
    filter: Filter | None = None
    classifier: Name
    name: Name | None = None
    description: str | None = None
    version: Annotated[int, Field(ge=1)] = 1
    #: `module:function` of installed code that makes the predictor instead of `tidegate_worker.models.load`.
    factory: Annotated[str, Field(pattern=r"^[\w.]+:\w+$")] | None = None
    #: May be told to leak, to be slow or to crash (`TIDEGATE_DEMO_*`).
    demo: bool = False


class _File(Entry):
    base: str | None = None
    detectors: dict[Name, Detector] = {}
    classifiers: dict[Name, Classifier] = {}
    pipelines: dict[Name, PipelineEntry] = {}
    #: By location. Null: nobody has told yet; the file is not loaded until an administrator does.
    sha256: dict[Location, Sha256 | None] = {}


class Artifact(Entry):
    """A file by URI, and what it must hash to."""

    location: str
    uri: str
    sha256: str | None


class Pipeline(Entry):
    """A pipeline with its algorithms looked up."""

    slug: str
    entry: PipelineEntry
    detector: Detector
    filter: Classifier | None
    classifier: Classifier

    @property
    def name(self) -> str:
        return self.entry.name or self.classifier.name

    @property
    def algorithms(self) -> tuple[Detector | Classifier, ...]:
        """In the order in which they run."""
        return tuple(part for part in (self.detector, self.filter, self.classifier) if part is not None)

    @property
    def classifiers(self) -> tuple[Classifier, ...]:
        return tuple(part for part in (self.filter, self.classifier) if part is not None)


class Catalogue:
    """All entries of all files, later files over earlier ones."""

    def __init__(self, files: Iterable[Path], base: str | None = None) -> None:
        """`base` is a mirror to use in place of the one that the files name."""
        self._detectors: dict[str, Detector] = {}
        self._classifiers: dict[str, Classifier] = {}
        self._pipelines: dict[str, PipelineEntry] = {}
        self._origins: dict[str, Path] = {}
        self._sha256: dict[str, str | None] = {}
        self._base = ""
        for path in files:
            read = _read(path)
            self._detectors |= read.detectors
            self._classifiers |= read.classifiers
            self._pipelines |= read.pipelines
            self._origins |= dict.fromkeys(read.pipelines, path)
            self._sha256 |= read.sha256
            self._base = read.base or self._base
        self._base = base or self._base
        for slug in self._pipelines:
            self.pipeline(slug)

    @property
    def slugs(self) -> tuple[str, ...]:
        return tuple(self._pipelines)

    def pipeline(self, slug: str) -> Pipeline:
        if slug not in self._pipelines:
            raise FixConfig(f"no pipeline is named {slug!r}; the catalogue has: {', '.join(self._pipelines) or 'none'}")
        entry = self._pipelines[slug]
        where = f"{self._origins[slug]}: pipelines.{slug}"
        found_filter = None
        if entry.filter is not None:
            found_filter = _found(self._classifiers, entry.filter.classifier, f"{where}.filter.classifier")
            if found_filter.labels and entry.filter.keep not in found_filter.labels:
                raise FixConfig(f"{where}.filter.keep: {entry.filter.keep!r} is none of its labels")
        return Pipeline(
            slug=slug,
            entry=entry,
            detector=_found(self._detectors, entry.detector, f"{where}.detector"),
            filter=found_filter,
            classifier=_found(self._classifiers, entry.classifier, f"{where}.classifier"),
        )

    def artifact(self, location: str) -> Artifact:
        uri = location if "://" in location else f"{self._base.rstrip('/')}/{location}"
        if "://" not in uri:
            raise FixConfig(f"{location} is relative and no catalogue file says base: set TIDEGATE_WEIGHTS_BASE")
        return Artifact(location=location, uri=uri, sha256=self._sha256.get(location))

    def artifacts(self, slug: str) -> tuple[Artifact, ...]:
        """Every file that the pipeline needs."""
        pipeline = self.pipeline(slug)
        locations = [part.weights for part in pipeline.algorithms]
        locations += [part.category_map for part in pipeline.classifiers]
        return tuple(self.artifact(location) for location in dict.fromkeys(locations) if location is not None)

    def model_version(self, slug: str) -> str:
        """Changes whenever results may: a hash over the entries and the hashes of the files, without reading those."""
        pipeline = self.pipeline(slug)
        facts = [pipeline.entry.model_dump(mode="json", exclude={"name", "description"})]
        facts += [part.model_dump(mode="json", exclude={"description"}) for part in pipeline.algorithms]
        facts += [{"sha256": artifact.sha256} for artifact in self.artifacts(slug)]
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        return f"{pipeline.entry.version}-{digest[:12]}"


def catalogue_files(places: Iterable[Path]) -> list[Path]:
    """The files named, and the YAML files of the folders named, each folder by name."""
    files: list[Path] = []
    for place in places:
        if place.is_dir():
            files += sorted(place.glob("*.yaml"))
        elif place.is_file():
            files.append(place)
        else:
            raise FixConfig(f"there is no catalogue file or folder {place}: correct TIDEGATE_CATALOGUE")
    return files


def _read(path: Path) -> _File:
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise FixConfig(f"{path} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise FixConfig(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    try:
        return _File.model_validate({} if content is None else content)
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, each['loc'])) or 'the file'}: {each['msg']}"
            for each in error.errors(include_url=False)
        ]
        raise FixConfig(f"{path}: {'; '.join(problems)}") from None


def _found(entries: Mapping[str, T], name: str, where: str) -> T:
    if name not in entries:
        raise FixConfig(f"{where}: there is no {name!r}; there are: {', '.join(entries) or 'none'}")
    return entries[name]
