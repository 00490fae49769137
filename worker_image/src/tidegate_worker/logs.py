"""Log lines: JSON where a machine reads them, plain text on a terminal; addresses lose their queries in both."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Final, TextIO

from tidegate_worker.redact import redact

#: Attributes that every record has; what else it has was given by `extra`.
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def set_up(stream: TextIO | None = None, level: int = logging.INFO) -> None:
    """Replace the handlers of the root logger by one on `stream` (stderr)."""
    target = stream if stream is not None else sys.stderr
    handler = logging.StreamHandler(target)
    handler.setFormatter(TextLines() if target.isatty() else JsonLines())
    logging.basicConfig(level=level, handlers=[handler], force=True)


class JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "thread": record.threadName,
            "message": redact(record.getMessage()),
        }
        line |= {key: _shown(value) for key, value in vars(record).items() if key not in _STANDARD}
        if record.exc_info:
            line["exception"] = redact(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False, default=str)


class TextLines(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", datefmt="%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        extra = " ".join(f"{key}={_shown(value)}" for key, value in vars(record).items() if key not in _STANDARD)
        return redact(super().format(record)) + (f"  {extra}" if extra else "")


def _shown(value: object) -> object:
    return redact(value) if isinstance(value, str) else value
