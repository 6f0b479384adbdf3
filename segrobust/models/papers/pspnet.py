"""PSPNet-50 (Zhao et al., CVPR 2017) as DDC-AT (Xu et al., ICCV 2021) and PIR-AT (Croce et al., ECCV 2024) train it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segrobust.models.papers.dilated_resnet import (
    AUXILIARY_FEATURES,
    FEATURES,
    PyramidNet,
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


class PSPNet(PyramidNet):
    """Images ``[N,3,H,W]`` -> logits at image size; ``branches``: with those of DDC-AT."""

    def __init__(self, num_classes: int, deep_stem: bool = True, branches: bool = False) -> None:
        super().__init__(deep_stem)
        self.ppm = PyramidPooling()
        self._add_heads(_main_head, _auxiliary_head, num_classes, branches)

    def forward(self, pixels: Tensor) -> Tensor:
        return self._logits(self.ppm, pixels)
