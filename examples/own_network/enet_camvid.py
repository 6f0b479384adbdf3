"""ENet (Paszke et al., 2016, arXiv 1606.02147), its weights named as in github.com/davidtvs/PyTorch-ENet.

The checkpoint there ``ENet_default`` for CamVid takes RGB in [0, 1] and has 12 outputs: the 11 classes, and unlabelled.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Table 1 of the paper from its second stage on: stage 3 repeats stage 2 without the downsampling
CONTEXT = ("regular", "dilated2", "asymmetric", "dilated4", "regular", "dilated8", "asymmetric", "dilated16")


def build(num_classes: int = 12) -> nn.Module:
    """The network with random weights; ``num_classes`` is the number of its outputs."""
    return ENet(num_classes)


class ENet(nn.Module):
    """Normalised RGB ``[N, 3, H, W]`` -> logits ``[N, K, H, W]``; H and W are multiples of 8."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.initial_block = Initial(3, 16)
        self.order: list[str] = []
        self._stage(1, 16, 64, ["downsample", *["regular"] * 4])
        self._stage(2, 64, 128, ["downsample", *CONTEXT])
        self._stage(3, 128, 128, list(CONTEXT))
        self._stage(4, 128, 64, ["upsample", "regular", "regular"])
        self._stage(5, 64, 16, ["upsample", "regular"])
        self.transposed_conv = _doubling(16, num_classes)

    def _stage(self, number: int, before: int, channels: int, kinds: list[str]) -> None:
        for at, kind in enumerate(kinds):
            self.order.append(f"{kind.rstrip('0123456789')}{number}_{at}")
            self.add_module(self.order[-1], _block(kind, before, channels))
            before = channels

    def forward(self, pixels: Tensor) -> Tensor:
        x, pooled = self.initial_block(pixels), []  # where the maxima lay, innermost last
        for block in map(self.get_submodule, self.order):
            if isinstance(block, Down):
                x, indices = block(x)
                pooled.append(indices)
            else:
                x = block(x, pooled.pop()) if isinstance(block, Up) else block(x)
        return self.transposed_conv(x)


class Initial(nn.Module):
    """Figure 2a: a convolution and a pooling side by side."""

    def __init__(self, before: int, channels: int) -> None:
        super().__init__()
        self.main_branch = nn.Conv2d(before, channels - before, 3, stride=2, padding=1, bias=False)
        self.batch_norm = nn.BatchNorm2d(channels)
        self.out_prelu = nn.PReLU(channels)

    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat((self.main_branch(x), F.max_pool2d(x, 3, stride=2, padding=1)), 1)
        return self.out_prelu(self.batch_norm(both))


class Bottleneck(nn.Module):
    """Figure 2b without a change of size: the input and what three convolutions add to it."""

    def __init__(self, before: int, channels: int, first: nn.Module, *middle: nn.Module) -> None:
        super().__init__()
        inner = before // 4
        self.ext_conv1 = _normalised(first)
        self.ext_conv2 = _normalised(*middle)
        self.ext_conv3 = _normalised(nn.Conv2d(inner, channels, 1, bias=False))
        self.out_prelu = nn.PReLU(channels)

    def added(self, x: Tensor) -> Tensor:
        return self.ext_conv3(self.ext_conv2(self.ext_conv1(x)))

    def forward(self, x: Tensor) -> Tensor:
        return self.out_prelu(x + self.added(x))


class Down(Bottleneck):
    """Half the size; the channels that the pooled input lacks are zeros. Also returns where the maxima lay.

    The checkpoint was trained with 3x3 pooling, where the paper has 2x2.
    """

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        added = self.added(x)
        kept, indices = F.max_pool2d(x, 3, stride=2, padding=1, return_indices=True)
        kept = F.pad(kept, (0, 0, 0, 0, 0, added.shape[1] - kept.shape[1]))
        return self.out_prelu(kept + added), indices


class Up(Bottleneck):
    """Twice the size: what is kept goes back to where the maxima lay."""

    def __init__(self, before: int, channels: int, *convolutions: nn.Module) -> None:
        super().__init__(before, channels, *convolutions)
        self.main_conv1 = _normalised(nn.Conv2d(before, channels, 1, bias=False), act=False)

    def forward(self, x: Tensor, indices: Tensor) -> Tensor:
        return self.out_prelu(F.max_unpool2d(self.main_conv1(x), indices, 2) + self.added(x))


def _block(kind: str, before: int, channels: int) -> Bottleneck:
    inner = before // 4
    plain = nn.Conv2d(inner, inner, 3, padding=1, bias=False)
    if kind == "downsample":
        return Down(before, channels, nn.Conv2d(before, inner, 2, stride=2, bias=False), plain)
    reduced = nn.Conv2d(before, inner, 1, bias=False)
    if kind == "upsample":
        return Up(before, channels, reduced, _doubling(inner, inner))
    if kind == "asymmetric":
        tall = nn.Conv2d(inner, inner, (5, 1), padding=(2, 0), bias=False)
        return Bottleneck(before, channels, reduced, tall, nn.Conv2d(inner, inner, (1, 5), padding=(0, 2), bias=False))
    if kind.startswith("dilated"):
        rate = int(kind.removeprefix("dilated"))
        plain = nn.Conv2d(inner, inner, 3, padding=rate, dilation=rate, bias=False)
    return Bottleneck(before, channels, reduced, plain)


def _normalised(*convolutions: nn.Module, act: bool = True) -> nn.Sequential:
    """Every convolution with its batch normalisation and, unless told otherwise, a PReLU of one slope."""
    layers: list[nn.Module] = []
    for convolution in convolutions:
        layers += [convolution, nn.BatchNorm2d(convolution.out_channels), *([nn.PReLU()] if act else [])]
    return nn.Sequential(*layers)


def _doubling(before: int, channels: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(before, channels, 3, stride=2, padding=1, output_padding=1, bias=False)
