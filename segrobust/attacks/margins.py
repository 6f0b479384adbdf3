"""Margins of the label's logit, their gradient, and the losses of the minimum-norm attacks by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from segrobust.attacks import fused
from segrobust.attacks.gradient import Engine
from segrobust.attacks.per_class import write
from segrobust.attacks.segmentation import Goal
from segrobust.attacks.weights import ce, masked
from segrobust.core.threats import per_image

FLOOR = 1e-8


class Margins(NamedTuple):
    """Per pixel, ``[N, H, W]``.

    margin: logit of the label minus the largest other one; targeted, minus that of the target. At its goal below 0.
    reached: bool, valid and at the goal, by the same rule as everywhere (a tie counts as right).
    normaliser: largest minus third largest logit (targeted: minus the mean of third and fourth), that of the
        difference-of-logits ratio (Croce & Hein, 2020, arXiv 2003.01690); 1 with fewer than 3 (4) classes or unasked.
    """

    margin: Tensor
    reached: Tensor
    normaliser: Tensor


def margin_gradient(
    engine: Engine, points: Tensor, slope: Callable[[Margins], Tensor], normaliser: bool = False
) -> tuple[Tensor, Margins]:
    """One forward and one backward of ``sum(slope * margin)`` over the valid pixels, ``slope`` taken as constant.

    Args:
        slope: from the margins at ``points`` to one factor per pixel, ``[N, H, W]``; called once.
        normaliser: also compute ``Margins.normaliser``, which costs two more passes over the logits.

    Returns:
        The input gradient ``[N, 3, H, W]``, which a minimum-norm attack descends, and the margins.
    """

    def logit_gradient(logits: Tensor) -> tuple[Tensor, Margins]:
        goal = engine.goal
        if not normaliser and (on_gpu := fused.functions(logits, goal.compiled)):
            margins, rival = _compared(*on_gpu.own_and_rival(logits, goal.labels), goal)
            return on_gpu.margin_ascent(logits, goal.labels, rival, factor(margins, logits)), margins
        planes = engine.memory(logits).copy_(logits)
        ranks = RANKS[goal.targeted] if normaliser else 1
        margins, rival = _margins(planes, goal, ranks)
        return _write_gradient(planes, goal, rival, factor(margins, logits)), margins

    def factor(margins: Margins, logits: Tensor) -> Tensor:
        factor = slope(margins).to(logits.dtype) * engine.goal.valid
        return -factor if engine.goal.targeted else factor

    return engine.backward(points, logit_gradient)


def measure_margins(engine: Engine, points: Tensor) -> Margins:
    """The margins at ``points`` from one forward without a gradient."""

    def read(logits: Tensor) -> Margins:
        if on_gpu := fused.functions(logits, engine.goal.compiled):
            return _compared(*on_gpu.own_and_rival(logits, engine.goal.labels), engine.goal)[0]
        return _margins(engine.memory(logits).copy_(logits), engine.goal, 1)[0]

    return engine.forward(points, read)


RANKS = {False: 3, True: 4}  # targeted or not: how many of the largest logits the normaliser takes


def _margins(planes: Tensor, goal: Goal, ranks: int) -> tuple[Margins, Tensor]:
    """Margins, and the largest other logit; the labels' own logits in ``planes`` are lost.

    Class by class, since topk over dim 1 takes a CPU several times as long.
    """
    labels = goal.labels.unsqueeze(1)
    own = planes.gather(1, labels).squeeze(1)
    planes.scatter_(1, labels, -math.inf)
    others = [planes.amax(1)] if ranks == 1 else _largest(planes, ranks)
    enough_classes = ranks > 1 and planes.shape[1] >= ranks
    return _compared(own, others[0], goal, _normaliser(own, others) if enough_classes else None)


def _compared(own: Tensor, rival: Tensor, goal: Goal, normaliser: Tensor | None = None) -> tuple[Margins, Tensor]:
    margin = own - rival
    reached = (margin >= 0 if goal.targeted else margin < 0) & goal.valid
    normaliser = torch.ones_like(margin) if normaliser is None else normaliser
    return Margins(-margin if goal.targeted else margin, reached, normaliser), rival


def _largest(planes: Tensor, ranks: int) -> list[Tensor]:
    """The largest, second largest, ... over dim 1, by insertion; fresh memory in every step would take four times as
    long on a CPU."""
    sorted_so_far = [torch.full_like(planes[:, 0], -math.inf) for _ in range(ranks)]
    moved = [torch.empty_like(planes[:, 0]) for _ in range(2)]
    for logit in planes.unbind(1):
        for rank, larger in enumerate(sorted_so_far):
            if rank + 1 < ranks:
                torch.minimum(larger, logit, out=moved[rank % 2])
            torch.maximum(larger, logit, out=larger)
            logit = moved[rank % 2]
    return sorted_so_far


def _normaliser(own: Tensor, others: list[Tensor]) -> Tensor:
    """The k-th largest of all logits lies between the k-th and the (k-1)-th largest of the others."""
    low = own.clamp(others[2], others[1])
    if len(others) == 4:
        low = (low + own.clamp(others[3], others[2])) / 2
    return torch.maximum(own, others[0]).sub_(low).clamp_min_(FLOOR)


def _write_gradient(planes: Tensor, goal: Goal, rival: Tensor, factor: Tensor) -> Tensor:
    """``factor (onehot(label) - onehot(rival))`` in place of the logits; equal rivals all take part."""
    for plane in planes.unbind(1):
        torch.eq(plane, rival, out=plane)
    planes.mul_(-factor.unsqueeze(1))
    return write(planes, goal.labels, factor)


def unreached(margins: Margins) -> Tensor:
    """Slope of the summed margins of the pixels that are not at their goal."""
    return ~margins.reached


CROSS_ENTROPIES = {"masked": masked, "ce": ce}
MARGIN_LOSSES = {  # by their slopes in the margins
    "margin": lambda margins: torch.ones_like(margins.margin),
    "hinge": unreached,
    "dlr": lambda margins: margins.normaliser.reciprocal(),  # Croce & Hein, 2020; the normaliser taken as constant
}


def loss_gradient(engine: Engine, points: Tensor, loss: str) -> tuple[Tensor, Tensor]:
    """Input gradient towards the goal, ``[N, 3, H, W]``, and the pixels that are there, ``[N, H, W]`` bool."""
    if loss in CROSS_ENTROPIES:
        measured = engine.gradient(points, CROSS_ENTROPIES[loss], 0.0)
        return measured.gradient, measured.reached
    gradient, margins = margin_gradient(engine, points, MARGIN_LOSSES[loss], normaliser=loss == "dlr")
    return -gradient, margins.reached


def normalised(gradient: Tensor) -> Tensor:
    """Of length 1 in L1."""
    return gradient / per_image(gradient.abs().flatten(1).sum(1).clamp_min(torch.finfo(gradient.dtype).tiny))


LARGEST_DERIVATIVE = 1e12  # penalty parameters have no bound there, and its squares must stay finite


def published_gradient(
    engine: Engine, points: Tensor, derivative: Callable[[Margins], Tensor], tolerance: float
) -> Tensor:
    """Input gradient ``[N, 3, H, W]`` of the penalties of ``(margin + tolerance) / normaliser``, in the code published
    with ALMA-prox (arXiv 2206.07179): through the normaliser too, which bends it away from the boundary.

    Args:
        derivative: of the penalties in the margins, ``[N, H, W]``, already over the normaliser.
    """
    goal = engine.goal
    sign, ranks = (-1.0 if goal.targeted else 1.0), RANKS[goal.targeted]

    def logit_gradient(logits: Tensor) -> tuple[Tensor, None]:
        planes, labels = engine.memory(logits).copy_(logits), goal.labels.unsqueeze(1)
        own = planes.gather(1, labels).squeeze(1)
        planes.scatter_(1, labels, -math.inf)
        others = _largest(planes, ranks) if planes.shape[1] >= ranks else [planes.amax(1)]
        margin = sign * (own - others[0])
        reached = (margin <= 0 if goal.targeted else margin < 0) & goal.valid
        normaliser = _normaliser(own, others) if len(others) > 1 else torch.ones_like(own)
        slope = derivative(Margins(margin, reached, normaliser)).clamp(max=LARGEST_DERIVATIVE).to(logits.dtype)
        slope = slope * goal.valid
        at_label, at_rival, places = sign * slope, -sign * slope, []
        if len(others) > 1:
            through = slope * (margin + tolerance) / normaliser
            at_label, at_rival, places = _through_normaliser(at_label, at_rival, own, others, through)
        places = [(others[0], at_rival), *places]
        _write_places(planes, places)
        return write(planes, goal.labels, at_label), None

    return engine.backward(points, logit_gradient)[0]


def _through_normaliser(
    at_label: Tensor, at_rival: Tensor, own: Tensor, others: list[Tensor], through: Tensor
) -> tuple[Tensor, Tensor, list[tuple[Tensor, Tensor]]]:
    """With the gradient of the normaliser: less at the largest of all logits, more at the third (and fourth) of them,
    which may be the label's, or another's: then a pair of that logit and its gradient."""
    is_label = torch.gt(own, others[0], out=torch.empty_like(own))  # as numbers: choosing by a mask is slow on a CPU
    of_label = through * is_label
    at_label, at_rival = at_label - of_label, at_rival - (through - of_label)
    share, places = through / (len(others) - 2), []
    for rank in range(2, len(others)):
        low = own.clamp(others[rank], others[rank - 1])
        of_label = torch.eq(low, own, out=is_label).mul(share)
        at_label.add_(of_label)
        places.append((low, share - of_label))
    return at_label, at_rival, places


def _write_places(planes: Tensor, places: list[tuple[Tensor, Tensor]]) -> None:
    """The gradient at these logits in place of the logits, 0 in place of the rest; equal logits all take part."""
    (largest, at_largest), *rest = places
    there = [torch.empty_like(planes[:, 0]) for _ in rest]
    for plane in planes.unbind(1):
        for (logit, _), found in zip(rest, there, strict=True):
            torch.eq(plane, logit, out=found)
        torch.eq(plane, largest, out=plane).mul_(at_largest)
        for (_, gradient), found in zip(rest, there, strict=True):
            plane.addcmul_(found, gradient)
