"""Proximal steps of a norm with the box of valid images, in a diagonal metric.

    prox_linf(delta, metric, strength, low, high)   # argmin_p  1/2 sum metric (p - delta)^2 + strength ||p||_inf

All tensors are ``[N, 3, H, W]`` (``strength`` and ``cap`` ``[N]``), low <= 0 <= high are the box around the
clean image.
The proximal operator of ALMA-prox (Rony et al., 2023, arXiv 2206.07179) is the Linf one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from segrobust.core.threats import per_image

ROUNDS = 40
PRECISE, COARSELY = 1e-7, 1e-3  # of the largest change
COARSE = 16
DOUBLINGS = 130
TINY = 1e-12


def prox_linf(
    delta: Tensor, metric: Tensor, strength: Tensor, low: Tensor, high: Tensor, cap: Tensor | None = None
) -> Tensor:
    """The box-clipped change cut to one bound b per image, the solution of the dual problem.

    b solves ``sum over |clipped| > b of metric (|delta| - b) = strength``; the left side falls in b, so it is found by
    bisection, quickened by Newton's step wherever that stays inside the bracket.
    """
    clipped = torch.clamp(delta, low, high)
    images = zip((delta * metric).abs_(), clipped.abs(), metric, strength, strict=True)
    bound = torch.stack([_bound(*image) for image in images])
    if cap is not None:
        bound = torch.minimum(bound, cap)  # the objective is convex in the bound
    bound = per_image(bound)
    return torch.clamp(clipped, -bound, bound)


def _bound(weighted: Tensor, size: Tensor, metric: Tensor, strength: Tensor) -> Tensor:
    """That of one image; first of every 16th value, which is near that of all.

    Args:
        weighted, size: ``metric |delta|`` and ``|clipped|``.
    """
    largest = size.amax()
    if strength <= 0:
        return largest
    weighted, size, metric = weighted.flatten(), size.flatten(), metric.flatten()
    guess = largest / 2
    if len(size) >= 16 * COARSE:
        coarse = (part[::COARSE].contiguous() for part in (weighted, size, metric))
        guess = _root(*coarse, strength / COARSE, largest, guess, COARSELY)
    return _root(weighted, size, metric, strength, largest, guess, PRECISE)


def _root(
    weighted: Tensor, size: Tensor, metric: Tensor, strength: Tensor, high: Tensor, bound: Tensor, share: float
) -> Tensor:
    """Newton's steps inside a bracket that bisection narrows."""
    low, precise = torch.zeros_like(high), share * high
    beyond = torch.empty_like(size)
    for _ in range(ROUNDS):
        torch.gt(size, bound, out=beyond)
        weight = beyond @ metric
        excess = beyond @ weighted - bound * weight - strength
        low, high = (bound, high) if excess > 0 else (low, bound)
        step = excess / weight.clamp_min(torch.finfo(size.dtype).tiny)
        if high - low <= precise:
            return low
        if step.abs() <= precise:
            return bound
        newton = bound + step
        bound = newton if low < newton < high else (low + high) / 2
    return low


def prox_l1(
    delta: Tensor, metric: Tensor, strength: Tensor, low: Tensor, high: Tensor, cap: Tensor | None = None
) -> Tensor:
    """Soft threshold by ``strength / metric``, value by value, then the box; a cap raises it as far as it takes."""

    def shrink(by: Tensor) -> Tensor:
        return torch.clamp(delta.sign() * (delta.abs() - per_image(by) / metric).clamp_min_(0), low, high)

    if cap is not None:
        strength = _smallest(lambda by: shrink(by).abs().flatten(1).sum(1) <= cap, strength)
    return shrink(strength)


def prox_l2(
    delta: Tensor, metric: Tensor, strength: Tensor, low: Tensor, high: Tensor, cap: Tensor | None = None
) -> Tensor:
    """``metric delta / (metric + m)`` in the box with ``m = strength / length``, the length being the result's own.

    m times the length rises with m, up to the length of ``metric delta``: where the strength is above that, zero is
    the solution.
    """

    def shrink(multiplier: Tensor) -> Tensor:
        return torch.clamp(metric * delta / (metric + per_image(multiplier)), low, high)

    def length(multiplier: Tensor) -> Tensor:
        return shrink(multiplier).flatten(1).norm(dim=1)

    vanishes = (metric * delta).flatten(1).norm(dim=1) <= strength
    needed = torch.where(vanishes, 0, strength)
    multiplier = _smallest(lambda m: m * length(m) >= needed, torch.zeros_like(strength))
    if cap is not None:
        multiplier = _smallest(lambda m: length(m) <= cap, multiplier)
    return shrink(multiplier).masked_fill(per_image(vanishes), 0)


def _smallest(enough: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """The smallest value from ``start`` on that is ``enough`` (once it is, all larger ones are), ``[N]``."""
    low = high = start
    for _ in range(DOUBLINGS):
        missing = ~enough(high)
        if not missing.any():
            break
        low = torch.where(missing, high, low)
        high = torch.where(missing, torch.maximum(2 * high, high + TINY), high)
    for _ in range(ROUNDS):
        middle = (low + high) / 2
        fits = enough(middle)
        low, high = torch.where(fits, low, middle), torch.where(fits, middle, high)
    return high


PROXES = {"Linf": prox_linf, "L2": prox_l2, "L1": prox_l1}
