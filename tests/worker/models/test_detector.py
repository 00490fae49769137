"""Our detectors against torchvision's own, on the same weights and images at full resolution."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import mobilenet_backbone
from torchvision.ops import box_iou

from tidegate_worker.models.catalogue import Detector
from tidegate_worker.models.detector import BoxDetector
from tidegate_worker.models.fold import fold_norms
from tidegate_worker.models.networks import detector_network

R50 = Detector(name="r50", architecture="fasterrcnn_resnet50_fpn", weights="w.pt", score_above=0.5, most_boxes=500)
MOBILE = R50.model_copy(update={"architecture": "fasterrcnn_mobilenet_v3_large_fpn"})


def plain_resnet() -> FasterRCNN:
    return torchvision.models.detection.fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=2, box_detections_per_img=500
    )


def plain_mobilenet() -> FasterRCNN:
    backbone = mobilenet_backbone(
        backbone_name="mobilenet_v3_large", fpn=True, weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=6
    )
    anchors = AnchorGenerator(((64, 128, 256, 512),) * 3, ((0.5, 1.0, 2.0),) * 3)
    return FasterRCNN(backbone, 2, rpn_anchor_generator=anchors, rpn_score_thresh=0.05, box_detections_per_img=500)


def make_talkative(network: nn.Module, norms: tuple[float, float], sharpness: float) -> None:
    """Random weights as trained ones are: norms that are no identity, scores and boxes that differ.

    Boxes with equal scores suppress each other by chance, so features must not die out on the way up.
    """
    torch.manual_seed(4)
    for module in network.modules():
        if hasattr(module, "running_var"):
            module.running_var.uniform_(0.5, 1.5)
            module.running_mean.normal_(0, 0.1)
            module.weight.data.uniform_(*norms)
    network.roi_heads.box_predictor.cls_score.weight.data.mul_(sharpness)
    network.roi_heads.box_predictor.bbox_pred.weight.data.mul_(5)


def picture(height: int, width: int) -> torch.Tensor:
    coarse = torch.rand((1, 3, height // 30, width // 30), generator=torch.Generator().manual_seed(height))
    return (nn.functional.interpolate(coarse, size=(height, width), mode="bicubic").clamp(0, 1)[0] * 255).byte()


@pytest.fixture(scope="module", params=["resnet", "mobilenet"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[nn.Module, nn.Module]]:
    """The plain network of torchvision, and ours on its state dict, as it is loaded for use."""
    plain = (plain_resnet() if request.param == "resnet" else plain_mobilenet()).eval()
    with torch.no_grad():
        if request.param == "resnet":
            make_talkative(plain, (0.4, 0.9), 60)
        else:
            make_talkative(plain, (1.5, 2.5), 20)
        ours = detector_network(R50 if request.param == "resnet" else MOBILE).eval()
        ours.load_state_dict(plain.state_dict())
        fold_norms(ours)
        yield plain, ours.to(memory_format=torch.channels_last)


# One of each network, and one of each size: four would tell no more.
@pytest.mark.parametrize(
    ("pair", "height", "width"), [("resnet", 500, 300), ("mobilenet", 1536, 2048)], indirect=["pair"]
)
def test_same_weights_give_the_boxes_scores_and_classes_of_the_plain_network(
    pair: tuple[nn.Module, nn.Module], height: int, width: int
) -> None:
    plain, ours = pair
    pixels = picture(height, width)
    with torch.inference_mode():
        expected, found = plain([pixels.float() / 255])[0], ours([pixels])[0]
    assert len(expected["scores"]) > 10
    assert len(found["scores"]) == len(expected["scores"])
    assert torch.allclose(found["scores"], expected["scores"], atol=1e-3)
    assert torch.equal(found["labels"], expected["labels"])
    # Scores that tie may change places: each box is looked for among all.
    assert float(box_iou(expected["boxes"], found["boxes"]).max(1).values.min()) > 0.98
    nearest = torch.cdist(expected["boxes"], found["boxes"], p=float("inf")).min(1).values
    assert float(nearest.max()) <= 1.0


def test_a_state_dict_of_frozen_norms_and_one_of_plain_norms_both_load() -> None:
    ours = detector_network(R50)
    plain = plain_resnet().state_dict()
    assert any("num_batches_tracked" in key for key in plain)
    ours.load_state_dict(plain)
    ours.load_state_dict({key: value for key, value in plain.items() if "num_batches_tracked" not in key})


class Says(nn.Module):
    """A network with one answer."""

    def __init__(self, boxes: list[list[float]], scores: list[float]) -> None:
        super().__init__()
        self._answer = {
            "boxes": torch.tensor(boxes).reshape(-1, 4),
            "labels": torch.ones(len(scores), dtype=torch.int64),
            "scores": torch.tensor(scores),
        }

    def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        return [self._answer for _ in images]


def found(boxes: list[list[float]], scores: list[float], score_above: float = 0.8) -> list[tuple[int, int, int, int]]:
    pixels = torch.zeros((3, 50, 100), dtype=torch.uint8)
    return [each.box for each in BoxDetector(Says(boxes, scores), score_above).find([pixels])[0]]


def test_boxes_are_truncated_to_whole_pixels() -> None:
    assert found([[1.9, 2.9, 30.999, 40.2]], [0.9]) == [(1, 2, 30, 40)]


def test_boxes_are_clipped_to_the_image() -> None:
    assert found([[-5.0, -1.0, 130.0, 60.0]], [0.9]) == [(0, 0, 100, 50)]


def test_boxes_without_an_inner_pixel_are_dropped() -> None:
    assert found([[5.2, 5.0, 5.9, 20.0], [5.0, 20.0, 9.0, 10.0], [101.0, 1.0, 120.0, 9.0]], [0.9] * 3) == []


def test_a_box_at_the_threshold_is_dropped_and_one_above_is_kept() -> None:
    assert found([[1, 1, 9, 9], [2, 2, 9, 9]], [0.5, 0.50001], score_above=0.5) == [(2, 2, 9, 9)]
