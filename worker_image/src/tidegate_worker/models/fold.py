"""Norms folded into the convolutions before them: the same function in a third less time, with fewer activations.

A convolution and a frozen norm are one affine map. tests/worker/models holds every architecture of the catalogue to its
own unfolded results, for that a norm follows a convolution among the children says nothing by itself.
"""

from __future__ import annotations

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torchvision.ops import FrozenBatchNorm2d

_NORMS = (nn.BatchNorm2d, FrozenBatchNorm2d)


def fold_norms(network: nn.Module) -> None:
    """Fold, in place, each batch norm of an evaluated network that directly follows a convolution."""
    previous: nn.Module | None = None
    for name, child in network.named_children():
        # Exactly these types: timm has norms with an activation inside.
        if isinstance(previous, nn.Conv2d) and type(child) in _NORMS:
            _fold(previous, child)
            network.register_module(name, nn.Identity())
        else:
            fold_norms(child)
        previous = child


def _fold(convolution: nn.Conv2d, norm: nn.Module) -> None:
    convolution.weight, convolution.bias = fuse_conv_bn_weights(
        convolution.weight,
        convolution.bias,
        norm.running_mean,  # type: ignore[arg-type]
        norm.running_var,  # type: ignore[arg-type]
        norm.eps,  # type: ignore[arg-type]
        norm.weight,  # type: ignore[arg-type]
        norm.bias,  # type: ignore[arg-type]
    )
