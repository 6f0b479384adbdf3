"""The steps that protocols need beside mmcv's: sizes as PIL makes them, and void pixels that count."""

from __future__ import annotations

import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.registry import TRANSFORMS
from PIL import Image

from segrobust.datasets.labels import VOID


@TRANSFORMS.register_module()
class ResizeAsPIL(BaseTransform):
    """Image and label as PIL resizes them: bilinear over the area of a pixel, and the nearest pixel.

    The image stays on the 8-bit grid. Labels differ from ``resize_nearest`` only where a centre lies between two
    pixels, as it does at halves: there PIL takes the lower or right one, as what was published did.

    Args:
        size: the short side, which the other follows, rounded down; or (width, height).
    """

    def __init__(self, size: int | tuple[int, int]) -> None:
        self.size = size if isinstance(size, int) else (int(size[0]), int(size[1]))

    def transform(self, results: dict) -> dict:
        size = self._wanted(*results["img"].shape[:2])
        results["img"] = np.array(Image.fromarray(results["img"]).resize(size, Image.Resampling.BILINEAR))
        label = Image.fromarray(results["gt_seg_map"]).resize(size, Image.Resampling.NEAREST)
        results["gt_seg_map"] = np.array(label)
        results["img_shape"] = results["img"].shape[:2]
        return results

    def _wanted(self, height: int, width: int) -> tuple[int, int]:
        if not isinstance(self.size, int):
            return self.size
        short = min(height, width)
        return self.size * width // short, self.size * height // short

    def __repr__(self) -> str:
        return f"{type(self).__name__}(size={self.size})"


@TRANSFORMS.register_module()
class VoidAsClass(BaseTransform):
    """Void pixels of the label become a class, so that none is left out."""

    def __init__(self, class_id: int, ignore_index: int = VOID) -> None:
        self.class_id, self.ignore_index = class_id, ignore_index

    def transform(self, results: dict) -> dict:
        label = results["gt_seg_map"]
        results["gt_seg_map"] = np.where(label == self.ignore_index, self.class_id, label).astype(label.dtype)
        return results

    def __repr__(self) -> str:
        return f"{type(self).__name__}(class_id={self.class_id}, ignore_index={self.ignore_index})"
