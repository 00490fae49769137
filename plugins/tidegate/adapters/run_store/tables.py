"""The tables of the run store as the newest migration leaves them."""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Column, Float, ForeignKeyConstraint, Index, Integer, MetaData, String, Table, Text

#: Where Alembic notes the revision of the schema, and the revision that this module describes.
SCHEMA_TABLE: Final = "tidegate_schema"
NEWEST_REVISION: Final = "0002"

metadata = MetaData()

runs = Table(
    "tidegate_runs",
    metadata,
    Column("run_id", String(250), primary_key=True),
    Column("dag_run_id", String(250), nullable=False),
    Column("job", String(253), nullable=False),
    Column("source", Text, nullable=False),
    Column("pipeline", String(253), nullable=False),
    Column("model_version", String(253), nullable=False),
    Column("slots", Integer, nullable=False),
    Column("request", Text, nullable=False),
    Column("resume_of", String(250)),
    Column("state", String(16), nullable=False),
    Column("created_at", Float, nullable=False),
    Column("ended_at", Float),
    # The limit that the next try of the probe gets, and what the probe measured.
    Column("probe_limit_bytes", BigInteger),
    Column("probe_report", Text),
    Column("plan", Text),
    Column("summary", Text),
    # When the run taught its baseline.
    Column("taught_at", Float),
    # How many images its source had when it began.
    Column("images_offered", BigInteger),
    Index("tidegate_runs_by_job", "job", "created_at"),
    Index("tidegate_runs_by_pipeline", "pipeline", "created_at"),
)

slots = Table(
    "tidegate_slots",
    metadata,
    Column("run_id", String(250), primary_key=True),
    Column("slot", Integer, primary_key=True, autoincrement=False),
    # Compared and set: generation stands inside the state, but a phase can change within one generation.
    Column("revision", Integer, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("phase", String(32), nullable=False),
    Column("state", Text, nullable=False),
    Column("changed_at", Float),
    # When the breaker last saw the slot; no part of its state, so it moves no revision.
    Column("seen_at", Float),
    ForeignKeyConstraint(["run_id"], ["tidegate_runs.run_id"]),
)

attempts = Table(
    "tidegate_attempts",
    metadata,
    Column("pod_uid", String(64), primary_key=True),
    Column("run_id", String(250), nullable=False),
    Column("slot", Integer, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("pod_name", String(253), nullable=False),
    Column("limit_bytes", BigInteger, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("ended_at", Float),
    Column("end", String(32)),
    Column("exit_code", Integer),
    Column("reason", Text, nullable=False),
    Column("node", String(253)),
    Column("report", Text),
    ForeignKeyConstraint(["run_id"], ["tidegate_runs.run_id"]),
    Index("tidegate_attempts_by_slot", "run_id", "slot", "created_at"),
)

trips = Table(
    "tidegate_trips",
    metadata,
    Column("run_id", String(250), primary_key=True),
    Column("slot", Integer, primary_key=True, autoincrement=False),
    Column("generation", Integer, primary_key=True, autoincrement=False),
    # A trip that was only held, and the kill that came of it, share a generation.
    Column("cause", String(32), primary_key=True),
    Column("at", Float, nullable=False),
    Column("trip", Text, nullable=False),
    Column("remedy", String(32), nullable=False),
    Column("remedy_reason", Text, nullable=False),
    ForeignKeyConstraint(["run_id"], ["tidegate_runs.run_id"]),
)

suspects = Table(
    "tidegate_suspects",
    metadata,
    # By job and not by run: an image that killed last night's pods is not met unwarned tonight.
    Column("job", String(253), primary_key=True),
    Column("image_id", String(512), primary_key=True),
    Column("suspect", Text, nullable=False),
    # The pod whose end was counted last: the same end reported twice is one strike.
    Column("pod_uid", String(64), nullable=False),
    Column("noted_at", Float, nullable=False),
)

baselines = Table(
    "tidegate_baselines",
    metadata,
    Column("pipeline", String(253), primary_key=True),
    Column("model_version", String(253), primary_key=True),
    Column("job_kind", String(253), primary_key=True),
    Column("baseline", Text, nullable=False),
    Column("updated_at", Float, nullable=False),
)
