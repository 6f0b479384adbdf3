"""ConvNeXt (Liu et al., CVPR 2022) with a stem of two convolutions ("CvSt", Singh et al., NeurIPS 2023).

Drop path, which does nothing in evaluation, is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

EPS = 1e-6


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of ``[N,C,H,W]``."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    """x + gamma * MLP(norm(depthwise 7x7(x)))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.pwconv1 = nn.Linear(width, 4 * width)
        self.act = nn.GELU()
        self.pwconv2 = nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        y = self.gamma * self.pwconv2(self.act(self.pwconv1(y)))
        return x + y.permute(0, 3, 1, 2)


class ConvStem(nn.Module):
    """Two 3x3 convolutions of stride 2, each with norm and GELU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width // 2, 3, stride=2, padding=1),
            ChannelNorm(width // 2),
            nn.GELU(),
            nn.Conv2d(width // 2, width, 3, stride=2, padding=1),
            ChannelNorm(width),
            nn.GELU(),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        return self.stem(pixels)


class ConvNeXt(nn.Module):
    """Four features of strides 4, 8, 16 and 32, each behind a norm of its own; the next stage goes on without it."""

    def __init__(self, depths: Sequence[int], widths: Sequence[int] = (96, 192, 384, 768)) -> None:
        super().__init__()
        self.downsample_layers = nn.ModuleList([ConvStem(widths[0])])
        for before, width in pairwise(widths):
            self.downsample_layers.append(nn.Sequential(ChannelNorm(before), nn.Conv2d(before, width, 2, stride=2)))
        self.stages = nn.ModuleList(
            nn.Sequential(*(ConvNeXtBlock(width) for _ in range(depth)))
            for depth, width in zip(depths, widths, strict=True)
        )
        for level, width in enumerate(widths):
            self.add_module(f"norm{level}", ChannelNorm(width))

    def forward(self, pixels: Tensor) -> list[Tensor]:
        x, features = pixels, []
        for level, (downsample, stage) in enumerate(zip(self.downsample_layers, self.stages, strict=True)):
            x = stage(downsample(x))
            features.append(self.get_submodule(f"norm{level}")(x))
        return features
