"""ENet (arXiv 1606.02147) and DABNet (Li et al., 2019, arXiv 1907.11357) for Cityscapes' 19 classes.

The names of their weights are those of github.com/zh320/realtime-semantic-segmentation-pytorch, whose checkpoints take
RGB with ImageNet's mean and standard deviation. Its ENet differs from the paper's: ReLU inside the bottlenecks, which
end without normalisation, learned channels where the paper pads zeros, and a bilinear last doubling.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def enet(num_classes: int = 19) -> nn.Module:
    """ENet with random weights; height and width of its images are multiples of 8."""
    return ENet(num_classes)


def dabnet(num_classes: int = 19) -> nn.Module:
    """DABNet with random weights, for images of any size."""
    return DABNet(num_classes)


class ConvUnit(nn.Sequential):
    """Convolution, batch normalisation, activation; padded so that stride 1 keeps the size."""

    def __init__(
        self,
        before: int,
        channels: int,
        kernel: int | tuple[int, int] = 3,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        act: type[nn.Module] = nn.PReLU,
    ) -> None:
        kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = tuple(dilation * (side // 2) for side in kernel)
        options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "bias": False}
        activation = nn.ReLU() if act is nn.ReLU else _slope()
        super().__init__(nn.Conv2d(before, channels, kernel, **options), nn.BatchNorm2d(channels), activation)


class Beside(nn.Module):
    """ENet's figure 2a, in DABNet too: a convolution of stride 2 and a pooling side by side."""

    def __init__(self, before: int, channels: int) -> None:
        super().__init__()
        self.conv = ConvUnit(before, channels - before, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.conv(x), F.max_pool2d(x, 3, stride=2, padding=1)), 1)


