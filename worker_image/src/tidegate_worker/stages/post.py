"""Outcomes to the job. The only stage that a full outbox may block; the gate never does."""

from __future__ import annotations

import logging
import random
import time

from tidegate.core.errors import RetryLater
from tidegate_worker.pipeline.flow import Answered, Flow
from tidegate_worker.policy.backoff import delay_seconds
from tidegate_worker.ports import Answer, Job

_log = logging.getLogger(__name__)


class Post:
    def __init__(self, flow: Flow, job: Job) -> None:
        self._flow = flow
        self._job = job

    def work(self, batch: list[Answered]) -> None:
        answers = [Answer(answered.lease.task, answered.outcome) for answered in batch]
        failures = 0
        while not self._flow.closing:
            try:
                self._job.answer(answers, self._flow.acked)
            except RetryLater as error:
                failures += 1
                wait_seconds = delay_seconds(failures, error.delay_seconds, random.random())
                _log.warning("answers wait %.1f s: %s", wait_seconds, error)
                time.sleep(wait_seconds)
            else:
                break
        for answered in batch:
            self._flow.inlet.left(answered.lease)
        batch.clear()
