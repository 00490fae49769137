"""The history of runs that a replay needs, and its CSV form; generating one is `generate`.

Columns: key, input_bytes, request_bytes, peak_bytes, runtime_seconds and, optionally, start_seconds. Without starts
each run begins when the one above it ended. An empty input_bytes is an input whose size nobody knows.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tidegate.core.errors import FixConfig

_NUMBERS: Final = ("input_bytes", "request_bytes", "peak_bytes", "runtime_seconds")
COLUMNS: Final = ("key", *_NUMBERS)
START: Final = "start_seconds"


@dataclass(frozen=True, slots=True)
class Run:
    """One run as it would have gone with enough memory."""

    key: str
    input_bytes: float
    request_bytes: float
    peak_bytes: float
    runtime_seconds: float
    #: Absent where the runs came one after the other.
    start_seconds: float | None = None


def read_trace(path: Path) -> list[Run]:
    """The runs in a CSV file by start; FixConfig names the line and the column that are wrong."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise FixConfig(f"{path}: column {missing[0]} is missing; needed are {', '.join(COLUMNS)}")
            runs = [_run(path, reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FixConfig(f"{path}: cannot be read as CSV ({error})") from error
    if not runs:
        raise FixConfig(f"{path}: holds no runs below its header")
    starts = [run.start_seconds for run in runs]
    if None in starts and any(start is not None for start in starts):
        raise FixConfig(f"{path}: {START} is given for some runs only; give it for all, or leave the column out")
    return runs if None in starts else sorted(runs, key=lambda run: run.start_seconds or 0.0)


def _run(path: Path, line: int, row: dict[str, str | None]) -> Run:
    told = dict(row) | {"input_bytes": row.get("input_bytes") or "0"}
    values = {name: _number(path, line, name, told.get(name)) for name in _NUMBERS}
    for name in ("request_bytes", "peak_bytes"):
        if values[name] <= 0:
            raise FixConfig(f"{path}:{line}: {name} is {values[name]:g}; leave out runs that measured nothing")
    key, start = row.get("key"), row.get(START)
    if not key:
        raise FixConfig(f"{path}:{line}: key is empty")
    return Run(key, **values, start_seconds=_number(path, line, START, start, negative=True) if start else None)


def _number(path: Path, line: int, name: str, text: str | None, negative: bool = False) -> float:
    try:
        value = float(text or "")
    except ValueError:
        raise FixConfig(f"{path}:{line}: {name} is {text!r}; it must be a number") from None
    if not math.isfinite(value) or (value < 0 and not negative):
        raise FixConfig(f"{path}:{line}: {name} is {text!r}; it must be finite and not negative")
    return value
