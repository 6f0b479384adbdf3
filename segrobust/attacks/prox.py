"""Proximal steps of a norm with the box of valid images, in a diagonal metric.

    prox_linf(delta, metric, strength, low, high)   # argmin_p  1/2 sum metric (p - delta)^2 + strength ||p||_inf

All tensors are ``[N, 3, H, W]`` (``strength`` and ``cap`` ``[N]``), low <= 0 <= high are the box around the
clean image. The proximal operator of ALMA-prox (Rony et al., 2023, arXiv 2206.07179) is the Linf one.
Every search has a fixed number of rounds and looks at no value on the host, so that a GPU never waits.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

from segrobust.core.threats import per_image

GROUP, GROUP_ROUNDS, ROUNDS = 16, 5, 5
FEW, ROUNDS_OF_FEW = 4096, 32  # values of an image
BISECTIONS = 34
SHARE = 1e-20  # of a bracket's upper end, instead of 0 as its lower one
LARGEST = 1e30


def prox_linf(
    delta: Tensor, metric: Tensor, strength: Tensor, low: Tensor, high: Tensor, cap: Tensor | None = None
) -> Tensor:
    """The box-clipped change cut to one bound b per image, the solution of the dual problem.

    b solves ``sum over |clipped| > b of metric (|delta| - b) = strength``; the left side falls in b. Where values that
    are clipped make it jump at b, in large images b may be 1/16 of the largest change off; else it is exact to 1e-6.
    """
    clipped = torch.clamp(delta, low, high)
    # on a CPU large images come one by one: what is read several times stays in its cache
    images = 1 if delta.device.type == "cpu" and delta.shape[1:].numel() >= FEW else len(delta)
    batches = zip(*(values.split(images) for values in (delta, clipped, metric, strength)), strict=True)
    bound = torch.cat([_bound(*batch) for batch in batches])
    if cap is not None:
        bound = torch.minimum(bound, cap)  # the objective is convex in the bound
    bound = per_image(bound)
    return torch.minimum(torch.maximum(clipped, -bound, out=clipped), bound, out=clipped)


def _bound(delta: Tensor, clipped: Tensor, metric: Tensor, strength: Tensor) -> Tensor:
    """``[N]``; that of the largest of every 16 values alone is lower, and nearly the same: few are beyond it."""
    values = delta.abs().flatten(1), clipped.abs().flatten(1), metric.flatten(1)
    largest, strength = values[1].amax(1, keepdim=True), strength.unsqueeze(1)
    if metric.shape[1:].numel() < FEW:
        bound = _root(*values, strength, torch.zeros_like(largest), largest, ROUNDS_OF_FEW)
    else:
        wanted, size, weight = groups = _groups(*values)
        least = torch.minimum(size, wanted - strength / weight).amax(1, keepdim=True).clamp_min_(0)
        least = _root(*groups, strength, least, largest, GROUP_ROUNDS)
        bound = _root(*values, strength, least, largest, ROUNDS)
    return torch.where(strength > 0, bound, largest).squeeze(1)


def _groups(wanted: Tensor, size: Tensor, metric: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The largest of every 16 values, ``[N, M / 16]``, equal ones together."""
    if short := -size.shape[1] % GROUP:
        wanted, size, metric = (pad(values, (0, short)) for values in (wanted, size, metric))
    wanted, size, metric = (values.unflatten(1, (GROUP, -1)) for values in (wanted, size, metric))
    of_group = size.amax(1)
    chosen = torch.eq(size, of_group.unsqueeze(1), out=torch.empty_like(size)).mul_(metric)
    weight = chosen.sum(1)
    return chosen.mul_(wanted).sum(1) / weight, of_group, weight


