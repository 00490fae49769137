"""How tasks of a run fail, by what Airflow is to do next, and the retry policy that tells it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from airflow.sdk import RetryDecision, RetryPolicy

from tidegate.core.errors import FixConfig, NeedsHuman, RetryLater
from tidegate.core.slot import End

#: What a next try waits for: a relaunch for nothing but the scheduler, an upstream that is away for its return.
_DELAYS: Final = {
    End.MEMORY: 1.0,
    End.DRAINED: 1.0,
    End.CRASHED: 5.0,
    End.INFRASTRUCTURE: 10.0,
    End.UPSTREAM_UNAVAILABLE: 60.0,
}


class PodEndedEarly(RetryLater):
    """The pod ended before the job was done; the slot's state says how the next one is launched."""

    def __init__(self, end: End, detail: str) -> None:
        super().__init__(detail, delay_seconds=_DELAYS.get(end, 10.0))
        self.end = end


class BySlotState(RetryPolicy):
    """Retries as long as the slot's state machine wants another pod; its budgets and not Airflow's count end it."""

    def evaluate(self, exception: BaseException, try_number: int, max_tries: int, context: Any = None) -> RetryDecision:
        match exception:
            case NeedsHuman() | FixConfig():
                return RetryDecision.fail(reason=str(exception))
            case RetryLater():
                delay = timedelta(seconds=exception.delay_seconds or 10.0)
                return RetryDecision.retry(delay=delay, reason=str(exception))
            case _:
                return RetryDecision.default()

    def serialize(self) -> dict[str, Any]:
        return {}

    @classmethod
    def deserialize(cls, data: dict[str, Any]) -> BySlotState:
        return cls()
