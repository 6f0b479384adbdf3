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

from segrobust.attacks.base import Answer, Attack, AttackResult, Candidate, Problem, passes_per_image
from segrobust.attacks.gradient import Measurement
from segrobust.errors import UserError
from segrobust.threats import per_image


@dataclass(frozen=True, kw_only=True)
class MinNormAttack(Attack):
    """Base of the minimum-norm attacks.

    Args:
        apsr: attack pixel success rate to reach: share of the valid pixels that are wrong or, targeted, at the target.
    """

    apsr: float = 0.99
    minimum_norm: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._numbers("apsr")
        if not 0 < self.apsr <= 1:
            raise UserError(f"{self.name}: expected 0 < apsr <= 1, got {self.apsr}")

    def report(self, answer: Answer, problem: Problem) -> AttackResult:
        """Measure what is returned once more, in float32; that measurement counts, not the attack's books."""
        points, _, candidates = answer
        distance = self._check_images(points, problem.clean, math.inf)
        for candidate in candidates:
            self._check_images(candidate.images, problem.clean, candidate.eps)
        engine = problem.engine
        with torch.autocast(points.device.type, enabled=False):
            before, after = engine.measure(problem.clean), engine.measure(points)
            rounded = (points * 255).round() / 255
            loses = engine.measure(rounded).error < self.apsr
        judged = engine.goal.pixels > 0
        passes = passes_per_image(engine, len(points), points.device)
        return AttackResult(
            points,
            distance,
            (after.error >= self.apsr) & judged,
            after.error.masked_fill(~judged, 0),
            *passes,
            candidates,
            _error_of_correct(before, after, engine.goal.valid),
            self.threat.distance(rounded - problem.clean).masked_fill(loses | ~judged, math.inf),
        )


def _error_of_correct(before: Measurement, after: Measurement, valid: Tensor) -> Tensor:
    attacked = (valid & ~before.reached).flatten(1)
    return (attacked & after.reached.flatten(1)).sum(1) / attacked.sum(1).clamp_min(1)


class Closest:
    """Per image the closest points at the goal; until one is known, those with the most pixels there.

    Also, per budget, the points with the most pixels at the goal within it.
    """

    def __init__(self, attack: MinNormAttack, problem: Problem) -> None:
        clean = problem.clean
        self.attack, self.clean = attack, clean
        self.points = clean
        self.distance = clean.new_full((len(clean),), math.inf)
        self.error = clean.new_full((len(clean),), -1.0)
        self.found = torch.zeros(len(clean), dtype=torch.bool, device=clean.device)
        self.budgets = [Candidate("", eps, clean) for eps in problem.budgets]
        self._budget_errors = [self.error for _ in problem.budgets]

    def offer(self, points: Tensor, error: Tensor) -> Tensor:
        """Take the points that are at least as good; returns which are at the goal, ``[N]`` bool.

        Args:
            points: ``[N, 3, H, W]`` in [0, 1].
            error: ``[N]``, the share of the pixels at the goal there.
        """
        distance = self.attack.threat.distance(points - self.clean)
        reached = error >= self.attack.apsr
        better = torch.where(reached, ~self.found | (distance <= self.distance), ~self.found & (error >= self.error))
        self.points = torch.where(per_image(better), points, self.points)
        self.distance = torch.where(better, distance, self.distance)
        self.error = torch.where(better, error, self.error)
        self.found = self.found | reached
        for n, (budget, best) in enumerate(zip(self.budgets, self._budget_errors, strict=True)):
            better = (distance <= budget.eps) & (error >= best)
            self.budgets[n] = Candidate("", budget.eps, torch.where(per_image(better), points, budget.images))
            self._budget_errors[n] = torch.where(better, error, best)
        return reached

    def answer(self) -> Answer:
        return Answer(self.points, self.error, tuple(self.budgets))