def _root(
    wanted: Tensor, size: Tensor, metric: Tensor, strength: Tensor, low: Tensor, high: Tensor, rounds: int
) -> Tensor:
    """Newton's steps from ``low`` on, ``[N, 1]``, none beyond the middle of the bracket that they narrow.

    Args:
        wanted, size: ``|delta|`` and ``|clipped|``, ``[N, M]``.
    """
    bound, beyond, tiny = low, torch.empty_like(size), torch.finfo(size.dtype).tiny
    for _ in range(rounds):
        weight = torch.gt(size, bound, out=beyond).mul_(metric).sum(1, keepdim=True)
        weighted = beyond.mul_(wanted).sum(1, keepdim=True)
        newton = (weighted - strength) / weight.clamp_min_(tiny)
        rises = newton > bound
        low, high = torch.where(rises, bound, low), torch.where(rises, high, bound)
        middle = torch.lerp(low, high, 0.5)
        bound = torch.where(rises, torch.minimum(newton, middle), torch.maximum(newton, middle))
    return bound


def prox_l1(
    delta: Tensor, metric: Tensor, strength: Tensor, low: Tensor, high: Tensor, cap: Tensor | None = None
) -> Tensor:
    """Soft threshold by ``strength / metric``, value by value, then the box; a cap raises it as far as it takes."""
    size = delta.abs()
    if cap is not None:
        room, inverse = torch.where(delta > 0, high, -low), metric.reciprocal()

        def fits(by: Tensor) -> Tensor:
            shrunk = torch.addcmul(size, inverse, per_image(by), value=-1).clamp_min_(0)
            return torch.minimum(shrunk, room, out=shrunk).flatten(1).sum(1) <= cap

        strength = _smallest(fits, strength, (size * metric).flatten(1).amax(1))
    return torch.clamp(size.sub_(per_image(strength) / metric).clamp_min_(0).mul_(delta.sign()), low, high)


def prox_l2(
    delta: Tensor, metric: Tensor, strength: Tensor, low: Tensor, high: Tensor, cap: Tensor | None = None
) -> Tensor:
    """``metric delta / (metric + m)`` in the box with ``m = strength / length``, the length being the result's own.

    m times the length rises with m, up to the length of ``metric delta`` where the box leaves room: where the strength
    is above that, zero is the solution.
    """
    weighted = metric * delta

    def shrink(multiplier: Tensor) -> Tensor:
        return torch.clamp(weighted / (metric + per_image(multiplier)), low, high)

    def length(multiplier: Tensor) -> Tensor:
        return shrink(multiplier).flatten(1).norm(dim=1)

    clipped, tiny = torch.clamp(delta, low, high), torch.finfo(delta.dtype).tiny
    pull = weighted.masked_fill(clipped == 0, 0)
    most = pull.flatten(1).norm(dim=1)
    vanishes = most <= strength
    needed = torch.where(vanishes, 0, strength)
    least = needed / clipped.flatten(1).norm(dim=1).clamp_min_(tiny)
    # from the first on no value is clipped, and where none is, the second makes the length suffice
    inside = (pull / clipped - metric).masked_fill_(clipped == 0, 0).flatten(1).amax(1)
    suffices = strength * metric.flatten(1).amax(1) / (most - strength).clamp_min_(tiny)
    multiplier = _smallest(lambda m: m * length(m) >= needed, least, torch.maximum(inside, suffices))
    if cap is not None:
        multiplier = _smallest(lambda m: length(m) <= cap, multiplier, most / cap)
    return shrink(multiplier).masked_fill(per_image(vanishes), 0)


def _smallest(enough: Callable[[Tensor], Tensor], start: Tensor, high: Tensor) -> Tensor:
    """The smallest value from ``start`` on that is ``enough`` (once it is, all larger ones are), ``[N]``.

    Args:
        high: one that is enough; the bisection between the two is one of logarithms.
    """
    high = torch.maximum(start, high).clamp_max(LARGEST)
    low = torch.where(start > 0, start, high * SHARE)
    for _ in range(BISECTIONS):
        middle = low.sqrt() * high.sqrt()
        fits = enough(middle)
        low, high = torch.where(fits, low, middle), torch.where(fits, middle, high)
    return torch.where(enough(start), start, high)


PROXES = {"Linf": prox_linf, "L2": prox_l2, "L1": prox_l1}
