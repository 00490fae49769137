"""When so many images have failed that going on would only spoil the rest of the job."""

from __future__ import annotations


def spent(failed: int, done: int, most_ratio: float, fewest_failures: int) -> bool:
    return failed >= max(1, fewest_failures) and failed > most_ratio * done
