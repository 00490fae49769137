"""What alerts need: how much each run was offered, when a slot last changed, and when its breaker last saw it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("tidegate_runs", sa.Column("images_offered", sa.BigInteger))
    op.add_column("tidegate_slots", sa.Column("changed_at", sa.Float))
    op.add_column("tidegate_slots", sa.Column("seen_at", sa.Float))
