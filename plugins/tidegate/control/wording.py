"""Sizes, moments and durations as people read them in tables and on pages."""

from __future__ import annotations

from datetime import UTC, datetime

from tidegate.core.contract import GIB, MIB


def size(size_bytes: float | None) -> str:
    if size_bytes is None:
        return "-"
    return f"{size_bytes / GIB:.2f}Gi" if size_bytes >= GIB else f"{size_bytes / MIB:.0f}Mi"


def moment(at: float | None) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%SZ") if at is not None else "-"


def duration(began: float, ended: float | None) -> str:
    if ended is None:
        return "-"
    minutes, seconds = divmod(round(ended - began), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{seconds:02}s"
