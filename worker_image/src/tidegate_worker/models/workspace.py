"""How much host memory one image needs while it is predicted, beyond its own pixels.

The figures by architecture are bytes an input pixel at the widest point of a forward pass, upper bounds that
tests/worker/models/test_workspace.py measures in a process of its own. On CUDA all but the results lies on the device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tidegate.core.contract import MIB

#: Bytes a pixel of the shrunken image (detectors) or of a crop (classifiers).
ACTIVATION_BYTES: Final = {
    "fasterrcnn_resnet50_fpn": 360,
    "fasterrcnn_mobilenet_v3_large_fpn": 125,
    "torchvision_resnet50": 210,
    "timm_resnet50": 210,
    "resnet50_trunk": 200,
    "timm_convnext_tiny_in22k": 330,
}
#: Allocator slack, index tensors, strips of crops.
_FIXED_BYTES: Final = 12 * MIB
_FLOAT_BYTES: Final = 4


@dataclass(frozen=True, slots=True)
class Workspace:
    on_host: bool
    #: Pixels that the detector sees at most; zero where it takes no floats of the image.
    detector_pixels: int
    detector_bytes_per_pixel: int
    crop_pixels: int
    crop_bytes_per_pixel: int
    most_boxes: int
    #: Outputs of all classifiers together.
    classes: int

    def host_bytes(self, width: int, height: int, crops_at_once: int) -> int:
        # The detector sees any image at about the same size, so the image's own adds nothing but its uint8 rows.
        results = (self.most_boxes + crops_at_once) * self.classes * _FLOAT_BYTES
        if not self.on_host:
            return results + _FIXED_BYTES
        forward = max(
            self.detector_pixels * self.detector_bytes_per_pixel,
            crops_at_once * self.crop_pixels * self.crop_bytes_per_pixel,
        )
        return results + forward + 8 * (width + height) + _FIXED_BYTES
