"""Where an attack went: what its model was asked, for a comparison with formulas written out in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


class Recorder(nn.Module):
    """A model that keeps the points of every forward."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.num_classes = net, net.num_classes
        self.points: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.points.append(images.detach().clone())
        return self.net(images)


def in_float64(net: nn.Module) -> nn.Module:
    return copy.deepcopy(net).double().eval()


def gaps_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Logit of the label minus the largest other one, ``[N, H, W]``."""
    own = logits.gather(1, labels.unsqueeze(1)).squeeze(1)
    return own - logits.scatter(1, labels.unsqueeze(1), -torch.inf).amax(1)


def gradient_of(loss: Callable[[Tensor], Tensor], net: nn.Module, points: Tensor) -> tuple[Tensor, Tensor]:
    """Input gradient of ``loss(logits)`` by autograd, and the logits."""
    points = points.detach().requires_grad_()
    logits = net(points)
    (gradient,) = torch.autograd.grad(loss(logits), points)
    return gradient, logits.detach()


def assert_same(got: Sequence[Tensor], expected: Sequence[Tensor], atol: float = 0.0, rtol: float = 0.0) -> None:
    """Step by step; where they differ, the first index says at which."""
    torch.testing.assert_close(torch.stack([*got]).double(), torch.stack([*expected]), rtol=rtol, atol=atol)


def column(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def cosine(first: float, last: float, progress: float) -> float:
    return last + (first - last) * (1 + torch.cos(torch.tensor(torch.pi * progress, dtype=torch.float64)).item()) / 2
