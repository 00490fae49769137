"""The chain of detector, filter and classifier; CUDA's end of memory is raised where a network would raise it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.worker.models.pictures import decoded, sheet

from tidegate.core.errors import FixConfig
from tidegate_worker.models.artifacts import ArtifactCache
from tidegate_worker.models.catalogue import Catalogue, Classifier, catalogue_files
from tidegate_worker.models.classifier import CropClassifier
from tidegate_worker.models.detector import BoxDetector, FoundBox
from tidegate_worker.models.load import PipelineLoader
from tidegate_worker.models.predictor import BinaryFilter, CropBatch, PipelinePredictor
from tidegate_worker.models.workspace import Workspace
from tidegate_worker.ports import DecodedImage, Prediction, Predictor

SHIPPED = Path(__file__).parents[3] / "worker_image" / "pipelines"
WORKSPACE = Workspace(True, 0, 0, 256, 64, 32, 14)


class Boxes(BoxDetector):
    """The same boxes on every image; runs out of device memory above `most_images` at once."""

    def __init__(self, boxes: Sequence[tuple[int, int, int, int]], most_images: int = 99) -> None:
        self._boxes = boxes
        self._most_images = most_images
        self.batches: list[int] = []

    def find(self, images: Sequence[torch.Tensor]) -> list[list[FoundBox]]:
        self.batches.append(len(images))
        if len(images) > self._most_images:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return [[FoundBox(box, 0.9) for box in self._boxes] for _ in images]


class ByBrightness(torch.nn.Module):
    """Bright crops are of class 0; runs out of device memory above `most_crops` at once."""

    def __init__(self, classes: int, most_crops: int = 999) -> None:
        super().__init__()
        self._classes = classes
        self._most_crops = most_crops
        self.batches: list[int] = []

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(crops))
        if len(crops) > self._most_crops:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        bright = crops.mean((1, 2, 3))
        return torch.stack([bright, -bright, *[torch.full_like(bright, -9.0)] * (self._classes - 2)], dim=1)


def classifier(name: str, labels: tuple[str, ...], network: torch.nn.Module, size: int = 16) -> CropClassifier:
    entry = Classifier(
        name=name, architecture="tiny_classifier", seed=0, labels=labels, input_size=size, mean=(0.5, 0.5, 0.5)
    )
    return CropClassifier(network, entry, labels)


def predictor(
    detector: BoxDetector,
    *,
    species: torch.nn.Module | None = None,
    species_size: int = 16,
    filtered: bool = True,
    batch: CropBatch | None = None,
) -> PipelinePredictor:
    binary = classifier("Binary", ("moth", "nonmoth"), ByBrightness(2))
    return PipelinePredictor(
        pipeline="p",
        model_version="1",
        device=torch.device("cpu"),
        detector=detector,
        detector_key="det",
        binary_filter=BinaryFilter(binary, "moth") if filtered else None,
        classifier=classifier("Species", ("a", "b", "c"), species or ByBrightness(3), species_size),
        crop_batch=batch or CropBatch(),
        workspace=WORKSPACE,
    )


def half_bright(width: int = 80, height: int = 40) -> torch.Tensor:
    """White on the left, black on the right."""
    pixels = torch.zeros((3, height, width), dtype=torch.uint8)
    pixels[:, :, : width // 2] = 255
    return pixels


LEFT, RIGHT = (2, 2, 30, 30), (45, 2, 70, 30)


@pytest.mark.parametrize("species_size", [16, 24])
def test_what_the_filter_keeps_gets_a_second_word_and_what_it_drops_keeps_its_one(species_size: int) -> None:
    prediction = predictor(Boxes([LEFT, RIGHT]), species_size=species_size).predict([decoded(half_bright())])[0]
    kept, dropped = prediction.detections
    assert [(each.algorithm, each.label, each.terminal) for each in kept.classifications] == [
        ("binary", "moth", False),
        ("species", "a", True),
    ]
    assert [(each.algorithm, each.label, each.terminal) for each in dropped.classifications] == [
        ("binary", "nonmoth", False)
    ]
    assert (kept.box, dropped.box) == (LEFT, RIGHT)


def test_without_a_filter_everything_is_classified() -> None:
    prediction = predictor(Boxes([LEFT, RIGHT]), filtered=False).predict([decoded(half_bright())])[0]
    assert [[each.label for each in found.classifications] for found in prediction.detections] == [["a"], ["b"]]


def test_scores_are_whole_softmax_vectors_of_float32_in_the_order_of_the_labels() -> None:
    prediction = predictor(Boxes([LEFT])).predict([decoded(half_bright())])[0]
    for word in prediction.detections[0].classifications:
        assert word.scores.dtype == np.float32
        assert len(word.scores) == len(word.labels)
        assert word.scores.sum() == pytest.approx(1.0, abs=1e-6)
        assert word.labels[int(word.scores.argmax())] == word.label
        # Its own memory: a view would keep a whole batch alive.
        assert word.scores.base is None


def test_an_image_without_boxes_is_answered_without_detections() -> None:
    assert predictor(Boxes([])).predict([decoded(half_bright())])[0].detections == ()


def test_no_images_give_no_predictions() -> None:
    assert predictor(Boxes([LEFT])).predict([]) == []


def test_images_of_one_size_go_together_and_others_wait_their_turn() -> None:
    detector = Boxes([LEFT])
    images = [decoded(half_bright()), decoded(half_bright()), decoded(half_bright(90)), decoded(half_bright())]
    assert len(predictor(detector).predict(images)) == 4
    assert detector.batches == [2, 1, 1]


def test_each_image_gets_its_own_detections_in_order() -> None:
    images = [decoded(half_bright()), decoded(255 - half_bright()), decoded(half_bright())]
    predictions = predictor(Boxes([LEFT]), filtered=False).predict(images)
    assert [each.detections[0].classifications[0].label for each in predictions] == ["a", "b", "a"]


def test_boxes_of_an_image_that_was_decoded_small_are_told_in_raw_pixels() -> None:
    image = decoded(half_bright(80, 40), scale=0.25)
    assert (image.raw_width, image.raw_height) == (320, 160)
    found = predictor(Boxes([(1, 2, 30, 40)])).predict([image])[0].detections[0]
    assert found.box == (4, 8, 120, 160)


def test_crops_are_taken_in_batches_by_bytes_and_by_number() -> None:
    network = ByBrightness(3)
    crop_bytes = 3 * 16 * 16 * 4
    predicting = predictor(
        Boxes([LEFT] * 7), species=network, filtered=False, batch=CropBatch(at_most_bytes=3 * crop_bytes + 1)
    )
    predicting.predict([decoded(half_bright())])
    assert network.batches == [3, 3, 1]
    assert CropBatch(at_most_bytes=1).crops(crop_bytes) == 1
    assert CropBatch(at_most_crops=2).crops(crop_bytes) == 2


def labels(predictions: Sequence[Prediction]) -> list[list[str]]:
    return [[found.classifications[-1].label for found in each.detections] for each in predictions]


def test_out_of_device_memory_halves_the_images_and_answers_them_all() -> None:
    images = [decoded(half_bright()) for _ in range(5)]
    detector = Boxes([LEFT, RIGHT], most_images=2)
    assert labels(predictor(detector).predict(images)) == labels(predictor(Boxes([LEFT, RIGHT])).predict(images))
    assert detector.batches == [5, 2, 3, 1, 2]


def test_out_of_device_memory_on_one_image_halves_the_crops_and_remembers() -> None:
    network = ByBrightness(3, most_crops=3)
    predicting = predictor(Boxes([LEFT] * 8), species=network, filtered=False, batch=CropBatch(at_most_crops=8))
    image = decoded(half_bright())
    assert len(predicting.predict([image])[0].detections) == 8
    network.batches.clear()
    predicting.predict([image])
    assert network.batches == [2, 2, 2, 2]


def test_one_crop_of_one_image_that_does_not_fit_the_device_is_for_a_person() -> None:
    with pytest.raises(FixConfig, match="larger GPU"):
        predictor(Boxes([LEFT], most_images=0)).predict([decoded(half_bright())])


def test_other_errors_of_a_network_are_not_taken_for_a_lack_of_memory() -> None:
    class Broken(BoxDetector):
        def __init__(self) -> None:
            pass

        def find(self, images: Sequence[torch.Tensor]) -> list[list[FoundBox]]:
            raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        predictor(Broken()).predict([decoded(half_bright())])


def shipped_demo(tmp_path: Path) -> Predictor:
    catalogue = Catalogue(catalogue_files([SHIPPED]))
    return PipelineLoader(catalogue, ArtifactCache(tmp_path), torch.device("cpu")).load("tidegate_demo")


def told(prediction: Prediction) -> list[tuple[tuple[int, int, int, int], tuple[str, ...]]]:
    return [(each.box, tuple(word.label for word in each.classifications)) for each in prediction.detections]


def test_neighbours_in_a_batch_change_nothing(tmp_path: Path) -> None:
    demo = shipped_demo(tmp_path)
    images: list[DecodedImage] = [decoded(sheet(320, 240, seed=seed)) for seed in range(3)]
    together = demo.predict(images)
    assert [told(each) for each in together] == [told(demo.predict([image])[0]) for image in images]
