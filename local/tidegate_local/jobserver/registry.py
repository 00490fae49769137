"""Pipelines, algorithms and the processing services that offer them, registered as Antenna registers them.

Antenna's uniqueness rules are odd and part of the contract: an algorithm is unique by key alone and by (name, version);
a pipeline is matched by slug or by (name, version), and a second slug of a known (name, version) is dropped in silence.
"""

from __future__ import annotations

import datetime
import json
import sqlite3
import time
from collections.abc import Iterable
from typing import Any, Final

from tidegate_local.jobserver.database import Database
from tidegate_local.jobserver.payloads import Algorithm, Pipeline
from tidegate_local.jobserver.wire import ServerError

DETECTOR_TYPES: Final = frozenset({"detection", "localization", "segmentation"})
_HEARTBEAT_SECONDS: Final = 30.0
_LIVE_SECONDS: Final = 60.0


class Registry:
    """Who offers which pipeline with which algorithms; callers hold the transaction."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._labels: dict[str, list[str]] = {}

    def register(self, project_id: int, service_name: str, pipelines: list[Pipeline]) -> dict[str, Any]:
        """Register a service's pipelines with a project; all or nothing, and the same again changes nothing."""
        self._db.execute("INSERT OR IGNORE INTO services (name) VALUES (?)", service_name)
        self._db.execute("UPDATE services SET last_seen_at = ? WHERE name = ?", time.time(), service_name)
        service_id = self._db.scalar("SELECT id FROM services WHERE name = ?", service_name)
        created: list[str] = []
        for pipeline in pipelines:
            created += self._register_pipeline(project_id, service_id, pipeline)
        return {
            "timestamp": datetime.datetime.now().isoformat(),  # noqa: DTZ005 (Antenna's times are naive and local)
            "success": True,
            "error": None,
            "pipelines": [json.loads(pipeline.json()) for pipeline in pipelines],
            # Antenna puts the keys of new algorithms among the pipelines; clients must not count on this list.
            "pipelines_created": created,
            "algorithms_created": [],
        }

    def _register_pipeline(self, project_id: int, service_id: int, pipeline: Pipeline) -> list[str]:
        created: list[str] = []
        pipeline_id = self._db.scalar(
            "SELECT id FROM pipelines WHERE slug = ? OR (name = ? AND version = ?) ORDER BY slug = ? DESC",
            pipeline.slug, pipeline.name, pipeline.version, pipeline.slug,
        )  # fmt: skip
        if pipeline_id is None:
            pipeline_id = self._db.insert(
                "INSERT INTO pipelines (slug, name, version, description, stages) VALUES (?, ?, ?, ?, ?)",
                pipeline.slug, pipeline.name, pipeline.version, pipeline.description,
                json.dumps([json.loads(stage.json()) for stage in pipeline.stages]),
            )  # fmt: skip
            created.append(pipeline.slug)
        for algorithm in pipeline.algorithms:
            algorithm_id, is_new = self._register_algorithm(algorithm)
            self._db.execute("INSERT OR IGNORE INTO pipeline_algorithms VALUES (?, ?)", pipeline_id, algorithm_id)
            created += [algorithm.key] if is_new else []
        self._db.execute(
            "INSERT OR IGNORE INTO project_pipelines VALUES (?, ?, ?)", project_id, pipeline_id, service_id
        )
        return created

    def _register_algorithm(self, algorithm: Algorithm) -> tuple[int, bool]:
        if algorithm.task_type == "classification" and algorithm.category_map is None:
            raise ServerError(f"PipelineNotConfigured: {algorithm.key} classifies but has no category map")
        known = self._db.scalar(
            "SELECT id FROM algorithms WHERE key = ? AND version = ?", algorithm.key, algorithm.version
        )
        if known is not None:
            # Changed labels under the same key and version are ignored in silence.
            return int(known), False
        try:
            algorithm_id = self._db.insert(
                "INSERT INTO algorithms (key, name, version, task_type, category_map) VALUES (?, ?, ?, ?, ?)",
                algorithm.key, algorithm.name, algorithm.version, algorithm.task_type,
                None if algorithm.category_map is None else algorithm.category_map.json(),
            )  # fmt: skip
        except sqlite3.IntegrityError as error:
            raise ServerError(f"algorithm {algorithm.key} version {algorithm.version}: {error}") from None
        return algorithm_id, True

    def pipeline_or_placeholder(self, slug: str) -> int:
        """The pipeline's id; an unknown slug leaves a row without algorithms, to which a later registration adds."""
        self._db.execute("INSERT OR IGNORE INTO pipelines (slug, name, version) VALUES (?, ?, 1)", slug, slug)
        known = self._db.scalar("SELECT id FROM pipelines WHERE slug = ?", slug)
        if known is None:
            raise ServerError(f"no placeholder for {slug}: its name is taken by another slug")
        return int(known)

    def algorithms(self, pipeline_id: int) -> dict[str, str | None]:
        """Key and task type of the pipeline's algorithms."""
        return {
            row["key"]: row["task_type"]
            for row in self._db.all(
                "SELECT key, task_type FROM algorithms JOIN pipeline_algorithms ON algorithm_id = id "
                "WHERE pipeline_id = ?",
                pipeline_id,
            )
        }

    def label(self, algorithm_key: str, index: int) -> str | None:
        """The label at `index` of the registered category map; None where the map does not reach it."""
        if algorithm_key not in self._labels:
            text = self._db.scalar("SELECT category_map FROM algorithms WHERE key = ?", algorithm_key)
            self._labels[algorithm_key] = _labels(json.loads(text)) if text else []
        labels = self._labels[algorithm_key]
        return labels[index] if index < len(labels) else None

    def saw_services(self, slugs: Iterable[str], project_id: int | None = None) -> None:
        """The heartbeat: whoever polls for these pipelines keeps all their services alive, at most twice a minute."""
        now = time.time()
        for slug in slugs:
            self._db.execute(
                "UPDATE services SET last_seen_at = ? WHERE coalesce(last_seen_at, 0) < ? AND id IN "
                "(SELECT service_id FROM project_pipelines pp JOIN pipelines p ON p.id = pp.pipeline_id "
                "WHERE p.slug = ? AND (? IS NULL OR pp.project_id = ?))",
                now, now - _HEARTBEAT_SECONDS, slug, project_id, project_id,
            )  # fmt: skip

    def services(self) -> list[dict[str, Any]]:
        """All services with whether they are alive."""
        now = time.time()
        return [
            {
                "id": row["id"],
                "name": row["name"],
                "last_seen": row["last_seen_at"],
                "last_seen_live": row["last_seen_at"] is not None and now - row["last_seen_at"] < _LIVE_SECONDS,
            }
            for row in self._db.all("SELECT * FROM services ORDER BY id")
        ]

    def pipelines(self, project_id: int) -> list[dict[str, Any]]:
        """The project's pipelines as its list shows them."""
        rows = self._db.all(
            "SELECT DISTINCT p.* FROM pipelines p JOIN project_pipelines pp ON pp.pipeline_id = p.id "
            "WHERE pp.project_id = ? ORDER BY p.id",
            project_id,
        )
        return [
            {
                "id": row["id"],
                "name": row["name"],
                "slug": row["slug"],
                "version": row["version"],
                "description": row["description"],
                "stages": json.loads(row["stages"]),
                "algorithms": self._shown_algorithms(row["id"]),
            }
            for row in rows
        ]

    def _shown_algorithms(self, pipeline_id: int) -> list[dict[str, Any]]:
        return [
            {
                "key": row["key"],
                "name": row["name"],
                "version": row["version"],
                "task_type": row["task_type"],
                "category_count": len(_labels(json.loads(row["category_map"]))) if row["category_map"] else None,
            }
            for row in self._db.all(
                "SELECT a.* FROM algorithms a JOIN pipeline_algorithms ON algorithm_id = id WHERE pipeline_id = ?",
                pipeline_id,
            )
        ]


def _labels(category_map: dict[str, Any]) -> list[str]:
    entries = category_map.get("data") or []
    if entries and all("index" in entry and "label" in entry for entry in entries):
        return [str(entry["label"]) for entry in sorted(entries, key=lambda entry: int(entry["index"]))]
    return [str(label) for label in category_map.get("labels") or []]
