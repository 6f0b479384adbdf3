"""DeepLabV3-50 (Chen et al., 2017) as DDC-AT (Xu et al., ICCV 2021) trains it: no projection after the pyramid."""

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

RATES = (6, 12, 18)
WIDTH = 256


class AtrousPyramid(nn.Module):
    """Features under a 1x1, three dilated 3x3 convolutions and their mean: ``[N,2048,h,w]`` -> ``[N,1280,h,w]``."""

    def __init__(self) -> None:
        super().__init__()
        dilated = (_branch(nn.Conv2d(FEATURES, WIDTH, 3, padding=r, dilation=r, bias=False)) for r in RATES)
        mean = nn.Sequential(nn.AdaptiveAvgPool2d(1), *_branch(_pointwise()))
        self.convs = nn.ModuleList([_branch(_pointwise()), *dilated, mean])

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([resized(branch(x), x) for branch in self.convs], 1)


def _pointwise() -> nn.Conv2d:
    return nn.Conv2d(FEATURES, WIDTH, 1, bias=False)


def _branch(conv: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(conv, nn.BatchNorm2d(WIDTH), nn.ReLU(inplace=True))


def _main_head(num_classes: int) -> nn.Sequential:
    return classifier((len(RATES) + 2) * WIDTH, WIDTH, num_classes, kernel=1)


def _auxiliary_head(num_classes: int) -> nn.Sequential:
    return classifier(AUXILIARY_FEATURES, WIDTH, num_classes, kernel=1)


class DeepLabV3(PyramidNet):
    """Images ``[N,3,H,W]`` -> logits at image size; ``branches``: with those of DDC-AT."""

    def __init__(self, num_classes: int, branches: bool = False) -> None:
        super().__init__()
        self.aspp = AtrousPyramid()
        self._add_heads(_main_head, _auxiliary_head, num_classes, branches)

    def forward(self, pixels: Tensor) -> Tensor:
        return self._logits(self.aspp, pixels)
