"""How far a manifest job is, read from the ledger that its workers keep; nothing is written here.

The ledger's tables are the worker's; only the columns that tell of progress are known here, by name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import sqlalchemy as sa

from tidegate.adapters.configuration import Configuration
from tidegate.adapters.job_count import JobCount, JobStanding
from tidegate.core.contract import Source
from tidegate.core.errors import FixConfig, RetryLater

_MANIFEST: Final = sa.table("tidegate_manifest", *map(sa.column, ("job", "rows", "loaded", "indexed")))
_CHUNK: Final = sa.table("tidegate_chunk", *map(sa.column, ("job", "answered", "failed", "part")))
_NOT_BEGUN: Final = JobCount(JobStanding.OPEN, None, None, None, "the ledger does not know the manifest yet")


def count(source: Source, configuration: Configuration) -> JobCount:
    """The rows of the manifest that are answered; complete once the index that lists all parts is written."""
    engine = _engine(configuration.ledger())
    if engine is None:
        return _NOT_BEGUN
    try:
        with engine.connect() as connection:
            if not sa.inspect(connection).has_table(_CHUNK.name):
                return _NOT_BEGUN
            entry = connection.execute(sa.select(_MANIFEST).where(_MANIFEST.c.job == source.job)).one_or_none()
            if entry is None:
                return _NOT_BEGUN
            sums = (
                sa.func.coalesce(sa.func.sum(_CHUNK.c.answered), 0),
                sa.func.coalesce(sa.func.sum(_CHUNK.c.failed), 0),
                sa.func.count() - sa.func.count(_CHUNK.c.part),
            )
            answered, failed, unwritten = map(
                int, connection.execute(sa.select(*sums).where(_CHUNK.c.job == source.job)).one()
            )
    except (sa.exc.DBAPIError, sa.exc.TimeoutError) as error:
        words = error.orig if isinstance(error, sa.exc.DBAPIError) else "no connection was free"
        raise RetryLater(f"the ledger of manifest jobs does not answer: {words}", delay_seconds=30.0) from None
    finally:
        engine.dispose()
    if entry.loaded and entry.indexed and unwritten == 0:
        return JobCount(JobStanding.COMPLETE, answered, entry.rows, failed, "the ledger says that all is written")
    words = f"the ledger says that {unwritten} parts are not written" if unwritten else "the index is not written"
    return JobCount(JobStanding.OPEN, answered, entry.rows if entry.loaded else None, failed, words)


def _engine(url: str) -> sa.Engine | None:
    """The ledger's database; None where it is a file that no worker has made yet."""
    try:
        parsed = sa.make_url(url)
        if parsed.get_backend_name() == "sqlite" and not (parsed.database and Path(parsed.database).exists()):
            # SQLite would make an empty file, in the name of a user that the workers may not share it with.
            return None
        return sa.create_engine(parsed)
    except (sa.exc.ArgumentError, sa.exc.NoSuchModuleError, ModuleNotFoundError) as error:
        raise FixConfig(
            f"TIDEGATE_LEDGER_URL is no database URL that can be opened here ({type(error).__name__})"
        ) from None
