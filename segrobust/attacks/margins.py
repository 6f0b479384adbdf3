"""Margins of the label's logit, and their gradient: what the minimum-norm attacks follow instead of cross-entropy.

    def slope(margins):                         # of the loss in each pixel's gap, [N, H, W]
        return margins.gap > 0                  # hinge: only pixels that are not at their goal
    gradient, margins = pull_margins(engine, points, slope)     # descend it
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from segrobust.attacks.gradient import Engine, Goal

FLOOR = 1e-8


class Margins(NamedTuple):
    """Per pixel, ``[N, H, W]``.

    gap: logit of the label minus the largest other one; targeted, minus that of the target. At its goal below 0.
    reached: bool, valid and at the goal, by the same rule as everywhere (a tie counts as right).
    spread: largest minus third largest logit (targeted: minus the mean of third and fourth), the normaliser of the
        difference-of-logits ratio (Croce & Hein, 2020, arXiv 2003.01690); 1 with fewer than 3 (4) classes or unasked.
    """

    gap: Tensor
    reached: Tensor
    spread: Tensor


def pull_margins(
    engine: Engine, points: Tensor, slope: Callable[[Margins], Tensor], spread: bool = False
) -> tuple[Tensor, Margins]:
    """One forward and one backward of ``sum(slope * gap)`` over the valid pixels, ``slope`` taken as constant.

    Args:
        slope: from the margins at ``points`` to one factor per pixel, ``[N, H, W]``; called once.
        spread: also compute ``Margins.spread``, which costs two more passes over the logits.

    Returns:
        The input gradient ``[N, 3, H, W]``, which a minimum-norm attack descends, and the margins.
    """

    def logit_gradient(logits: Tensor) -> tuple[Tensor, Margins]:
        goal = engine.goal
        others = engine.memory(logits).copy_(logits)
        margins, is_rival = _margins(others, goal, spread)
        factor = slope(margins).to(logits.dtype) * goal.valid
        if goal.targeted:
            factor = -factor
        ascent = torch.mul(is_rival, -factor.unsqueeze(1), out=others)
        return ascent.scatter_(1, goal.labels.unsqueeze(1), factor.unsqueeze(1)), margins

    return engine.pull(points, logit_gradient)


def _margins(others: Tensor, goal: Goal, spread: bool) -> tuple[Margins, Tensor]:
    """Margins, and where the largest other logit is; ``others`` holds the logits and is overwritten.

    By equality with maxima: indices over dim 1 cost a CPU many times as much. Equal rivals all take part.
    """
    labels = goal.labels.unsqueeze(1)
    own = others.gather(1, labels).squeeze(1)
    others.scatter_(1, labels, -math.inf)
    rival = others.amax(1)
    is_rival = others == rival.unsqueeze(1)
    gap = own - rival
    needed = 4 if goal.targeted else 3
    if spread and others.shape[1] >= needed:
        width = _spread(others, is_rival, own, rival, goal.targeted)
    else:
        width = torch.ones_like(gap)
    reached = (gap >= 0 if goal.targeted else gap < 0) & goal.valid
    return Margins(-gap if goal.targeted else gap, reached, width), is_rival


def _spread(others: Tensor, is_rival: Tensor, own: Tensor, rival: Tensor, targeted: bool) -> Tensor:
    """The k-th largest of all logits lies between the k-th and the (k-1)-th largest of the others."""
    ranked = [rival]
    places = is_rival
    for _ in range(3 if targeted else 2):
        others.masked_fill_(places, -math.inf)
        ranked.append(others.amax(1))
        places = others == ranked[-1].unsqueeze(1)
    low = own.clamp(ranked[2], ranked[1])
    if targeted:
        low = (low + own.clamp(ranked[3], ranked[2])) / 2
    return (torch.maximum(own, rival) - low).clamp_min_(FLOOR)
