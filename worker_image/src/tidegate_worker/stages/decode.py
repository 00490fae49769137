"""An admitted image to pixels, with its name in the journal before the first byte is touched."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import torch

from tidegate.core.contract import MIB
from tidegate_worker.pipeline.flow import Decoded, Flow
from tidegate_worker.pipeline.lease import Lease
from tidegate_worker.pipeline.timing import StageName
from tidegate_worker.policy.admission import Verdict
from tidegate_worker.ports import DecodedImage, Failure, Predictor
from tidegate_worker.redact import redact_url
from tidegate_worker.stages.header import BadImage
from tidegate_worker.stages.pixels import decode

_log = logging.getLogger(__name__)


class Decode:
    def __init__(self, flow: Flow, predictor: Predictor, write_journal: Callable[[], None], cap_bytes: int) -> None:
        self._flow = flow
        self._predictor = predictor
        self._write_journal = write_journal
        self._cap_bytes = cap_bytes

    def work(self, admitted: tuple[Lease, Verdict]) -> None:
        lease, verdict = admitted
        if self.enter(lease, verdict):
            self.decode(lease)

    def enter(self, lease: Lease, verdict: Verdict) -> bool:
        """Whether it is to be decoded now; then it is in the journal. If not, it is on its way elsewhere."""
        if lease.dropped or lease.expired(time.monotonic()):
            self._flow.drop(lease)
        elif verdict is Verdict.REFUSE:
            self._flow.answer(lease, Failure(self._too_large(lease), quarantined=True))
        elif verdict is Verdict.PARK:
            _log.warning("an image is parked: it needs a larger memory limit", extra=_facts(lease))
            self._flow.parked(lease)
        else:
            self._flow.in_flight(lease)
            self._write_journal()
            return True
        return False

    def decode(self, lease: Lease) -> None:
        """By the CPU, one image."""
        assert lease.file is not None
        assert lease.header is not None
        started_at = time.monotonic()
        try:
            pixels = decode(lease.file.path, lease.header, lease.divisor)
        except BadImage as error:
            if lease.file.found:
                self._flow.fetch(lease)
            else:
                self._flow.answer(lease, Failure(f"{redact_url(lease.task.url)}: {error}"))
        except MemoryError:
            out_of_memory(self._flow, lease)
        except FileNotFoundError:
            self._flow.fetch(lease)
        else:
            self.decoded(lease, pixels, time.monotonic() - started_at)

    def decoded(self, lease: Lease, pixels: torch.Tensor, seconds: float) -> None:
        """On to inference; the credit of the pixels goes with them."""
        assert lease.header is not None
        assert lease.credit is not None
        _, height, width = pixels.shape
        lease.credit.bind(pixels, self._predictor.workspace_bytes(width, height))
        self._flow.timing.took(StageName.DECODE, seconds)
        image = DecodedImage(
            task=lease.task,
            pixels=pixels,
            raw_width=lease.header.width,
            raw_height=lease.header.height,
            scale=width / lease.header.width,
        )
        self._flow.decoded.put(Decoded(lease, image))

    def _too_large(self, lease: Lease) -> str:
        assert lease.header is not None
        return (
            f"{lease.header.width}x{lease.header.height} {lease.header.codec} needs {lease.cost_bytes // MIB} MiB "
            f"beside the models, more than the cap of {self._cap_bytes // MIB} MiB allows"
        )


def out_of_memory(flow: Flow, lease: Lease) -> None:
    """Again, alone; then it counts as one that fits no limit below twice its estimate, so that it is parked."""
    lease.memory_failures += 1
    lease.alone = True
    if lease.memory_failures > 1:
        lease.cost_bytes = max(2 * lease.cost_bytes, flow.inlet.memory().reading.limit_bytes)
    _log.warning("memory ran out on an image", extra=_facts(lease) | {"attempt": lease.memory_failures})
    flow.staged(lease)


def _facts(lease: Lease) -> dict[str, object]:
    return {"image_id": lease.task.image_id, "cost_bytes": lease.cost_bytes}
