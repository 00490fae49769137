"""Tables of the manifest ledger, for SQLite and PostgreSQL; what is done with them is in `ledger`.

A chunk row carries its manifest rows as one packed value: ten million images are forty thousand chunks, not ten million
rows. Answers have rows of their own, but only until their chunk is written to a part.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

metadata = MetaData()

manifest = Table(
    "tidegate_manifest",
    metadata,
    Column("job", String(253), primary_key=True),
    Column("uri", Text, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("output", Text, nullable=False),
    Column("chunk_rows", Integer, nullable=False),
    #: Rows that are in chunks already; all of them once `loaded`.
    Column("rows", BigInteger, nullable=False, default=0),
    Column("loaded", Boolean, nullable=False, default=False),
    Column("loader", String(300)),
    Column("loader_until", Float(53), nullable=False, default=0.0),
    #: Whether the final index of the output is written.
    Column("indexed", Boolean, nullable=False, default=False),
)

chunk = Table(
    "tidegate_chunk",
    metadata,
    Column("job", String(253), ForeignKey("tidegate_manifest.job", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("first_row", BigInteger, nullable=False),
    Column("rows", Integer, nullable=False),
    Column("packed", LargeBinary, nullable=False),
    Column("answered", Integer, nullable=False, default=0),
    Column("failed", Integer, nullable=False, default=0),
    #: Null where nobody has it, or whoever had it gave it back.
    Column("owner", String(300)),
    Column("lease_until", Float(53), nullable=False, default=0.0),
    #: Rises with every claim: whoever holds a lower one has lost the chunk.
    Column("fence", Integer, nullable=False, default=0),
    #: How many leases ran out instead of being given back.
    Column("lapses", Integer, nullable=False, default=0),
    #: Name of the part with its answers; the chunk is done once it is set.
    Column("part", Text),
)
Index(
    "tidegate_chunk_open",
    chunk.c.job,
    chunk.c.number,
    sqlite_where=chunk.c.part.is_(None),
    postgresql_where=chunk.c.part.is_(None),
)

answer = Table(
    "tidegate_answer",
    metadata,
    Column("job", String(253), primary_key=True),
    Column("chunk", Integer, primary_key=True),
    Column("row", BigInteger, primary_key=True),
    Column("failed", Boolean, nullable=False),
    Column("body", LargeBinary, nullable=False),
    ForeignKeyConstraint(["job", "chunk"], [chunk.c.job, chunk.c.number], ondelete="CASCADE"),
)


class database_seconds(FunctionElement[float]):  # noqa: N801 - reads as the SQL function it is
    """Unix seconds by the database's own clock: the workers' clocks may differ by more than a lease."""

    type = Float()
    inherit_cache = True


@compiles(database_seconds, "sqlite")
def _sqlite_seconds(_element: Any, _compiler: Any, **_options: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(database_seconds, "postgresql")
def _postgresql_seconds(_element: Any, _compiler: Any, **_options: Any) -> str:
    return "extract(epoch from clock_timestamp())::float8"
