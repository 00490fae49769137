"""Admitted JPEGs decoded together by nvJPEG, on a stream of its own; what is not for it goes to the CPU's decoders.

Only where a setting asks for it: its pixels differ from libjpeg's by a rounding step. Host credits are counted as if
the pixels were in host memory, so that the budget also bounds what waits on the device.
"""

from __future__ import annotations

import logging
import time

import torch
from torchvision.io import ImageReadMode, decode_jpeg

from tidegate_worker.pipeline.lease import Lease
from tidegate_worker.policy.admission import Verdict
from tidegate_worker.policy.cost import decodes_by_libjpeg
from tidegate_worker.stages.decode import Decode
from tidegate_worker.stages.pixels import mapped

_log = logging.getLogger(__name__)


class DecodeOnDevice:
    def __init__(self, decode: Decode, device: torch.device) -> None:
        self._decode = decode
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def work(self, batch: list[tuple[Lease, Verdict]]) -> None:
        leases = [lease for lease, verdict in batch if self._decode.enter(lease, verdict)]
        together = [lease for lease in leases if _is_for_device(lease)]
        started_at = time.monotonic()
        images = self._decode_together(together) if together else []
        seconds = time.monotonic() - started_at
        for lease, pixels in zip(together, images, strict=False):
            self._decode.decoded(lease, pixels, seconds / len(together))
        for lease in leases:
            if not images or lease not in together:
                self._decode.decode(lease)

    def _decode_together(self, leases: list[Lease]) -> list[torch.Tensor]:
        """Nothing where nvJPEG refuses: it does not say which image it means, the CPU's decoder will."""
        files = [mapped(lease.file.path) for lease in leases if lease.file is not None]
        try:
            with torch.cuda.stream(self._stream):
                images: list[torch.Tensor] = decode_jpeg(files, mode=ImageReadMode.RGB, device=self._device)
            self._stream.synchronize()
        except RuntimeError as error:
            _log.info("nvJPEG gave a batch back: %s", str(error).splitlines()[0])
            return []
        if any(_size(pixels) != _header_size(lease) for pixels, lease in zip(images, leases, strict=True)):
            return []
        for pixels in images:
            # Made on one stream, used on another: the allocator must not hand its memory out in between.
            pixels.record_stream(torch.cuda.default_stream(self._device))
        return images


def _is_for_device(lease: Lease) -> bool:
    header = lease.header
    return header is not None and decodes_by_libjpeg(header, lease.divisor) and not header.progressive


def _size(pixels: torch.Tensor) -> tuple[int, int]:
    return pixels.shape[2], pixels.shape[1]


def _header_size(lease: Lease) -> tuple[int, int]:
    assert lease.header is not None
    return lease.header.width, lease.header.height
