"""Bounded attacks as minimum-norm attacks: growing radii up to the first success, then bisection, per image.

An image goes on to its next radius as soon as it succeeds at one, and takes with it the points and the gradient that
were best so far, so that no gradient is computed without a step along it. As published (``warm_start=False``) there is
nothing but bisection, of radii that all get the same steps, from the clean image on.
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from segrobust.attacks.base import Problem
from segrobust.attacks.margins import loss_gradient, normalised
from segrobust.attacks.minimum_norm import Closest, MinNormAttack
from segrobust.attacks.optimise import STEP_SCHEDULES
from segrobust.attacks.registry import register_attack
from segrobust.core.threats import per_image

START_EPS = {"Linf": 0.25 / 255, "L2": 0.05}
GROWTH, GROWTH_STEPS = 2.0, 5  # factor on the radius up to the first success, and steps at each
REOPENED = 0.1  # a radius that was too small for one run may do for a later, warmer one
TIGHT = 0.025
HALVING = {"norm": "Linf", "start_eps": 1.0, "step_schedule": "constant", "loss": "ce", "warm_start": False}


@register_attack
class PGDBisection(MinNormAttack):
    """PGD (Madry et al., 2018, arXiv 1706.06083) with a search for the radius (protocol of arXiv 2206.07179).

    Args:
        inner_steps: gradients at one radius, at most; after that many it counts as too small. With warm_start they are
            5 up to the first success, where a radius that is too large costs little.
        loss: ``"ce"`` or ``"dlr"`` over all valid pixels, ``"masked"`` (cross-entropy) or ``"hinge"`` (margins) over
            those not at their goal.
        start_eps: first radius in image units; None: 0.25/255 (Linf), 0.05 (L2).
        relative_step: length of the first step at a radius, in radii.
        step_schedule: ``"linear"`` or ``"cosine"`` decay over the steps at a radius, or ``"constant"``.
        momentum: factor on the sum of the past gradients.
        warm_start: a new radius begins at the best points so far. False, as published: at the clean image; the radii
            halve an interval that begins as 0 to twice start_eps, by whether the points of a radius with the most
            pixels at their goal reach it. The closest of all such points is returned, where the published code returns
            those of the smallest radius or, without any, the clean image.
    """

    inner_steps: int = 10
    loss: str = "masked"
    start_eps: float | str | None = None
    relative_step: float = 0.25
    step_schedule: str = "linear"
    momentum: float = 0.0
    warm_start: bool = True

    norms: ClassVar[tuple[str, ...]] = tuple(START_EPS)
    paper: ClassVar[str] = "arXiv 1706.06083"
    published: ClassVar = {**HALVING, "steps": 520, "inner_steps": 40, "relative_step": 0.1 / 3}

    def __post_init__(self) -> None:
        super().__post_init__()
        self._whole(inner_steps=1)
        self._one_of(loss=("ce", "masked", "hinge", "dlr"), step_schedule=STEP_SCHEDULES)
        self._numbers("momentum", least=0)
        self._flags("warm_start")
        self._image_units("start_eps")
        self._numbers("relative_step", "start_eps", above=0)

    @property
    def first_eps(self) -> float:
        return START_EPS[self.norm] if self.start_eps is None else self.start_eps

    def search_passes(self) -> tuple[int, int]:
        return self.steps + self.warm_start, self.steps

    def search(self, problem: Problem, closest: Closest) -> None:
        if not self.warm_start:
            return halve(self, problem, closest)
        engine, points = problem.engine, problem.clean
        bracket = Bracket(self, problem)
        for _ in range(self.steps):
            gradient, reached = loss_gradient(engine, points, self.loss)
            success = closest.update(points, reached)
            points = bracket.next(points, gradient, engine.goal.share(reached), success, closest)
        closest.update(points, engine.measure(points).reached)


@register_attack
class MIFGSMBisection(PGDBisection):
    """MI-FGSM (Dong et al., 2018, arXiv 1710.06081) with a search for the radius (protocol of arXiv 2206.07179)."""

    momentum: float = 1.0

    paper: ClassVar[str] = "arXiv 1710.06081"
    published: ClassVar = {**HALVING, "steps": 260, "inner_steps": 20, "relative_step": 0.05, "momentum": 1.0}


class Bracket:
    """Per image the radius that was too small, the one that was enough, and the run at a radius between them."""

    def __init__(self, attack: PGDBisection, problem: Problem) -> None:
        clean = problem.clean
        self.attack, self.clean = attack, clean
        self.largest = attack.threat.distance(torch.ones_like(clean))
        self.low = torch.zeros_like(self.largest)
        self.high = torch.full_like(self.largest, math.inf)
        self.eps = torch.full_like(self.largest, attack.first_eps)
        self.taken = torch.zeros_like(self.largest)
        self.best_error = torch.full_like(self.largest, -1.0)
        self.best, self.best_gradient, self.momentum = clean, torch.zeros_like(clean), torch.zeros_like(clean)
        self.growing, self.halving = (self._shares(steps) for steps in (GROWTH_STEPS, attack.inner_steps))

    def _shares(self, steps: int) -> Tensor:
        """Length of each of so many steps at a radius, in radii."""
        schedule = STEP_SCHEDULES[self.attack.step_schedule]
        progress = (np.arange(steps, dtype=np.float32) / np.float32(steps)).tolist()
        return self.largest.new_tensor([self.attack.relative_step * schedule(share) for share in progress])

    def next(self, points: Tensor, gradient: Tensor, error: Tensor, success: Tensor, closest: Closest) -> Tensor:
        """The points after a step within the radius that is to be tried next."""
        better = ~success & (error >= self.best_error)
        self.best = torch.where(per_image(better), points, self.best)
        self.best_gradient = torch.where(per_image(better), gradient, self.best_gradient)
        self.best_error = torch.where(better, error, self.best_error)
        failed = ~success & (self.taken >= self._allowed())
        self._choose_radius(success, failed, closest.distance)
        points = torch.where(per_image(failed), self.best, points)
        gradient = torch.where(per_image(failed), self.best_gradient, gradient)
        self.taken = self.taken.masked_fill(success | failed, 0)
        points = self._move(points, gradient, success | failed)
        self.taken += 1
        return points

    def _allowed(self) -> Tensor:
        """Steps at the present radius."""
        few = torch.full_like(self.eps, GROWTH_STEPS)
        return few.masked_fill_(self.high.isfinite(), self.attack.inner_steps)

    def _choose_radius(self, success: Tensor, failed: Tensor, distance: Tensor) -> None:
        self.high = torch.where(success, distance, self.high)
        self.low = torch.where(failed, self.eps, self.low)
        tight = self.low > self.high * (1 - TIGHT)
        self.low = torch.where(tight & self.high.isfinite(), self.high * (1 - REOPENED), self.low)
        middle = (self.low + self.high) / 2
        grown = torch.minimum(self.eps * GROWTH, self.largest)
        new = torch.where(self.high.isfinite(), middle, grown)
        self.eps = torch.where(success | failed, new, self.eps)

    def _move(self, points: Tensor, gradient: Tensor, restarted: Tensor) -> Tensor:
        attack = self.attack
        if attack.momentum:
            past = self.momentum.masked_fill(per_image(restarted), 0)
            gradient = self.momentum = attack.momentum * past + normalised(gradient)
        growing, halving = (
            shares[self.taken.long().clamp_max(len(shares) - 1)] for shares in (self.growing, self.halving)
        )
        share = torch.where(self.high.isfinite(), halving, growing)
        step = attack.threat.step(points, gradient, self.eps * share)
        return attack.threat.project(points + step, self.clean, self.eps)


def halve(attack: PGDBisection, problem: Problem, closest: Closest) -> None:
    """Bisection of the radius: every one gets ``inner_steps`` gradients, from the clean images on."""
    low = torch.zeros_like(closest.distance)
    high = torch.full_like(low, 2 * attack.first_eps)
    for done in range(0, attack.steps, attack.inner_steps):
        eps = (low + high) / 2
        points, reached = _run(attack, problem, closest, eps, min(attack.inner_steps, attack.steps - done))
        success = closest.update(points, reached)
        low, high = torch.where(success, low, eps), torch.where(success, eps, high)


def _run(attack: PGDBisection, problem: Problem, closest: Closest, eps: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """The points with the most pixels at their goal on the way, which does not see where the last step leads."""
    engine, points, momentum = problem.engine, problem.clean, torch.zeros_like(problem.clean)
    best, best_reached = points, torch.zeros_like(engine.goal.valid)
    for step in range(steps):
        gradient, reached = loss_gradient(engine, points, attack.loss)
        if closest.before is None:
            closest.update(points, reached)
        better = engine.goal.share(reached) >= engine.goal.share(best_reached)
        best = torch.where(per_image(better), points, best)
        best_reached = torch.where(better.view(-1, 1, 1), reached, best_reached)
        if attack.momentum:
            gradient = momentum = attack.momentum * momentum + normalised(gradient)
        size = attack.relative_step * STEP_SCHEDULES[attack.step_schedule](step / attack.inner_steps)
        points = attack.threat.project(points + attack.threat.step(points, gradient, eps * size), problem.clean, eps)
    return best, best_reached
