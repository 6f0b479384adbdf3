"""Threat models: the only place that knows a norm.

All functions work on batches ``[N, 3, H, W]`` in image units ([0, 1]) with one radius per image, and treat
every image on its own::

    threat = THREATS["L2"]
    start = threat.random_start(clean, eps, generators)
    points = threat.project(start + threat.step(start, gradient, size), clean, eps)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def per_image(value: Tensor) -> Tensor:
    """``[N]`` as ``[N, 1, 1, 1]``."""
    return value.view(-1, 1, 1, 1)


def draw(sampler, like: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """One CPU draw per image from its own generator, so that neither neighbours nor devices change it."""
    return torch.stack([sampler(like.shape[1:], generator=g) for g in generators]).to(like)


def allowed(norm: str, eps: Tensor | float) -> Tensor | float:
    """The radius and what rounding may add to the distance of a point that was projected to it."""
    return eps * (1 + 1e-5 * (norm != "Linf")) + 1e-6


class Linf:
    """Largest change of a channel value."""

    def distance(self, delta: Tensor) -> Tensor:
        return delta.abs().flatten(1).amax(1)

    def project(self, points: Tensor, clean: Tensor, eps: Tensor) -> Tensor:
        radius = per_image(eps)
        return torch.minimum(torch.maximum(points, clean - radius), clean + radius).clamp_(0, 1)

    def random_start(self, clean: Tensor, eps: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        noise = draw(torch.rand, clean, generators).mul_(2).sub_(1)
        return noise.mul_(per_image(eps)).add_(clean).clamp_(0, 1)

    def step(self, points: Tensor, gradient: Tensor, size: Tensor) -> Tensor:
        return gradient.sign().mul_(per_image(size))


class L2:
    """Euclidean length over all channel values of the image."""

    def distance(self, delta: Tensor) -> Tensor:
        return delta.flatten(1).norm(dim=1)

    def project(self, points: Tensor, clean: Tensor, eps: Tensor) -> Tensor:
        """Nearest point of ball and box: ``clip(clean + t (points - clean))`` for the largest t that fits.

        For a fixed set of clipped values t has a closed form; from the unclipped t upward that set only grows,
        and every iterate lies in the ball, so a few rounds reach the exact t.
        """
        delta = points - clean
        scale = (eps / self.distance(delta).clamp_min(torch.finfo(delta.dtype).tiny)).clamp_max(1)
        for _ in range(16):
            moved = torch.addcmul(clean, delta, per_image(scale))
            clipped = (moved < 0) | (moved > 1)
            used = (moved.clamp(0, 1) - clean).masked_fill_(~clipped, 0).flatten(1).square().sum(1)
            length = delta.masked_fill(clipped, 0).flatten(1).square().sum(1)
            larger = ((eps.square() - used).clamp_min(0) / length.clamp_min(1e-30)).sqrt().clamp_max(1)
            larger = torch.where(length > 0, larger, scale)
            grows = larger > scale * (1 + 1e-6)
            if not grows.any():
                break
            scale = torch.where(grows, larger, scale)
        return (delta * per_image(scale)).add_(clean).clamp_(0, 1)

    def random_start(self, clean: Tensor, eps: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        direction = draw(torch.randn, clean, generators)
        share = torch.stack([torch.rand((), generator=g) for g in generators]).to(clean)
        length = eps * share ** (1 / clean[0].numel()) / self.distance(direction)
        return direction.mul_(per_image(length)).add_(clean).clamp_(0, 1)

    def step(self, points: Tensor, gradient: Tensor, size: Tensor) -> Tensor:
        largest = gradient.abs().flatten(1).amax(1).clamp_min(torch.finfo(gradient.dtype).tiny)
        direction = gradient / per_image(largest)
        return direction.mul_(per_image(size / self.distance(direction).clamp_min(1e-12)))


class L1:
    """Sum of absolute changes over all channel values of the image."""

    def distance(self, delta: Tensor) -> Tensor:
        return delta.abs().flatten(1).sum(1)

    def project(self, points: Tensor, clean: Tensor, eps: Tensor) -> Tensor:
        """Nearest point of ball and box: soft-thresholding by the smallest threshold that fits, found by bisection."""
        delta = points - clean
        size = delta.abs()
        room = torch.where(delta > 0, 1 - clean, clean)

        def length(threshold: Tensor) -> Tensor:
            return torch.minimum((size - per_image(threshold)).clamp_(min=0), room).flatten(1).sum(1)

        low = torch.zeros_like(eps)
        high = torch.where(length(low) > eps, size.flatten(1).amax(1), low)
        if high.any():
            for _ in range(40):
                middle = (low + high) / 2
                fits = length(middle) <= eps
                low, high = torch.where(fits, low, middle), torch.where(fits, middle, high)
        shrunk = torch.minimum((size - per_image(high)).clamp_(min=0), room)
        return shrunk.mul_(delta.sign()).add_(clean).clamp_(0, 1)

    def random_start(self, clean: Tensor, eps: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        uniform = draw(torch.rand, clean, generators).sub_(0.5)
        laplace = -uniform.sign() * torch.log1p(-2 * uniform.abs().clamp_max(0.5 - 1e-7))
        share = torch.stack([torch.rand((), generator=g) for g in generators]).to(clean)
        length = eps * share ** (1 / clean[0].numel()) / self.distance(laplace)
        return laplace.mul_(per_image(length)).add_(clean).clamp_(0, 1)

    def step(self, points: Tensor, gradient: Tensor, size: Tensor) -> Tensor:
        """Steepest step inside the box: the values with the largest gradients move to the box's side, until
        ``size`` is used up (Croce & Hein, 2021, arXiv 2103.01208, section 3)."""
        flat = gradient.flatten(1)
        room = torch.where(gradient > 0, 1 - points, points).flatten(1)
        room = room.masked_fill(flat == 0, 0)
        order = flat.abs().argsort(dim=1, descending=True, stable=True)
        sorted_room = room.gather(1, order)
        before = sorted_room.double().cumsum(1).sub_(sorted_room)
        spent = torch.minimum(sorted_room, (size.unsqueeze(1) - before).clamp_(min=0).to(sorted_room))
        return torch.zeros_like(flat).scatter_(1, order, spent).mul_(flat.sign()).view_as(gradient)


THREATS = {"Linf": Linf(), "L2": L2(), "L1": L1()}
