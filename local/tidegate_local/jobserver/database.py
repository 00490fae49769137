"""The job server's state in one SQLite file: everything that must outlive a kill between any two requests.

One connection, used from one thread. WAL with synchronous=NORMAL keeps every committed transaction through a killed
process (a power cut may cost the last ones, which a demo can bear).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SCHEMA = """
CREATE TABLE IF NOT EXISTS secrets (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS users (
    id INTEGER PRIMARY KEY, email TEXT NOT NULL UNIQUE, password_hash TEXT NOT NULL, token TEXT NOT NULL UNIQUE,
    is_superuser INTEGER NOT NULL DEFAULT 0, is_active INTEGER NOT NULL DEFAULT 1
);
CREATE TABLE IF NOT EXISTS projects (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS services (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, last_seen_at REAL);
CREATE TABLE IF NOT EXISTS pipelines (
    id INTEGER PRIMARY KEY, slug TEXT NOT NULL UNIQUE, name TEXT NOT NULL, version INTEGER NOT NULL,
    description TEXT, stages TEXT NOT NULL DEFAULT '[]', UNIQUE (name, version)
);
CREATE TABLE IF NOT EXISTS algorithms (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, name TEXT NOT NULL, version INTEGER NOT NULL,
    task_type TEXT, category_map TEXT, UNIQUE (name, version)
);
CREATE TABLE IF NOT EXISTS pipeline_algorithms (
    pipeline_id INTEGER NOT NULL REFERENCES pipelines, algorithm_id INTEGER NOT NULL REFERENCES algorithms,
    PRIMARY KEY (pipeline_id, algorithm_id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS project_pipelines (
    project_id INTEGER NOT NULL REFERENCES projects, pipeline_id INTEGER NOT NULL REFERENCES pipelines,
    service_id INTEGER NOT NULL REFERENCES services, PRIMARY KEY (project_id, pipeline_id, service_id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS images (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, variant INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS manifests (name TEXT PRIMARY KEY, created_at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS manifest_images (
    name TEXT NOT NULL REFERENCES manifests, position INTEGER NOT NULL, image_id INTEGER NOT NULL REFERENCES images,
    PRIMARY KEY (name, position)
) WITHOUT ROWID;

-- `stream_next_seq` is null while the job has no stream; `tracked` says whether its pending sets exist.
CREATE TABLE IF NOT EXISTS jobs (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, project_id INTEGER NOT NULL REFERENCES projects,
    pipeline_id INTEGER REFERENCES pipelines, dispatch_mode TEXT NOT NULL, status TEXT NOT NULL,
    shuffle INTEGER NOT NULL, lease_seconds REAL NOT NULL, max_deliver INTEGER NOT NULL,
    max_ack_pending INTEGER NOT NULL, save_delay_seconds REAL NOT NULL,
    created_at REAL NOT NULL, updated_at REAL NOT NULL, started_at REAL, finished_at REAL, step_due_at REAL,
    stream_next_seq INTEGER, consumer_next_seq INTEGER NOT NULL DEFAULT 1,
    tracked INTEGER NOT NULL DEFAULT 0, total INTEGER NOT NULL DEFAULT 0,
    process_left INTEGER NOT NULL DEFAULT 0, results_left INTEGER NOT NULL DEFAULT 0,
    failed INTEGER NOT NULL DEFAULT 0, detections INTEGER NOT NULL DEFAULT 0,
    classifications INTEGER NOT NULL DEFAULT 0,
    collect_status TEXT NOT NULL DEFAULT 'CREATED', collect_progress REAL NOT NULL DEFAULT 0,
    process_status TEXT NOT NULL DEFAULT 'CREATED', process_progress REAL NOT NULL DEFAULT 0,
    results_status TEXT NOT NULL DEFAULT 'CREATED', results_progress REAL NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS jobs_due ON jobs (step_due_at) WHERE step_due_at IS NOT NULL;
CREATE TABLE IF NOT EXISTS job_images (
    job_id INTEGER NOT NULL REFERENCES jobs, image_id INTEGER NOT NULL REFERENCES images, position INTEGER NOT NULL,
    in_process INTEGER NOT NULL DEFAULT 0, in_results INTEGER NOT NULL DEFAULT 0,
    failed INTEGER NOT NULL DEFAULT 0, lost INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (job_id, image_id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS job_images_of ON job_images (image_id);
CREATE TABLE IF NOT EXISTS job_logs (
    id INTEGER PRIMARY KEY, job_id INTEGER NOT NULL REFERENCES jobs, at REAL NOT NULL, level TEXT NOT NULL,
    message TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS job_logs_of ON job_logs (job_id, id);

CREATE TABLE IF NOT EXISTS messages (
    job_id INTEGER NOT NULL REFERENCES jobs, seq INTEGER NOT NULL, image_id INTEGER NOT NULL,
    published_at REAL NOT NULL, delivered INTEGER NOT NULL DEFAULT 0, leased_until REAL,
    acked INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (job_id, seq)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS messages_new ON messages (job_id, seq) WHERE delivered = 0 AND acked = 0;
CREATE INDEX IF NOT EXISTS messages_out ON messages (job_id, leased_until) WHERE delivered > 0 AND acked = 0;
CREATE TABLE IF NOT EXISTS deliveries (
    job_id INTEGER NOT NULL, image_id INTEGER NOT NULL, reply_subject TEXT NOT NULL, delivered INTEGER NOT NULL,
    at REAL NOT NULL, leased_until REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS deliveries_of ON deliveries (job_id, image_id);

-- An answer without an outcome waits in the task queue; the payload goes once it is processed.
CREATE TABLE IF NOT EXISTS answers (
    id INTEGER PRIMARY KEY, job_id INTEGER NOT NULL REFERENCES jobs, image_id TEXT, reply_subject TEXT NOT NULL,
    kind TEXT NOT NULL, task_id TEXT NOT NULL, received_at REAL NOT NULL, due_at REAL NOT NULL, payload TEXT,
    outcome TEXT, reason TEXT NOT NULL DEFAULT '', processed_at REAL
);
CREATE INDEX IF NOT EXISTS answers_due ON answers (due_at) WHERE outcome IS NULL;
CREATE INDEX IF NOT EXISTS answers_of ON answers (job_id, image_id);
CREATE TABLE IF NOT EXISTS detections (
    id INTEGER PRIMARY KEY, image_id INTEGER NOT NULL REFERENCES images, bbox TEXT NOT NULL,
    pipeline_id INTEGER NOT NULL REFERENCES pipelines, job_id INTEGER NOT NULL REFERENCES jobs,
    algorithm_key TEXT, UNIQUE (image_id, bbox)
);
CREATE TABLE IF NOT EXISTS classifications (
    id INTEGER PRIMARY KEY, detection_id INTEGER NOT NULL REFERENCES detections, taxon TEXT NOT NULL,
    algorithm_key TEXT NOT NULL, score REAL NOT NULL, UNIQUE (detection_id, taxon, algorithm_key, score)
);
CREATE TABLE IF NOT EXISTS faults (
    id INTEGER PRIMARY KEY, kind TEXT NOT NULL, endpoint TEXT, job_id INTEGER, image_id INTEGER,
    times_left INTEGER, ratio REAL NOT NULL, options TEXT NOT NULL
);
"""

Row = sqlite3.Row


class Database:
    """The one connection, with short transactions that either happen or do not."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None, cached_statements=256)
        self._connection.row_factory = sqlite3.Row
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=NORMAL")
        self._connection.execute("PRAGMA foreign_keys=ON")
        self._connection.executescript(SCHEMA)
        self._depth = 0

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of the block or nothing; an inner block can fail alone, as a savepoint."""
        name = f"level_{self._depth}"
        self._connection.execute(f"SAVEPOINT {name}" if self._depth else "BEGIN IMMEDIATE")
        self._depth += 1
        try:
            yield
        except BaseException:
            self._depth -= 1
            self._connection.execute(f"ROLLBACK TO {name}" if self._depth else "ROLLBACK")
            if self._depth:
                self._connection.execute(f"RELEASE {name}")
            raise
        self._depth -= 1
        self._connection.execute(f"RELEASE {name}" if self._depth else "COMMIT")

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        return self._connection.execute(statement, values)

    def execute_many(self, statement: str, rows: list[tuple[Any, ...]]) -> None:
        self._connection.executemany(statement, rows)

    def all(self, statement: str, *values: Any) -> list[Row]:
        return self._connection.execute(statement, values).fetchall()

    def one(self, statement: str, *values: Any) -> Row | None:
        row: Row | None = self._connection.execute(statement, values).fetchone()
        return row

    def scalar(self, statement: str, *values: Any) -> Any:
        row = self.one(statement, *values)
        return None if row is None else row[0]

    def insert(self, statement: str, *values: Any) -> int:
        """Run an INSERT of one row and return its id."""
        row_id = self.execute(statement, *values).lastrowid
        if row_id is None:
            raise ValueError(f"not an INSERT of one row: {statement}")
        return row_id

    def close(self) -> None:
        self._connection.close()
