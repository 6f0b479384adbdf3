"""Threat models: the only place that knows a norm.

All functions work on batches ``[N, 3, H, W]`` in image units ([0, 1]) with one radius per image, and treat
every image on its own::

    threat = THREATS["L2"]
    start = threat.random_start(clean, eps, draws)
    points = threat.project(start + threat.step(start, gradient, size), clean, eps)
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from segrobust.core.draws import Draws

MIDDLES, TANGENTS = 5, 3  # rounds of the L2 projection
HALVINGS = 40  # of the L1 projection's bracket
UNITS = 2**36  # of fixed-point numbers: sums of up to 2**27 values in [0, 1] fit into int64


def per_image(value: Tensor) -> Tensor:
    """``[N]`` as ``[N, 1, 1, 1]``."""
    return value.view(-1, 1, 1, 1)


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

    def random_start(self, clean: Tensor, eps: Tensor, draws: Draws) -> Tensor:
        noise = draws.uniform(*clean.shape[1:]).to(clean.dtype).mul_(2).sub_(1)
        return noise.mul_(per_image(eps)).add_(clean).clamp_(0, 1)

    def step(self, points: Tensor, gradient: Tensor, size: Tensor) -> Tensor:
        return gradient.sign().mul_(per_image(size))


class L2:
    """Euclidean length over all channel values of the image."""

    def distance(self, delta: Tensor) -> Tensor:
        return delta.flatten(1).norm(dim=1)

    def project(self, points: Tensor, clean: Tensor, eps: Tensor) -> Tensor:
        """Nearest point of ball and box: ``clip(clean + t (points - clean))`` for the largest t that fits.

        The squared length, by the share t^2 of all squares, is a concave sum of ``min(share square, room^2)``: every
        tangent meets eps^2 at a share that fits, from whichever side. Rounds in the middle, by factors, of what is
        known to fit and what is too long pass values of all magnitudes; rounds from the best share that fits end the
        search at the exact one. A fixed number of them, so that nothing waits for the device.
        """
        delta = points - clean
        square, limit = delta.square(), eps.square()
        room = torch.where(delta > 0, 1 - clean, clean).square_()
        meets_at = room / square
        tiny = torch.finfo(delta.dtype).tiny
        share = (limit / square.flatten(1).sum(1).clamp_min(tiny)).clamp_max(1)
        longest, chosen, part = torch.ones_like(share), torch.empty_like(room), torch.empty_like(room)

        def total(values: Tensor, compare: Callable[..., Tensor], at: Tensor) -> Tensor:
            """Of those that meet the box before ``at``, or not, ``[N]``; fresh memory would cost as much again."""
            compare(meets_at, per_image(at), out=chosen)
            return torch.mul(values, chosen, out=part).flatten(1).sum(1)

        for round_ in range(MIDDLES + TANGENTS):
            at = (share * longest).sqrt() if round_ < MIDDLES else share
            used, slope = total(room, torch.lt, at), total(square, torch.ge, at)
            tangent = ((limit - used).clamp_min(0) / slope.clamp_min(tiny)).masked_fill(slope == 0, 0)
            too_long = used + slope * at > limit
            longest = torch.where(too_long, at, longest)
            share = torch.maximum(torch.where(too_long, share, at), tangent).minimum(longest)
        return (delta * per_image(share.sqrt())).add_(clean).clamp_(0, 1)

    def random_start(self, clean: Tensor, eps: Tensor, draws: Draws) -> Tensor:
        direction = draws.at(0).normal(*clean.shape[1:]).to(clean.dtype)
        share = draws.at(1).uniform().to(clean.dtype)
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
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            fits = length(middle) <= eps
            low, high = torch.where(fits, low, middle), torch.where(fits, middle, high)
        shrunk = torch.minimum((size - per_image(high)).clamp_(min=0), room)
        return shrunk.mul_(delta.sign()).add_(clean).clamp_(0, 1)

    def random_start(self, clean: Tensor, eps: Tensor, draws: Draws) -> Tensor:
        laplace = draws.at(0).laplace(*clean.shape[1:]).to(clean.dtype)
        share = draws.at(1).uniform().to(clean.dtype)
        length = eps * share ** (1 / clean[0].numel()) / self.distance(laplace)
        return laplace.mul_(per_image(length)).add_(clean).clamp_(0, 1)

    def step(self, points: Tensor, gradient: Tensor, size: Tensor) -> Tensor:
        """Steepest step inside the box: the values with the largest gradients move to the box's side, until
        ``size`` is used up (Croce & Hein, 2021, arXiv 2103.01208, section 3). What is used up is summed in fixed point:
        a running sum of floats depends, on a GPU, on the order in which its parts come."""
        flat = gradient.flatten(1)
        room = torch.where(gradient > 0, 1 - points, points).flatten(1)
        room = room.masked_fill(flat == 0, 0)
        order = flat.abs().argsort(dim=1, descending=True, stable=True)
        sorted_room = room.gather(1, order)
        fixed = (sorted_room.double() * UNITS).round_().long()
        before = (fixed.cumsum(1) - fixed).double().div_(UNITS)
        spent = torch.minimum(sorted_room, (size.unsqueeze(1) - before).clamp_(min=0).to(sorted_room))
        return _in_order(spent, order).mul_(flat.sign()).view_as(gradient)


def _in_order(values: Tensor, order: Tensor) -> Tensor:
    """Sorted values ``[N, M]`` in their places before, ``order``; on a GPU a deterministic scatter waits for it."""
    if values.is_cuda:
        return _in_order_gathered(values, order)
    return torch.zeros_like(values).scatter_(1, order, values)


def _in_order_gathered(values: Tensor, order: Tensor) -> Tensor:
    return values.gather(1, order.argsort(1))


THREATS = {"Linf": Linf(), "L2": L2(), "L1": L1()}
