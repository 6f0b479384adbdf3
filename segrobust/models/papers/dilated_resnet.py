"""ResNet-50 (He et al., CVPR 2016) at stride 8, as PSPNet's authors dilate it, and what stands on it."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.resnet import Bottleneck

FEATURES, AUXILIARY_FEATURES = 2048, 1024  # channels of the last stage and of the one before


class DilatedResNet50(nn.Module):
    """The stages of a ResNet-50; the last two are dilated by 2 and 4, their first blocks too, in place of strides.

    Args:
        deep_stem: three 3x3 convolutions in place of one 7x7.
    """

    def __init__(self, deep_stem: bool = True) -> None:
        super().__init__()
        layers = [*_conv_norm_relu(3, 64, 3, stride=2), *_conv_norm_relu(64, 64, 3), *_conv_norm_relu(64, 128, 3)]
        if not deep_stem:
            layers = _conv_norm_relu(3, 64, 7, stride=2)
        self.layer0 = nn.Sequential(*layers, nn.MaxPool2d(3, stride=2, padding=1))
        self.layer1 = _stage(128 if deep_stem else 64, 64, blocks=3)
        self.layer2 = _stage(256, 128, blocks=4, stride=2)
        self.layer3 = _stage(512, 256, blocks=6, dilation=2)
        self.layer4 = _stage(1024, 512, blocks=3, dilation=4)

    def features(self, pixels: Tensor) -> Tensor:
        """``[N,3,H,W]`` -> ``[N,2048,H/8,W/8]``, rounded up."""
        return self.layer4(self.layer3(self.layer2(self.layer1(self.layer0(pixels)))))


class PyramidNet(DilatedResNet50):
    """Images ``[N,3,H,W]`` -> logits at image size, by a pyramid of the features and a head on it.

    The auxiliary head and DDC-AT's further branches, for adversarial pixels and their mask, are part of the files, of
    training alone: evaluation uses the main branch.
    """

    def _add_heads(self, main: Callable[[int], nn.Module], auxiliary: Callable[[int], nn.Module], num_classes: int,
                   branches: bool) -> None:  # fmt: skip
        self.branches = branches
        if branches:
            self.cls1, self.cls2, self.mask1 = main(num_classes), main(num_classes), main(2)
            self.aux_cls1 = auxiliary(num_classes)
        else:
            self.cls, self.aux = main(num_classes), auxiliary(num_classes)

    def _logits(self, pyramid: nn.Module, pixels: Tensor) -> Tensor:
        head = self.cls1 if self.branches else self.cls
        return resized(head(pyramid(self.features(pixels))), pixels)


def _conv_norm_relu(before: int, width: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(before, width, kernel, stride=stride, padding=kernel // 2, bias=False)
    return [conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]


def _stage(before: int, width: int, blocks: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    after = width * Bottleneck.expansion
    shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride=stride, bias=False), nn.BatchNorm2d(after))
    first = Bottleneck(before, width, stride, shortcut, dilation=dilation)
    return nn.Sequential(first, *(Bottleneck(after, width, dilation=dilation) for _ in range(blocks - 1)))


def classifier(before: int, width: int, num_classes: int, kernel: int) -> nn.Sequential:
    """A head on features: convolution, batch normalisation, ReLU, dropout, and a convolution to ``num_classes``."""
    return nn.Sequential(
        *_conv_norm_relu(before, width, kernel),
        nn.Dropout2d(0.1),
        nn.Conv2d(width, num_classes, 1),
    )


def resized(x: Tensor, like: Tensor) -> Tensor:
    """Bilinear, corners on corners, to the size of ``like``."""
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=True)
