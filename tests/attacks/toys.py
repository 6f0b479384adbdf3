"""Small models with known behaviour, and batches for them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PixelLinear(nn.Module):
    """A 1x1 convolution: every pixel is classified on its own by a linear rule."""

    def __init__(self, num_classes: int = 2, seed: int = 0, scale: float = 4.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        weight = torch.randn(num_classes, 3, 1, 1, generator=generator) * scale
        self.num_classes = num_classes
        self.weight = nn.Parameter(weight)
        # boundaries through the middle of the colour cube
        self.bias = nn.Parameter(-0.5 * weight.sum((1, 2, 3)))

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.conv2d(images, self.weight, self.bias)


class SmallNet(nn.Module):
    """Two convolutions with batch normalisation and dropout between them."""

    def __init__(self, num_classes: int = 4, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.num_classes = num_classes
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.5)
        self.last = nn.Conv2d(8, num_classes, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        return 6 * self.last(self.drop(self.norm(self.first(images)).tanh()))


def batch(model: nn.Module, count: int = 3, size: int = 12, seed: int = 1, wrong: float = 0.1, void: float = 0.15):
    """Images, and labels that are the model's own predictions but for a few wrong and void pixels (255)."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 3, size, size, generator=generator)
    with torch.no_grad():
        training = model.training
        labels = model.eval()(images).argmax(1)
        model.train(training)
    noise = torch.rand(labels.shape, generator=generator)
    labels = torch.where(noise < wrong, (labels + 1) % model.num_classes, labels)
    return images, labels.masked_fill(noise > 1 - void, 255)


def share_wrong(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Share of valid pixels per image that are classified wrongly."""
    with torch.no_grad():
        valid = labels != 255
        wrong = (model.eval()(images).argmax(1) != labels) & valid
    return wrong.flatten(1).sum(1) / valid.flatten(1).sum(1)
