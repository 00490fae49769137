"""What a worker tells Antenna of a pipeline, and holds its own results against; values only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from tidegate.core.errors import FixConfig

_DETECTING: Final = frozenset({"detection", "localization", "segmentation"})


@dataclass(frozen=True, slots=True, kw_only=True)
class AntennaAlgorithm:
    #: Unique on the server on its own, whatever the version.
    key: str
    name: str
    #: "detection", "localization", "segmentation", "classification" or "tagging".
    task_type: str
    version: int = 1
    description: str = ""
    version_name: str = ""
    uri: str = ""
    #: The category map in index order; for classifiers.
    labels: Sequence[str] = ()
    #: Of all labels, as Antenna names ranks: SPECIES, ORDER, ...
    taxon_rank: str = ""

    @property
    def detects(self) -> bool:
        return self.task_type in _DETECTING


@dataclass(frozen=True, slots=True, kw_only=True)
class AntennaPipeline:
    slug: str
    name: str
    algorithms: tuple[AntennaAlgorithm, ...]
    version: int = 1
    description: str = ""

    def __post_init__(self) -> None:
        # Each of these the server takes in silence, or answers 500, and then fails to save every result.
        detectors = [algorithm.key for algorithm in self.algorithms if algorithm.detects]
        if len(detectors) != 1:
            raise FixConfig(f"pipeline {self.slug}: needs exactly one detecting algorithm, has {detectors or 'none'}")
        keys = [algorithm.key for algorithm in self.algorithms]
        if len(set(keys)) != len(keys):
            raise FixConfig(f"pipeline {self.slug}: algorithm keys repeat: {sorted(keys)}")
        for algorithm in self.algorithms:
            if not algorithm.detects and not algorithm.labels:
                raise FixConfig(f"pipeline {self.slug}: algorithm {algorithm.key} classifies but has no labels")

    def algorithm(self, key: str) -> AntennaAlgorithm | None:
        return next((algorithm for algorithm in self.algorithms if algorithm.key == key), None)

    def payload(self) -> dict[str, Any]:
        """The pipeline as registration takes it."""
        return {
            "name": self.name,
            "slug": self.slug,
            "version": self.version,
            "description": self.description,
            "algorithms": [_algorithm_payload(algorithm) for algorithm in self.algorithms],
            "stages": [],
        }


def _algorithm_payload(algorithm: AntennaAlgorithm) -> dict[str, Any]:
    labels = list(algorithm.labels)
    rank = {"taxon_rank": algorithm.taxon_rank} if algorithm.taxon_rank else {}
    category_map = {
        "data": [{"index": index, "label": label, **rank} for index, label in enumerate(labels)],
        "labels": labels,
        "version": algorithm.version_name or str(algorithm.version),
        "description": algorithm.description,
        "uri": algorithm.uri or None,
    }
    return {
        "name": algorithm.name,
        "key": algorithm.key,
        "description": algorithm.description,
        "task_type": algorithm.task_type,
        "version": algorithm.version,
        "version_name": algorithm.version_name or str(algorithm.version),
        "uri": algorithm.uri or None,
        "category_map": category_map if labels else None,
    }
