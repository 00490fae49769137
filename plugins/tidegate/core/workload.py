"""What one image of a job costs in bytes and seconds, as far as a probe or healthy runs have told.

Covers reading a probe report, a baseline, or both into one value; what a worker makes of it is `throughput`, what a pod
gets for it `sizing`. Bytes are credits of decoded images; the size of a file serves staging on disk alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tidegate.core.baseline import Baseline, Quantity
from tidegate.core.contract import ProbeReport


@dataclass(frozen=True, slots=True)
class Workload:
    """One image's needs and times beside the memory that is there without any image."""

    floor_bytes: int
    typical_image_bytes: int
    #: At p90: what a slot in flight is planned for.
    image_bytes: int
    largest_image_bytes: int
    file_bytes: int
    growth_bytes_per_image: int
    #: The most that was in use while measuring, or is forecast from earlier runs; zero where neither is known.
    peak_bytes: int
    download_seconds: float
    decode_seconds: float
    #: Per image on the device, the copy to it included.
    infer_seconds: float
    post_seconds: float
    host_to_device_seconds: float
    model_load_seconds: float
    cores: float
    has_cuda: bool


def from_report(report: ProbeReport) -> Workload | None:
    """The workload a probe measured; None where it finished no image or knows no credits."""
    credit = report.credit_bytes
    if credit is None or report.images_measured == 0 or credit.max == 0:
        return None
    files = report.file_bytes
    return Workload(
        floor_bytes=report.floor_bytes,
        typical_image_bytes=max(1, round(credit.p50)),
        image_bytes=max(1, round(credit.p90)),
        largest_image_bytes=max(1, round(credit.max)),
        file_bytes=round(files.p99) if files is not None else 0,
        growth_bytes_per_image=report.growth_bytes_per_image,
        peak_bytes=report.peak_bytes,
        download_seconds=report.download_seconds,
        decode_seconds=report.decode_seconds,
        infer_seconds=report.infer_seconds + report.host_to_device_seconds,
        post_seconds=report.post_seconds,
        host_to_device_seconds=report.host_to_device_seconds,
        model_load_seconds=report.model_load_seconds,
        cores=report.cores,
        has_cuda=report.has_cuda,
    )


def from_baseline(baseline: Baseline) -> Workload | None:
    """The workload of a baseline's healthy runs; None where none of them measured floor and images."""
    floor = baseline.percentile(Quantity.FLOOR_BYTES, 0.9)
    image = baseline.percentile(Quantity.IMAGE_BYTES, 0.9)
    if floor is None or not image:
        return None
    largest = baseline.percentile(Quantity.LARGEST_IMAGE_BYTES, 0.99) or image
    on_device = _seconds(baseline, Quantity.HOST_TO_DEVICE_SECONDS)
    return Workload(
        floor_bytes=round(floor),
        typical_image_bytes=max(1, round(baseline.percentile(Quantity.IMAGE_BYTES, 0.5) or image)),
        image_bytes=max(1, round(image)),
        largest_image_bytes=max(1, round(max(largest, image))),
        file_bytes=round(baseline.percentile(Quantity.FILE_BYTES, 0.9) or 0),
        growth_bytes_per_image=round(baseline.percentile(Quantity.GROWTH_BYTES_PER_IMAGE, 0.9) or 0),
        peak_bytes=0,
        download_seconds=_seconds(baseline, Quantity.DOWNLOAD_SECONDS),
        decode_seconds=_seconds(baseline, Quantity.DECODE_SECONDS),
        infer_seconds=_seconds(baseline, Quantity.INFER_SECONDS) + on_device,
        post_seconds=_seconds(baseline, Quantity.POST_SECONDS),
        host_to_device_seconds=on_device,
        model_load_seconds=_seconds(baseline, Quantity.MODEL_LOAD_SECONDS),
        cores=baseline.cores or 1.0,
        has_cuda=baseline.has_cuda,
    )


def from_both(probed: Workload, usual: Workload) -> Workload:
    """The probe's view of this job's images, on the floor and growth of whichever saw the more."""
    return replace(
        probed,
        floor_bytes=max(probed.floor_bytes, usual.floor_bytes),
        growth_bytes_per_image=max(probed.growth_bytes_per_image, usual.growth_bytes_per_image),
        model_load_seconds=max(probed.model_load_seconds, usual.model_load_seconds),
    )


def _seconds(baseline: Baseline, quantity: Quantity) -> float:
    return baseline.percentile(quantity, 0.5) or 0.0