class ENet(nn.Module):
    """Normalised RGB ``[N, 3, H, W]`` -> logits ``[N, K, H, W]``."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        context = ("regular", 2, "asymmetric", 4, "regular", 8, "asymmetric", 16)  # numbers are dilations
        self.initial = Beside(3, 16)
        self.bottleneck1 = nn.ModuleDict({"conv_pool": Down(16, 64), "conv_regular": _context(64, ["regular"] * 4)})
        self.bottleneck2 = nn.ModuleDict({"conv_pool": Down(64, 128), "conv_regular": _context(128, context)})
        self.bottleneck3 = nn.ModuleDict({"conv_regular": _context(128, context)})
        decoder = {"conv_unpool": Up(128, 64), "conv_regular": Bottleneck(64), "conv_extra": Bottleneck(64)}
        self.bottleneck4 = nn.ModuleDict(decoder)
        self.bottleneck5 = nn.ModuleDict({"conv_unpool": Up(64, 16), "conv_regular": Bottleneck(16)})
        self.fullconv = nn.ModuleDict({"up_conv": nn.Sequential(ConvUnit(16, num_classes, 1))})

    def forward(self, pixels: Tensor) -> Tensor:
        x, pooled = self.initial(pixels), []
        for stage in (self.bottleneck1, self.bottleneck2, self.bottleneck3, self.bottleneck4, self.bottleneck5):
            for block in stage.values():
                if isinstance(block, Down):
                    x, indices = block(x)
                    pooled.append(indices)
                else:
                    x = block(x, pooled.pop()) if isinstance(block, Up) else block(x)
        return F.interpolate(self.fullconv["up_conv"](x), scale_factor=2, mode="bilinear", align_corners=False)


class Bottleneck(nn.Module):
    """ENet's figure 2b: the input and what a chain of convolutions of a quarter of its channels adds to it."""

    def __init__(self, before: int, channels: int | None = None, *chain: nn.Module) -> None:
        super().__init__()
        inner = before // 4
        chain = chain or (_inner(before, 1), _inner(inner, 3, inner))
        self.right_init_conv = nn.Sequential(*chain)
        self.right_last_conv = nn.Sequential(nn.Conv2d(inner, channels or before, 1, bias=False))
        self.act = _slope()

    def added(self, x: Tensor) -> Tensor:
        return self.right_last_conv(self.right_init_conv(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x + self.added(x))


class Down(Bottleneck):
    """Half the size. Also returns where the maxima of the pooled input lay."""

    def __init__(self, before: int, channels: int) -> None:
        inner = before // 4
        super().__init__(before, channels, _inner(before, 3, stride=2), _inner(inner, 3, inner))
        self.left_conv = ConvUnit(before, channels, 1, act=nn.ReLU)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        kept, indices = F.max_pool2d(x, 2, return_indices=True)
        return self.act(self.left_conv(kept) + self.added(x)), indices


class Up(Bottleneck):
    """Twice the size: what is kept goes back to where the maxima lay."""

    def __init__(self, before: int, channels: int) -> None:
        inner = before // 4
        doubling = nn.ConvTranspose2d(inner, inner, 3, stride=2, padding=1, output_padding=1, bias=False)
        super().__init__(before, channels, _inner(before, 1), _Named("up_conv", doubling))
        self.left_conv = ConvUnit(before, channels, 1, act=nn.ReLU)

    def forward(self, x: Tensor, indices: Tensor) -> Tensor:
        return self.act(F.max_unpool2d(self.left_conv(x), indices, 2) + self.added(x))


class DABNet(nn.Module):
    """Normalised RGB ``[N, 3, H, W]`` -> logits ``[N, K, H, W]``: table 1, each stage with the averaged image."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.layer1, self.layer2, self.layer3 = ConvUnit(3, 32, stride=2), ConvUnit(32, 32), ConvUnit(32, 32)
        self.layer4 = Beside(32 + 3, 64)
        self.layer5_7 = nn.Sequential(*(DABModule(64, 2) for _ in range(3)))
        self.layer8 = ConvUnit(2 * 64 + 3, 128, stride=2)
        for name, dilation in {"layer9_10": 4, "layer11_12": 8, "layer13_14": 16}.items():
            self.add_module(name, nn.Sequential(*(DABModule(128, dilation) for _ in range(2))))
        self.layer15 = nn.Conv2d(2 * 128 + 3, num_classes, 1, bias=False)

    def forward(self, pixels: Tensor) -> Tensor:
        halves = [pixels]
        for _ in range(3):
            halves.append(F.avg_pool2d(halves[-1], 3, stride=2, padding=1))
        x = self.layer3(self.layer2(self.layer1(pixels)))
        first = self.layer4(torch.cat((x, halves[1]), 1))
        second = self.layer8(torch.cat((self.layer5_7(first), first, halves[2]), 1))
        x = self.layer13_14(self.layer11_12(self.layer9_10(second)))
        logits = self.layer15(torch.cat((x, second, halves[3]), 1))
        return F.interpolate(logits, pixels.shape[-2:], mode="bilinear", align_corners=True)


class DABModule(nn.Module):
    """Figure 3: a plain and a dilated pair of depth-wise 3x1 and 1x3 convolutions, side by side, around a shortcut."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        inner = channels // 2
        self.init_conv = ConvUnit(channels, inner)
        self.left_branch, self.right_branch = (
            nn.Sequential(*(ConvUnit(inner, inner, kernel, dilation=rate, groups=inner) for kernel in ((3, 1), (1, 3))))
            for rate in (1, dilation)
        )
        self.last_conv = ConvUnit(inner, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.init_conv(x)
        return x + self.last_conv(self.left_branch(inner) + self.right_branch(inner))


class _Named(nn.Sequential):
    """A layer under a name of its own."""

    def __init__(self, name: str, layer: nn.Module) -> None:
        super().__init__()
        self.add_module(name, layer)


def _slope() -> nn.Module:
    return _Named("activation", nn.PReLU())


def _inner(before: int, kernel: int | tuple[int, int], channels: int | None = None, **more: int) -> ConvUnit:
    """A convolution inside a bottleneck of ENet."""
    return ConvUnit(before, channels or before // 4, kernel, act=nn.ReLU, **more)


def _context(channels: int, kinds: list | tuple) -> nn.Sequential:
    """Bottlenecks of one size: ``"regular"``, ``"asymmetric"`` or a dilation."""
    inner, blocks = channels // 4, []
    for kind in kinds:
        if kind == "asymmetric":
            chain = (_inner(channels, 1), _inner(inner, (5, 1), inner), _inner(inner, (1, 5), inner))
        else:
            chain = (_inner(channels, 1), _inner(inner, 3, inner, dilation=1 if kind == "regular" else kind))
        blocks.append(Bottleneck(channels, None, *chain))
    return nn.Sequential(*blocks)
