"""PSPNet-50 (Zhao et al., CVPR 2017) as DDC-AT (Xu et al., ICCV 2021) and PIR-AT (Croce et al., ECCV 2024) train it.

The auxiliary heads and DDC-AT's further branches are part of the files, of training alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segrobust.models.papers.dilated_resnet import (
    AUXILIARY_FEATURES,
    FEATURES,
    DilatedResNet50,
    classifier,
    resized,
)

BINS = (1, 2, 3, 6)
WIDTH, AUXILIARY_WIDTH = 512, 256


class PyramidPooling(nn.Module):
    """Features and their means over 1, 4, 9 and 36 regions, side by side: ``[N,2048,h,w]`` -> ``[N,4096,h,w]``."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.ModuleList(
            nn.Sequential(
                nn.AdaptiveAvgPool2d(size),
                nn.Conv2d(FEATURES, WIDTH, 1, bias=False),
                nn.BatchNorm2d(WIDTH),
                nn.ReLU(inplace=True),
            )
            for size in BINS
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, *(resized(pool(x), x) for pool in self.features)], 1)


def _main_head(num_classes: int) -> nn.Sequential:
    return classifier(FEATURES + len(BINS) * WIDTH, WIDTH, num_classes, kernel=3)


def _auxiliary_head(num_classes: int) -> nn.Sequential:
    return classifier(AUXILIARY_FEATURES, AUXILIARY_WIDTH, num_classes, kernel=3)


class PSPNet(DilatedResNet50):
    """Images ``[N,3,H,W]`` -> logits at image size."""

    def __init__(self, num_classes: int, deep_stem: bool = True) -> None:
        super().__init__(deep_stem)
        self.ppm = PyramidPooling()
        self.cls = _main_head(num_classes)
        self.aux = _auxiliary_head(num_classes)

    def forward(self, pixels: Tensor) -> Tensor:
        return resized(self.cls(self.ppm(self.features(pixels))), pixels)


class PSPNetBranches(DilatedResNet50):
    """With DDC-AT's branch for adversarial pixels and its mask; evaluation uses the main branch alone."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.ppm = PyramidPooling()
        self.cls1, self.cls2, self.mask1 = _main_head(num_classes), _main_head(num_classes), _main_head(2)
        self.aux_cls1 = _auxiliary_head(num_classes)

    def forward(self, pixels: Tensor) -> Tensor:
        return resized(self.cls1(self.ppm(self.features(pixels))), pixels)
