"""Classifier architectures: layouts of published checkpoints, and folded results against unfolded ones."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from torch import nn

from tidegate_worker.models.catalogue import Classifier
from tidegate_worker.models.fold import fold_norms
from tidegate_worker.models.networks import classifier_network


def entry(architecture: str) -> Classifier:
    return Classifier.model_validate(
        {"name": "c", "architecture": architecture, "weights": "w.pt", "labels": ["a", "b", "c"], "input_size": 128}
    )


class PublishedTrunk(nn.Module):
    """As the checkpoints of the Turing pipelines were trained: a trunk, a pool and a linear layer without bias."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(*list(torchvision.models.resnet50(weights=None).children())[:-2])
        self.avgpool = nn.AdaptiveAvgPool2d(output_size=(1, 1))
        self.classifier = nn.Linear(2048, 3, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = self.avgpool(self.backbone(x))
        logits: torch.Tensor = self.classifier(features.view(features.size(0), -1))
        return logits


def published(architecture: str) -> nn.Module:
    match architecture:
        case "torchvision_resnet50":
            network: nn.Module = torchvision.models.resnet50(weights=None)
            network.fc = nn.Linear(2048, 3)
            return network
        case "resnet50_trunk":
            return PublishedTrunk()
        case "timm_resnet50":
            return timm.create_model("resnet50", pretrained=False, num_classes=3)
    # Today's name of what checkpoints call convnext_tiny_in22k.
    with pytest.warns(UserWarning, match=r"convnext_tiny\.fb_in22k"):
        return timm.create_model("convnext_tiny_in22k", pretrained=False, num_classes=3)


ARCHITECTURES = ["torchvision_resnet50", "resnet50_trunk", "timm_resnet50", "timm_convnext_tiny_in22k"]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_published_state_dict_loads_and_gives_its_own_network_s_scores(architecture: str) -> None:
    torch.manual_seed(1)
    plain = published(architecture).eval()
    with torch.inference_mode():
        for module in plain.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_var.uniform_(0.5, 1.5)
                module.running_mean.normal_(0, 0.2)
        ours = classifier_network(entry(architecture), 3).eval()
        ours.load_state_dict(plain.state_dict())
        fold_norms(ours)
        ours.to(memory_format=torch.channels_last)
        crops = torch.randn(3, 3, 96, 96)
        expected, found = plain(crops).softmax(1), ours(crops).softmax(1)
    assert torch.allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES[:3])
def test_folding_leaves_no_norm_behind(architecture: str) -> None:
    network = classifier_network(entry(architecture), 3).eval()
    fold_norms(network)
    assert not [name for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)]


def test_the_trunk_has_the_keys_of_its_checkpoints() -> None:
    keys = set(classifier_network(entry("resnet50_trunk"), 3).state_dict())
    assert {key.split(".")[0] for key in keys} == {"backbone", "classifier"}
    assert "classifier.bias" not in keys
