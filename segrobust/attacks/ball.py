"""A bounded search whose radius follows its own success: it grows until the goal is reached, then shrinks.

Every image has its own radius. Before its first success it grows by trials of a few steps, the faster the further the
image is from its goal; afterwards every success makes it tighter and every failure wider, by less and less.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from segrobust.attacks.base import Problem
from segrobust.attacks.margins import Margins, margin_gradient, normalised
from segrobust.attacks.minimum_norm import Closest, MinNormAttack
from segrobust.attacks.weights import Pixels, cosine, tsallis
from segrobust.core.threats import THREATS, per_image

LEAST_GROWTH, MOST_GROWTH = 1.1, 1.8  # of the radius of an image at its goal, and of one as far away as ever
TRIAL = 4
CHANGES = 0.08, 0.002  # of the radius after the first success, from the first to the last step of the search
NEARLY = 0.2  # of the mean margin: pixels at their goal by less count too


class Moves(NamedTuple):
    """How a norm's search moves; step sizes are shares of the radius, in ``geometry``, along a change that fills the
    ball evenly.

    in_trial: step size in the first and towards the last step of a trial.
    following: step size after the first success, from the first to the last step of the search.
    momentum: share of the direction that is kept.
    margins_from: progress at which margins take the place of Tsallis cross-entropy.
    """

    first_radius: float
    geometry: str
    in_trial: tuple[float, float]
    following: tuple[float, float]
    momentum: float
    margins_from: float


MOVES = {
    "Linf": Moves(0.5 / 255, "Linf", (0.3, 0.05), (0.35, 0.01), 0.75, 0.3),
    "L2": Moves(0.25, "L2", (0.3, 0.05), (0.2, 0.003), 0.0, 0.0),
    "L1": Moves(25.0, "L2", (1.0, 0.2), (0.7, 0.01), 0.0, 0.0),  # a steepest step in L1 would change one value alone
}


class BallSearch:
    """The search on one batch; ``run`` may be called again and goes on from what is closest by then.

    Args:
        steps: gradients in all calls of ``run`` together.
    """

    def __init__(self, attack: MinNormAttack, problem: Problem, closest: Closest, steps: int) -> None:
        clean = problem.clean
        self.threat, self.engine, self.closest, self.clean = attack.threat, problem.engine, closest, clean
        self.steps, self.done = steps, 0
        self.points, self.direction = clean, torch.zeros_like(clean)
        self.moves = MOVES[attack.norm]
        self.geometry = THREATS[self.moves.geometry]
        even = torch.ones_like(clean)
        self.length = self.geometry.distance(even) / self.threat.distance(even)
        self.radius = closest.distance.new_full((len(clean),), self.moves.first_radius)
        self.tried = torch.zeros(len(clean), dtype=torch.long, device=clean.device)

    def run(self, steps: int) -> None:
        """Spend ``steps`` gradients."""
        self.points = torch.where(per_image(self.closest.found), self.closest.points, self.points)
        self.radius = torch.where(self.closest.found, self.closest.distance, self.radius)
        for _ in range(steps):
            progress = self.done / self.steps
            self.done += 1
            gradient, reached = self._ascent(progress)
            succeeds = self.closest.update(self.points, reached)
            self._resize(succeeds, self.engine.goal.share(reached), cosine(*CHANGES, progress))
            self._move(gradient, cosine(*self.moves.following, progress))

    def _ascent(self, progress: float) -> tuple[Tensor, Tensor]:
        """Gradient that ascends the loss, and the pixels at their goal."""
        if progress < self.moves.margins_from:
            measured = self.engine.gradient(self.points, _tsallis, progress)
            return measured.gradient, measured.reached
        gradient, margins = margin_gradient(self.engine, self.points, self._slope)
        return gradient.neg_(), margins.reached

    def _slope(self, margins: Margins) -> Tensor:
        """Of log(mean + margin) where the goal is not reached, with the mean over such pixels: the hopeless ones, which
        need not be reached at all, count little."""
        margin = margins.margin.clamp_min(0)
        missing = self.engine.goal.valid & ~margins.reached
        mean = (margin * missing).flatten(1).sum(1) / missing.flatten(1).sum(1).clamp_min(1)
        mean = mean.clamp_min(torch.finfo(margin.dtype).tiny).view(-1, 1, 1)
        return (margins.margin > -NEARLY * mean) / (1 + margin / mean)

    def _resize(self, succeeds: Tensor, error: Tensor, change: float) -> None:
        self.tried += 1
        spent = self.tried >= TRIAL
        self.tried = self.tried.masked_fill(spent, 0)
        growing = torch.where(spent, self.radius * self._growth(error), self.radius)
        distance = self.threat.distance(self.points - self.clean)
        shrunk = torch.minimum(self.radius, distance) * (1 - change)
        widened = torch.minimum(self.radius * (1 + change), self.closest.distance * (1 - CHANGES[1] / 2))
        following = torch.where(succeeds, shrunk, widened)
        self.radius = torch.where(self.closest.found, following, growing)

    def _growth(self, error: Tensor) -> Tensor:
        at_first = self.engine.goal.share(self.closest.before)
        missing = (self.closest.required - error) / (self.closest.required - at_first).clamp_min(1e-6)
        return LEAST_GROWTH + (MOST_GROWTH - LEAST_GROWTH) * missing.clamp(0, 1)

    def _move(self, gradient: Tensor, move: float) -> None:
        self.direction = self.direction.mul_(self.moves.momentum).add_(normalised(gradient))
        first, last = self.moves.in_trial
        in_trial = first + (last - first) * self.tried / TRIAL
        size = self.radius * torch.where(self.closest.found, move, in_trial)
        points = self.threat.project(self.points, self.clean, self.radius)
        points = points + self.geometry.step(points, self.direction, size * self.length)
        self.points = self.threat.project(points, self.clean, self.radius)


def _tsallis(pixels: Pixels) -> Tensor:
    return tsallis(pixels, 0.0)
