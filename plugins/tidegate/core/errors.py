"""The errors of Tidegate by what the reader must do next; not by where they arose."""

from __future__ import annotations


class TidegateError(Exception):
    """Anything that Tidegate raises on purpose."""


class RetryLater(TidegateError):
    """Nothing is wrong with the work: the same call may succeed after `delay_seconds`."""

    def __init__(self, message: str, delay_seconds: float | None = None) -> None:
        super().__init__(message)
        self.delay_seconds = delay_seconds


class RejectItem(TidegateError):
    """This one item is bad for good; the rest of the job goes on without it."""

    def __init__(self, item: str, reason: str) -> None:
        super().__init__(f"{item}: {reason}")
        self.item = item
        self.reason = reason


class FixConfig(TidegateError):
    """A person must change a setting; the message names it and says to what."""


class ContractMismatch(TidegateError):
    """A payload is not what its schema says; `field` names the place, so that the other side can be mended."""

    def __init__(self, payload: str, field: str, problem: str) -> None:
        super().__init__(f"{payload}.{field}: {problem}" if field else f"{payload}: {problem}")
        self.payload = payload
        self.field = field
        self.problem = problem


class NeedsHuman(TidegateError):
    """Every automatic remedy is spent; the message carries the evidence and the options."""
