"""UPerNet (Xiao et al., ECCV 2018) on ConvNeXt-CvSt, as PIR-AT trained it (Croce et al., ECCV 2024)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segrobust.models.network_io import to_image_size
from segrobust.models.papers.convnext import ConvNeXt

BINS = (1, 2, 3, 6)


class ConvNormReLU(nn.Module):
    """A convolution without bias that keeps the size, batch normalisation, ReLU."""

    def __init__(self, before: int, width: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, width, kernel, padding=kernel // 2, bias=False)
        self.batch_norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.batch_norm(self.conv(x)).relu()


class UPerHead(nn.Module):
    """Pyramid pooling of the last feature, then a feature pyramid: logits at the first feature's size."""

    def __init__(self, num_classes: int, widths: Sequence[int], width: int = 512) -> None:
        super().__init__()
        *lower, top = widths
        pooled = (nn.Sequential(nn.AdaptiveAvgPool2d(size), ConvNormReLU(top, width, 1)) for size in BINS)
        self.psp_modules = nn.ModuleList(pooled)
        self.bottleneck = ConvNormReLU(top + len(BINS) * width, width, 3)
        self.lateral_convs = nn.ModuleList(ConvNormReLU(before, width, 1) for before in lower)
        self.fpn_convs = nn.ModuleList(ConvNormReLU(width, width, 3) for _ in lower)
        self.fpn_bottleneck = ConvNormReLU(len(widths) * width, width, 3)
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        *lower, top = features
        pyramid = [top, *(to_image_size(pool(top), top) for pool in self.psp_modules)]
        levels = [self.bottleneck(torch.cat(pyramid, 1))]
        for feature, lateral in zip(reversed(lower), reversed(self.lateral_convs), strict=True):
            here = lateral(feature)
            levels.insert(0, here + to_image_size(levels[0], here))
        levels = [*(conv(level) for conv, level in zip(self.fpn_convs, levels, strict=False)), levels[-1]]
        together = torch.cat([levels[0], *(to_image_size(level, levels[0]) for level in levels[1:])], 1)
        return self.classifier(self.fpn_bottleneck(together))


class FCNHead(nn.Module):
    """The auxiliary head: part of the file, of training alone."""

    def __init__(self, num_classes: int, before: int, width: int = 256) -> None:
        super().__init__()
        self.convs = nn.Sequential(ConvNormReLU(before, width, 3))
        self.classifier = nn.Conv2d(width, num_classes, 1)


class UPerNet(nn.Module):
    """Raw RGB in [0, 1] of 29x29 or larger -> logits at image size."""

    def __init__(
        self,
        num_classes: int,
        depths: Sequence[int],
        widths: Sequence[int] = (96, 192, 384, 768),
        head_width: int = 512,
    ) -> None:
        super().__init__()
        self.backbone = ConvNeXt(depths, widths)
        self.decode_head = UPerHead(num_classes, widths, head_width)
        self.auxiliary_head = FCNHead(num_classes, widths[2])

    def forward(self, pixels: Tensor) -> Tensor:
        return to_image_size(self.decode_head(self.backbone(pixels)), pixels)
