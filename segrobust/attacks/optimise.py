"""Optimisers of the PGD family, as loops over the gradient engine; every image goes its own way.

A *stage* is one run at one radius. It returns the two points that a later stage may start from.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from segrobust.attacks.base import Problem
from segrobust.attacks.gradient import Measurement
from segrobust.core.threats import per_image

Gradient = Callable[[Tensor, int], Measurement]

STEP_SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "linear": lambda progress: 1 - progress,
    "cosine": lambda progress: (1 + math.cos(math.pi * progress)) / 2,
}


class BestIterate:
    """The points with the highest score so far, per image; of equal scores the latest.

    score: ``[N]``, of the first points; None: below every share of pixels.
    """

    def __init__(self, points: Tensor, score: Tensor | None = None) -> None:
        self.points = points
        self.score = points.new_full((len(points),), -1.0) if score is None else score

    def update(self, points: Tensor, score: Tensor) -> Tensor:
        """Take the points that are at least as good; returns which, ``[N]`` bool."""
        better = score >= self.score
        self.points = torch.where(per_image(better), points, self.points)
        self.score = torch.where(better, score, self.score)
        return better


@dataclass(frozen=True)
class Stage:
    """One run of ``steps`` gradients at ``eps`` (``[N]``); ``gradient(points, step)`` weighs the pixels.

    within: ``eps`` is within the attack's radius: the best error is tracked, as the points may be the answer.
    measures_last: the points after the last step are measured; else they count like those before it.
    """

    problem: Problem
    threat: object
    eps: Tensor
    steps: int
    gradient: Gradient
    within: bool = False
    measures_last: bool = True

    def project(self, points: Tensor) -> Tensor:
        return self.threat.project(points, self.problem.clean, self.eps)

    def move(self, points: Tensor, gradient: Tensor, size: Tensor) -> Tensor:
        return self.project(points + self.threat.step(points, gradient, size))


class SearchResult:
    """Best points of a search: by error, by cross-entropy towards the goal and, where the problem has class weights, by
    balanced error (the summed weights of the pixels at the goal); and the last ones."""

    def __init__(self, stage: Stage, points: Tensor, measured: Measurement) -> None:
        problem = self.problem = stage.problem
        self.within = stage.within
        self.by_error, self.last = BestIterate(points, measured.error), BestIterate(points, measured.error)
        self.by_ce = BestIterate(points, towards_goal(problem, measured))
        weighted = problem.class_weights is not None
        self.by_balanced_error = BestIterate(points, self._balanced_error(measured)) if weighted else None
        self._track()

    def update(self, points: Tensor, measured: Measurement) -> None:
        self.by_error.update(points, measured.error)
        self.by_ce.update(points, towards_goal(self.problem, measured))
        self.last = BestIterate(points, measured.error)
        if self.by_balanced_error is not None:
            self.by_balanced_error.update(points, self._balanced_error(measured))
        self._track()

    def _track(self) -> None:
        if self.within:
            self.problem.engine.track(self.by_error.score)

    def _balanced_error(self, measured: Measurement) -> Tensor:
        return (self.problem.class_weights * measured.reached).flatten(1).sum(1)


def towards_goal(problem: Problem, measured: Measurement) -> Tensor:
    """Cross-entropy where more is better for the attack: of the labels, or minus that of the targets."""
    return -measured.ce if problem.engine.goal.targeted else measured.ce


def measured_at(stage: Stage, points: Tensor, step: int, before: Measurement) -> Measurement:
    """Of the points after ``step`` steps, with a gradient where one more follows; ``before``: of those before them."""
    if step < stage.steps:
        return stage.gradient(points, step)
    return stage.problem.engine.measure(points) if stage.measures_last else before


def pgd(stage: Stage, points: Tensor, step_size: Tensor, schedule: str) -> SearchResult:
    """Projected gradient steps of ``step_size`` (``[N]``) times the schedule."""
    measured = stage.gradient(points, 0)
    result = SearchResult(stage, points, measured)
    for step in range(1, stage.steps + 1):
        size = step_size * STEP_SCHEDULES[schedule]((step - 1) / stage.steps)
        points = stage.move(points, measured.gradient, size)
        measured = measured_at(stage, points, step, measured)
        result.update(points, measured)
    return result


def checkpoints(steps: int) -> list[int]:
    """Steps after which APGD looks back: 22 % of them, then windows that shrink by 3 % down to 6 %."""
    window, shortest, shrink = (max(steps * percent // 100, 1) for percent in (22, 6, 3))
    at, found = 0, []
    while (at := at + window) < steps:
        found.append(at)
        window = max(window - shrink, shortest)
    return found


MOMENTUM = 0.75
ENOUGH_INCREASES = 0.75


def apgd(stage: Stage, points: Tensor, track: str, first_step: float = 2.0, halves_first: bool = True) -> SearchResult:
    """APGD (Croce & Hein, 2020, arXiv 2003.01690): momentum, and a step size that is halved, per image, where a
    look back finds too few increases of the tracked value or no new best; such images go back to their best point.
    The first step size is ``first_step`` radii; ``halves_first``: whether the first look back may halve it.

    As in AutoAttack's code, increases are those from one iterate to the next, going back or not, and the first iterate
    counts as one. Of equal values the latest is the best; the nearest point of ball and box is taken in L2 and L1.
    """
    problem = stage.problem
    look_back = checkpoints(stage.steps)
    measured = stage.gradient(points, 0)
    result = SearchResult(stage, points, measured)
    start = _tracked(problem, measured, track)
    value = torch.full_like(start, -math.inf)
    best, best_gradient = BestIterate(points, start), measured.gradient
    gradient, previous, size = measured.gradient, points, first_step * stage.eps
    increases, best_before, halved, since = torch.zeros_like(start), start, torch.ones_like(start, dtype=bool), 0
    for step in range(1, stage.steps + 1):
        ahead = stage.move(points, gradient, size)
        if step > 1:
            ahead = stage.project(torch.lerp(2 * points - previous, ahead, MOMENTUM))
        points, previous = ahead, points
        measured = measured_at(stage, points, step, measured)
        result.update(points, measured)
        if step == stage.steps:
            break
        gradient, new = measured.gradient, _tracked(problem, measured, track)
        increases, value, since = increases + (new > value), new, since + 1
        better = per_image(best.update(points, new))
        best_gradient = torch.where(better, gradient, best_gradient)
        if step in look_back:
            halved = (increases <= ENOUGH_INCREASES * since) | (~halved & (best.score <= best_before))
            if step == look_back[0] and not halves_first:
                halved = torch.zeros_like(halved)
            size = torch.where(halved, size / 2, size)
            points = torch.where(per_image(halved), best.points, points)
            gradient = torch.where(per_image(halved), best_gradient, gradient)
            increases, best_before, since = torch.zeros_like(value), best.score, 0
    return result


def _tracked(problem: Problem, measured: Measurement, track: str) -> Tensor:
    return measured.error if track == "error" else towards_goal(problem, measured)
