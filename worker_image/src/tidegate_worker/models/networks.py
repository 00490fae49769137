"""The architectures that a catalogue may name, as networks without weights.

Layouts are those of the published checkpoints, so that their state dicts load strictly. Nothing is downloaded here:
torchvision and timm fetch weights of their own only when asked to.
"""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models import resnet50
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import mobilenet_backbone, resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d

from tidegate_worker.models.catalogue import Classifier, Detector
from tidegate_worker.models.detector import ShrinksFirst
from tidegate_worker.models.tiny import TinyClassifier, TinyDetector

#: One kind of object, and background.
_DETECTOR_CLASSES = 2


def detector_network(entry: Detector) -> nn.Module:
    """Takes a list of uint8 CHW images of full size; gives boxes, labels and scores for each."""
    if entry.architecture == "tiny_detector":
        return TinyDetector()
    network: nn.Module = (
        _mobilenet(entry) if entry.architecture == "fasterrcnn_mobilenet_v3_large_fpn" else _resnet(entry)
    )
    network.transform = ShrinksFirst.like(network.transform)
    return network


def _resnet(entry: Detector) -> FasterRCNN:
    # Training starts from ImageNet weights, for which torchvision freezes the norms: checkpoints have that layout.
    backbone = resnet_fpn_backbone(backbone_name="resnet50", weights=None, norm_layer=FrozenBatchNorm2d)
    return FasterRCNN(backbone, num_classes=_DETECTOR_CLASSES, box_detections_per_img=entry.most_boxes)


def _mobilenet(entry: Detector) -> FasterRCNN:
    backbone = mobilenet_backbone(
        backbone_name="mobilenet_v3_large", fpn=True, weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=6
    )
    anchors = AnchorGenerator(((64, 128, 256, 512),) * 3, ((0.5, 1.0, 2.0),) * 3)
    return FasterRCNN(
        backbone,
        num_classes=_DETECTOR_CLASSES,
        rpn_anchor_generator=anchors,
        rpn_score_thresh=0.05,
        box_detections_per_img=entry.most_boxes,
    )


def classifier_network(entry: Classifier, classes: int) -> nn.Module:
    """Takes normalised crops (NCHW floats); gives logits."""
    match entry.architecture:
        case "tiny_classifier":
            return TinyClassifier(classes)
        case "torchvision_resnet50":
            return _torchvision_resnet50(classes)
        case "resnet50_trunk":
            return ResnetTrunk(classes)
        case "timm_resnet50":
            return _timm("resnet50", classes)
        case "timm_convnext_tiny_in22k":
            # Known to timm as convnext_tiny_in22k when the checkpoint was made; the keys are the same.
            return _timm("convnext_tiny.fb_in22k", classes)


def _torchvision_resnet50(classes: int) -> nn.Module:
    network: nn.Module = resnet50(weights=None, num_classes=classes)
    return network


class ResnetTrunk(nn.Module):
    """A ResNet-50 without its last two layers, a pool, a linear layer without bias: keys backbone.*, classifier.*."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        whole = resnet50(weights=None)
        self.backbone = nn.Sequential(*list(whole.children())[:-2])
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(whole.fc.in_features, classes, bias=False)

    def forward(self, crops: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.avgpool(self.backbone(crops)).flatten(1))
        return logits


def _timm(name: str, classes: int) -> nn.Module:
    # Costs tens of MB and a second: only for pipelines that need it.
    import timm

    network: nn.Module = timm.create_model(name, pretrained=False, num_classes=classes)
    return network
