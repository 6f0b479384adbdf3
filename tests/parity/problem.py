"""The small fixed network that everything here attacks, and what it saw while it was attacked."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

CLASSES = 5
SIZE = 8, 9


class FixedNet(nn.Module):
    """Two convolutions whose float64 weights come from a formula, so that no library's random numbers matter."""

    num_classes = CLASSES

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1, dtype=torch.float64)
        self.last = nn.Conv2d(6, CLASSES, 3, padding=1, dtype=torch.float64)
        with torch.no_grad():
            for n, parameter in enumerate(self.parameters()):
                count = torch.arange(parameter.numel(), dtype=torch.float64)
                parameter.copy_((1.3 * torch.sin(12.9898 * (count + 1) + n)).view_as(parameter))

    def forward(self, images: Tensor) -> Tensor:
        return self.last((self.first(images.double() - 0.5) / 2).tanh())


class Classifier(FixedNet):
    """The mean logits of an image, ``[N, K]``."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).mean((2, 3))


class Everywhere(Classifier):
    """The same logits at every pixel."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images)[:, :, None, None].expand(-1, -1, *images.shape[2:])


class Recorder(nn.Module):
    """Remembers, in float64, every batch of images that the network saw."""

    def __init__(self, network: FixedNet) -> None:
        super().__init__()
        self.network, self.num_classes = network, network.num_classes
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images.detach().double())
        return self.network(images)


def scene(network: FixedNet, count: int = 2) -> tuple[Tensor, Tensor]:
    """Images from a formula, float32 values; labels are the network's own but for some wrong and some void ones."""
    position = torch.arange(count * 3 * math.prod(SIZE), dtype=torch.float64)
    images = (0.5 + 0.5 * torch.sin(78.233 * position + 0.3 * position**2)).view(count, 3, *SIZE).float()
    with torch.no_grad():
        labels = network(images).argmax(1)
    place = torch.arange(labels.numel()).view_as(labels)
    labels = torch.where(place % 11 == 0, (labels + 1) % CLASSES, labels)
    return images, labels.masked_fill(place % 7 == 3, 255)


def singles(images: Tensor, labels: Tensor):
    """One image after the other as float64 ``[1, 3, H, W]``, its labels with 0 for void, and the valid pixels."""
    for image, label in zip(images.double(), labels, strict=True):
        valid = label != 255
        yield image[None], label.masked_fill(~valid, 0)[None], valid[None]


def record(attack, network: FixedNet, images: Tensor, labels: Tensor, **more):
    """The attack's result, and the images the network saw, ``[steps, N, 3, H, W]``."""
    recorder = Recorder(network)
    result = attack(recorder, images, labels, **more)
    return result, recorder.seen
