"""How far a manifest job is, read from the tables that the worker makes: the worker's own schema, loaded as a file."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tidegate.adapters.configuration import Configuration
from tidegate.adapters.job_count import JobCount, JobStanding
from tidegate.adapters.sources import count
from tidegate.core.contract import Source, SourceKind
from tidegate.core.errors import FixConfig, RetryLater

SCHEMA = Path(__file__).parents[2] / "worker_image/src/tidegate_worker/jobs/manifest/schema.py"
SOURCE = Source(kind=SourceKind.MANIFEST, uri="file:///lists/night.csv", job="night.csv-1234")


def worker_schema() -> Any:
    """The worker cannot be imported here; this file of it needs nothing but SQLAlchemy."""
    spec = importlib.util.spec_from_file_location("worker_ledger_schema", SCHEMA)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def schema() -> Any:
    return worker_schema()


@pytest.fixture
def ledger(url: str, schema: Any) -> Iterator[sa.Engine]:
    engine = sa.create_engine(url)
    schema.metadata.create_all(engine)
    yield engine
    engine.dispose()


def counted(url: str) -> JobCount:
    return count(SOURCE, Configuration.model_validate({"ledger_url": url}))


def enter(ledger: sa.Engine, schema: Any, *, chunks: int, written: int, answered: int, **manifest: Any) -> None:
    """A manifest of `chunks` chunks of ten rows, the first of them written, the next with some answers."""
    with ledger.begin() as db:
        for job in (SOURCE.job, "another"):
            entry = {"job": job, "uri": "u", "fingerprint": "f", "output": "o", "chunk_rows": 10, "rows": 10 * chunks}
            db.execute(sa.insert(schema.manifest).values({**entry, **manifest}))
            for number in range(chunks):
                is_written = number < written
                db.execute(
                    sa.insert(schema.chunk).values(
                        job=job,
                        number=number,
                        first_row=10 * number,
                        rows=10,
                        packed=b"",
                        answered=10 if is_written else answered,
                        failed=1 if is_written else 0,
                        part="part" if is_written else None,
                    )
                )


def test_a_job_under_way_is_open_with_what_is_answered(url: str, ledger: sa.Engine, schema: Any) -> None:
    enter(ledger, schema, chunks=3, written=1, answered=4, loaded=True)
    found = counted(url)
    assert (found.standing, found.done, found.total, found.failed) == (JobStanding.OPEN, 18, 30, 1)


def test_a_manifest_that_is_still_read_has_no_total(url: str, ledger: sa.Engine, schema: Any) -> None:
    enter(ledger, schema, chunks=2, written=0, answered=0, loaded=False)
    assert counted(url).total is None


def test_all_written_and_indexed_is_complete(url: str, ledger: sa.Engine, schema: Any) -> None:
    enter(ledger, schema, chunks=2, written=2, answered=0, loaded=True, indexed=True)
    found = counted(url)
    assert (found.standing, found.done, found.total, found.failed) == (JobStanding.COMPLETE, 20, 20, 2)


@pytest.mark.parametrize(
    "state",
    [
        {"written": 2, "loaded": True, "indexed": False},
        {"written": 1, "loaded": True, "indexed": True},
        {"written": 2, "loaded": False, "indexed": True},
    ],
)
def test_anything_less_is_not_complete(url: str, ledger: sa.Engine, schema: Any, state: dict[str, Any]) -> None:
    enter(ledger, schema, chunks=2, answered=10, **state)
    assert counted(url).standing is JobStanding.OPEN


def test_a_ledger_that_no_worker_has_begun_is_open_and_not_made(url: str, tmp_path: Path) -> None:
    found = counted(url)
    assert (found.standing, found.total) == (JobStanding.OPEN, None)
    assert not list(tmp_path.iterdir())


def test_a_job_that_the_ledger_does_not_know_is_open(url: str, ledger: sa.Engine) -> None:
    assert counted(url).standing is JobStanding.OPEN


def test_the_url_may_lie_in_a_file(url: str, ledger: sa.Engine, tmp_path: Path) -> None:
    (tmp_path / "url").write_text(f"{url}\n")
    settings = Configuration.model_validate({"ledger_url_file": tmp_path / "url"})
    assert count(SOURCE, settings).standing is JobStanding.OPEN


def test_a_file_that_is_no_database_is_asked_again_later(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").write_text("this is no database, and long enough to be read as one")
    with pytest.raises(RetryLater, match="does not answer"):
        counted(f"sqlite:///{tmp_path}/ledger.sqlite")


@pytest.mark.parametrize("settings", [{}, {"ledger_url": "no url"}, {"ledger_url": "postgresql+none://u:hidden@h/d"}])
def test_a_ledger_that_is_not_told_is_named(settings: dict[str, str]) -> None:
    with pytest.raises(FixConfig, match="TIDEGATE_LEDGER_URL") as refused:
        count(SOURCE, Configuration.model_validate(settings))
    assert "hidden" not in str(refused.value)
