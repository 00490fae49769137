"""Outcomes as a table that a person reads."""

from __future__ import annotations

from collections.abc import Sequence

from bench.ingest.contest import Outcome

_HEAD = ("job", "client", "limit", "images", "images/s", "peak GB", "anonymous", "shared", "wall s", "CPU s", "ended")


def table(outcomes: Sequence[Outcome]) -> str:
    """In Markdown, a row an outcome."""
    rows = [_HEAD, tuple("---" for _ in _HEAD), *(_row(outcome) for outcome in outcomes)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(outcome: Outcome) -> tuple[str, ...]:
    seen = outcome.seen
    return (
        outcome.kind,
        outcome.client,
        f"{outcome.limit_bytes / 2**30:.0f} GiB",
        str(outcome.answered),
        f"{outcome.images_per_second:.2f}" if outcome.images_per_second else "-",
        f"{outcome.peak_gb:.2f}",
        f"{seen.peak_anonymous_bytes / 1e9:.2f}",
        f"{seen.peak_shared_bytes / 1e9:.2f}",
        f"{seen.wall_seconds:.0f}",
        f"{seen.cpu_seconds:.0f}",
        outcome.ended,
    )
