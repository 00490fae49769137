"""Micro-batches of decoded images to predictions; whatever one image does to the models stays its own failure."""

from __future__ import annotations

import logging
import time

from tidegate.core.errors import FixConfig
from tidegate_worker.pipeline.flow import Decoded, Flow
from tidegate_worker.pipeline.timing import StageName
from tidegate_worker.ports import Failure, Prediction, Predictor
from tidegate_worker.redact import redact
from tidegate_worker.stages.decode import out_of_memory

_log = logging.getLogger(__name__)


class Infer:
    def __init__(self, flow: Flow, predictor: Predictor) -> None:
        self._flow = flow
        self._predictor = predictor

    def work(self, batch: list[Decoded]) -> None:
        """Empties `batch`: the caller's reference must not keep pixels alive while results wait."""
        batch[:] = [decoded for decoded in batch if not self._is_dropped(decoded)]
        if not batch:
            return
        leases = [decoded.lease for decoded in batch]
        started_at = time.monotonic()
        try:
            predictions = self._predict(batch)
        except FixConfig:
            raise
        except Exception as error:  # noqa: BLE001  # a model may raise anything over one image
            if len(batch) > 1:
                _log.warning("a micro-batch failed and is tried image by image: %s", _say(error))
                self._one_by_one(batch)
                return
            batch.clear()
            if is_out_of_memory(error):
                out_of_memory(self._flow, leases[0])
            else:
                self._flow.answer(leases[0], Failure(f"prediction failed: {_say(error)}"))
            return
        batch.clear()
        self._flow.timing.took(StageName.INFER, time.monotonic() - started_at, len(leases))
        self._flow.inlet.settle()
        for lease, prediction in zip(leases, predictions, strict=True):
            self._flow.answer(lease, prediction)

    def _predict(self, batch: list[Decoded]) -> list[Prediction]:
        predictions = self._predictor.predict([decoded.image for decoded in batch])
        if len(predictions) != len(batch):
            raise RuntimeError(f"{len(predictions)} predictions for {len(batch)} images")
        return predictions

    def _one_by_one(self, batch: list[Decoded]) -> None:
        singles = [[decoded] for decoded in batch]
        batch.clear()
        for single in singles:
            self.work(single)

    def _is_dropped(self, decoded: Decoded) -> bool:
        if decoded.lease.dropped:
            self._flow.drop(decoded.lease)
        return decoded.lease.dropped


def is_out_of_memory(error: Exception) -> bool:
    """The host's memory; a predictor deals with its device's by itself."""
    return isinstance(error, MemoryError) or "can't allocate memory" in str(error)


def _say(error: Exception) -> str:
    lines = redact(str(error)).splitlines()
    return f"{type(error).__name__}: {lines[0][:300] if lines else ''}"
