"""A bounded search whose radius follows its own success: it grows until the goal is reached, then shrinks.

Every image has its own radius and its own trials: a success within the radius makes the next trial tighter, a trial
without one makes it wider (before anything was found) or the next attempt at shrinking more modest (afterwards).
"""

from __future__ import annotations

import torch
from torch import Tensor

from segrobust.attacks.base import Problem
from segrobust.attacks.minimum_norm import Closest, MinNormAttack
from segrobust.attacks.weights import Pixels, tsallis
from segrobust.threats import per_image

FIRST_RADIUS = {"Linf": 0.5 / 255, "L2": 0.25, "L1": 25.0}
LEAST_GROWTH, MOST_GROWTH = 1.1, 1.8  # of the radius of an image at its goal, and of one as far away as ever
FIRST_SHRINK, STRONGEST_SHRINK, WEAKEST_SHRINK = 0.9, 0.7, 0.99
TRIAL = 4
FIRST_MOVE, LAST_MOVE = 0.3, 0.05  # step size over radius in a trial


class BallSearch:
    """The search on one batch; ``run`` may be called again and goes on from what is closest by then."""

    def __init__(self, attack: MinNormAttack, problem: Problem, closest: Closest) -> None:
        clean = problem.clean
        self.threat, self.engine, self.closest, self.clean = attack.threat, problem.engine, closest, clean
        self.points = clean
        self.radius = closest.distance.new_full((len(clean),), FIRST_RADIUS[attack.norm])
        self.shrink = torch.full_like(self.radius, FIRST_SHRINK)
        self.tried = torch.zeros(len(clean), dtype=torch.long, device=clean.device)

    def run(self, steps: int) -> None:
        """Spend ``steps`` gradients."""
        if steps and self.closest.found.any():
            self._aim(self.closest.found)
        for _ in range(steps):
            measured = self.engine.gradient(self.points, self.weight, 0.0, self.sharpness)
            succeeds = self.closest.offer(self.points, measured.reached)
            self._judge(succeeds, measured.error)
            self._move(measured.gradient)

    sharpness = 1.0

    def weight(self, pixels: Pixels) -> Tensor:
        return tsallis(pixels, 0.0)

    def _judge(self, succeeds: Tensor, error: Tensor) -> None:
        """Begin new trials where one succeeded or is used up."""
        self.tried += 1
        better = succeeds & (self.threat.distance(self.points - self.clean) <= self.closest.distance)
        spent = (self.tried >= TRIAL) & ~better
        self.shrink = torch.where(better, self.shrink.square().clamp_min(STRONGEST_SHRINK), self.shrink)
        failed = spent & self.closest.found
        self.shrink = torch.where(failed, self.shrink.sqrt().clamp_max(WEAKEST_SHRINK), self.shrink)
        grows = spent & ~self.closest.found
        self.radius = torch.where(grows, self.radius * self._growth(error), self.radius)
        self.tried = self.tried.masked_fill(grows, 0)
        self._aim(better | failed)

    def _growth(self, error: Tensor) -> Tensor:
        at_first = self.engine.share(self.closest.before)
        missing = (self.closest.required - error) / (self.closest.required - at_first).clamp_min(1e-6)
        return LEAST_GROWTH + (MOST_GROWTH - LEAST_GROWTH) * missing.clamp(0, 1)

    def _aim(self, images: Tensor) -> None:
        """Let these images' next trial start from their closest points, at a smaller radius."""
        radius = self.shrink * self.closest.distance
        self.radius = torch.where(images, radius, self.radius)
        self.points = torch.where(per_image(images), self.closest.points, self.points)
        self.tried = self.tried.masked_fill(images, 0)

    def _move(self, gradient: Tensor) -> None:
        part = self.tried / TRIAL
        size = self.radius * (FIRST_MOVE + (LAST_MOVE - FIRST_MOVE) * part)
        points = self.threat.project(self.points, self.clean, self.radius)
        points = points + self.threat.step(points, gradient, size)
        self.points = self.threat.project(points, self.clean, self.radius)
