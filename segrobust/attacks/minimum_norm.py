"""What every minimum-norm attack promises: the smallest change that takes ``apsr`` of an image's pixels to the goal.

attack = ALMAProx(steps=500)
result = attack(model, images, labels)
result.distance[result.found]       # norms in image units; an image that is not found counts as inf in a median
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from segrobust.attacks.base import Answer, Attack, AttackResult, Candidate, Problem
from segrobust.errors import UserError
from segrobust.threats import per_image

FINAL_FORWARDS = 2  # of the returned image, in float32: as it is, and rounded to 8 bits


@dataclass(frozen=True, kw_only=True)
class MinNormAttack(Attack):
    """Base of the minimum-norm attacks; a subclass implements ``search``.

    Args:
        apsr: attack pixel success rate to reach: share of the valid pixels that are wrong or, targeted, at the target.
    """

    apsr: float = 0.99
    minimum_norm: ClassVar[bool] = True
    rounds: ClassVar[bool] = True  # whether the result's norm after rounding to 8 bits is measured too

    def __post_init__(self) -> None:
        super().__post_init__()
        self._numbers("apsr")
        if not 0 < self.apsr <= 1:
            raise UserError(f"{self.name}: expected 0 < apsr <= 1, got {self.apsr}")

    def required(self, clean_error: Tensor) -> Tensor:
        """Share of pixels at the goal that an image must reach, ``[N]``, from that of the clean image."""
        return torch.full_like(clean_error, self.apsr)

    def search(self, problem: Problem, closest: Closest) -> None:
        """Offer everything that was measured to ``closest``, the clean images first."""
        raise NotImplementedError

    def run(self, problem: Problem) -> Answer:
        closest = Closest(self, problem)
        self.search(problem, closest)
        return closest.answer()

    def report(self, answer: Answer, problem: Problem) -> AttackResult:
        """Measure what is returned once more, in float32; that measurement counts, not the attack's books."""
        points, _, candidates, before = answer
        engine, clean = problem.engine, problem.clean
        distance = self._check_images(points, clean, math.inf)
        for candidate in candidates:
            self._check_images(candidate.images, clean, candidate.eps)
        judged = engine.goal.pixels > 0
        required = self.required(engine.share(before))
        with torch.autocast(points.device.type, enabled=False):
            after = engine.measure(points)
            distance_8bit = None
            if self.rounds:
                rounded = (points * 255).round() / 255
                lost = (engine.measure(rounded).error < required) | ~judged
                distance_8bit = self.threat.distance(rounded - clean).masked_fill(lost, math.inf)
        attacked = (engine.goal.valid & ~before).flatten(1)
        of_correct = (attacked & after.reached.flatten(1)).sum(1) / attacked.sum(1).clamp_min(1)
        return AttackResult(
            points,
            distance,
            (after.error >= required) & judged,
            after.error.masked_fill(~judged, 0),
            engine.forwards,
            engine.backwards,
            candidates,
            of_correct,
            distance_8bit,
        )


class Closest:
    """Per image the closest points at the goal; until one is known, those with the most pixels there.

    Also, per budget, the points with the most pixels at the goal within it. The first points offered are the clean
    images: they say which pixels are at the goal from the beginning, and what is required.
    """

    def __init__(self, attack: MinNormAttack, problem: Problem) -> None:
        clean = problem.clean
        self.attack, self.engine, self.clean = attack, problem.engine, clean
        self.points = clean
        self.distance = clean.new_full((len(clean),), math.inf)
        self.error = clean.new_full((len(clean),), -1.0)
        self.found = torch.zeros(len(clean), dtype=torch.bool, device=clean.device)
        self.budgets = [Candidate("", eps, clean) for eps in problem.budgets]
        self._budget_errors = [self.error for _ in problem.budgets]
        self.before: Tensor | None = None
        self.required = self.error

    def offer(self, points: Tensor, reached: Tensor) -> Tensor:
        """Take the points that are at least as good; returns which images are at their goal, ``[N]`` bool.

        Args:
            points: ``[N, 3, H, W]`` in [0, 1].
            reached: ``[N, H, W]`` bool, the valid pixels that are at their goal there.
        """
        error = self.engine.share(reached)
        if self.before is None:
            self.before, self.required = reached, self.attack.required(error)
        distance = self.attack.threat.distance(points - self.clean)
        succeeds = error >= self.required
        better = torch.where(succeeds, ~self.found | (distance <= self.distance), ~self.found & (error >= self.error))
        self.points = torch.where(per_image(better), points, self.points)
        self.distance = torch.where(better, distance, self.distance)
        self.error = torch.where(better, error, self.error)
        self.found = self.found | succeeds
        for n, (budget, best) in enumerate(zip(self.budgets, self._budget_errors, strict=True)):
            better = (distance <= budget.eps) & (error >= best)
            self.budgets[n] = Candidate("", budget.eps, torch.where(per_image(better), points, budget.images))
            self._budget_errors[n] = torch.where(better, error, best)
        return succeeds

    def answer(self) -> Answer:
        return Answer(self.points, self.error, tuple(self.budgets), self.before)
