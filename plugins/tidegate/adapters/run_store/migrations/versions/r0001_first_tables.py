"""The first tables: runs, slots, attempts, trips, suspects, baselines."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "tidegate_runs",
        sa.Column("run_id", sa.String(250), primary_key=True),
        sa.Column("dag_run_id", sa.String(250), nullable=False),
        sa.Column("job", sa.String(253), nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("pipeline", sa.String(253), nullable=False),
        sa.Column("model_version", sa.String(253), nullable=False),
        sa.Column("slots", sa.Integer, nullable=False),
        sa.Column("request", sa.Text, nullable=False),
        sa.Column("resume_of", sa.String(250)),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("ended_at", sa.Float),
        sa.Column("probe_limit_bytes", sa.BigInteger),
        sa.Column("probe_report", sa.Text),
        sa.Column("plan", sa.Text),
        sa.Column("summary", sa.Text),
        sa.Column("taught_at", sa.Float),
    )
    op.create_index("tidegate_runs_by_job", "tidegate_runs", ["job", "created_at"])
    op.create_index("tidegate_runs_by_pipeline", "tidegate_runs", ["pipeline", "created_at"])
    op.create_table(
        "tidegate_slots",
        sa.Column("run_id", sa.String(250), sa.ForeignKey("tidegate_runs.run_id"), primary_key=True),
        sa.Column("slot", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("phase", sa.String(32), nullable=False),
        sa.Column("state", sa.Text, nullable=False),
    )
    op.create_table(
        "tidegate_attempts",
        sa.Column("pod_uid", sa.String(64), primary_key=True),
        sa.Column("run_id", sa.String(250), sa.ForeignKey("tidegate_runs.run_id"), nullable=False),
        sa.Column("slot", sa.Integer, nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("pod_name", sa.String(253), nullable=False),
        sa.Column("limit_bytes", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("ended_at", sa.Float),
        sa.Column("end", sa.String(32)),
        sa.Column("exit_code", sa.Integer),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("node", sa.String(253)),
        sa.Column("report", sa.Text),
    )
    op.create_index("tidegate_attempts_by_slot", "tidegate_attempts", ["run_id", "slot", "created_at"])
    op.create_table(
        "tidegate_trips",
        sa.Column("run_id", sa.String(250), sa.ForeignKey("tidegate_runs.run_id"), primary_key=True),
        sa.Column("slot", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("generation", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("cause", sa.String(32), primary_key=True),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("trip", sa.Text, nullable=False),
        sa.Column("remedy", sa.String(32), nullable=False),
        sa.Column("remedy_reason", sa.Text, nullable=False),
    )
    op.create_table(
        "tidegate_suspects",
        sa.Column("job", sa.String(253), primary_key=True),
        sa.Column("image_id", sa.String(512), primary_key=True),
        sa.Column("suspect", sa.Text, nullable=False),
        sa.Column("pod_uid", sa.String(64), nullable=False),
        sa.Column("noted_at", sa.Float, nullable=False),
    )
    op.create_table(
        "tidegate_baselines",
        sa.Column("pipeline", sa.String(253), primary_key=True),
        sa.Column("model_version", sa.String(253), primary_key=True),
        sa.Column("job_kind", sa.String(253), primary_key=True),
        sa.Column("baseline", sa.Text, nullable=False),
        sa.Column("updated_at", sa.Float, nullable=False),
    )


def downgrade() -> None:
    for table in ("baselines", "suspects", "trips", "attempts", "slots", "runs"):
        op.drop_table(f"tidegate_{table}")
