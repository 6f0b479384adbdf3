"""The base of all attacks that follow a weighted cross-entropy gradient: stages, restarts, and what is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from segrobust.attacks.base import BoundedAttack, Problem
from segrobust.attacks.gradient import Engine, Measurement
from segrobust.attacks.optimise import STEP_SCHEDULES, BestIterate, SearchResult, Stage, apgd, pgd
from segrobust.attacks.weights import Pixels
from segrobust.core.errors import UserError

RADII = (2.0, 1.5, 1.0)
STAGE_SHARES = (30, 30, 40)  # percent of the steps


@dataclass(frozen=True, kw_only=True)
class GradientAttack(BoundedAttack):
    """PGD or APGD with a pixel weight.

    Args:
        steps: gradients in all, over the stages.
        optimiser: ``"apgd"`` or ``"pgd"``.
        radius_reduction: three stages at 2, 1.5 and 1 times eps with 30, 30 and 40 % of the steps
            (Croce et al., 2024, arXiv 2306.12941).
        step_size: of PGD, in image units; None: 2.5 / steps of the radius, at most the radius.
        first_step: first step size of APGD, in radii of the stage.
        halves_first: whether APGD's first look back may halve the step size; in the code of TsallisPGD it never does.
        step_schedule: of PGD: ``"constant"``, ``"linear"`` or ``"cosine"`` decay to zero.
        random_start: start from uniform noise in the first stage's ball.
        restarts: runs per image; the best one counts.
        track: what APGD's step control watches: ``"ce"`` or ``"error"`` (share of pixels at the goal).
        handover: iterate that the next stage starts from: the best by ``"error"`` or by ``"ce"``.
        keep: iterate that is returned: the ``"best"`` by error, or the ``"last"``.
        scope: a weight's schedule runs over each ``"stage"`` or over the whole ``"run"``.
    """

    steps: int = 300
    optimiser: str = "apgd"
    radius_reduction: bool = True
    step_size: float | str | None = None
    first_step: float = 2.0
    halves_first: bool = True
    step_schedule: str = "constant"
    random_start: bool = True
    restarts: int = 1
    track: str = "ce"
    handover: str = "error"
    keep: str = "best"
    scope: str = "stage"

    takes_start: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._one_of(optimiser=("apgd", "pgd"), step_schedule=STEP_SCHEDULES, track=("ce", "error"))
        self._one_of(handover=("error", "ce"), keep=("best", "last"), scope=("stage", "run"))
        self._whole(steps=1, restarts=1)
        self._numbers("first_step", above=0)
        self._flags("halves_first")
        self._image_units("step_size")
        if self.step_size is not None and self.optimiser == "apgd":
            raise UserError(f"{self.name}: APGD chooses its steps itself; leave step_size out or set optimiser='pgd'")

    def weight(self, pixels: Pixels) -> Tensor:
        """Weight of every pixel, ``[N, H, W]``."""
        raise NotImplementedError

    def measure_gradient(self, engine: Engine, points: Tensor, progress: float) -> Measurement:
        """Statistics and ascent direction of the loss; a loss that is no weighted cross-entropy overrides this."""
        return engine.gradient(points, self.weight, progress, self.sharpness(progress))

    def begin(self, problem: Problem) -> Callable[[Tensor, float], Measurement]:
        """What measures the points of one search, from points and progress; a loss with a memory of the search, or of
        the clean images, overrides this."""
        return partial(self.measure_gradient, problem.engine)

    def sharpness(self, progress: float) -> float:
        """Factor on the logits inside the softmax of the gradient."""
        return 1.0

    def stages(self) -> list[tuple[float, int]]:
        """(multiple of eps, steps) of every stage that has steps."""
        if not self.radius_reduction:
            return [(1.0, self.steps)]
        first, second = (self.steps * share // 100 for share in STAGE_SHARES[:2])
        lengths = (first, second, self.steps - first - second)
        return [(radius, steps) for radius, steps in zip(RADII, lengths, strict=True) if steps]

    def passes(self) -> tuple[int, int]:
        return (self.steps + len(self.stages())) * self.restarts, self.steps * self.restarts

    @property
    def final_forward_is_optional(self) -> bool:
        return self.keep == "last" and self.restarts == 1

    def run(self, problem: Problem) -> tuple[Tensor, Tensor]:
        best = BestIterate(problem.clean)
        for restart in range(self.restarts):
            first = self.stages()[0][0]
            start = start_at_random(self, problem, restart, first) if self.random_start else problem.clean
            if problem.start is not None and restart == 0:
                start = torch.where(problem.start.isnan(), start, problem.start)
            result = self.search(problem, start)
            found = result.by_error if self.keep == "best" else result.last
            best.update(found.points, found.score)
        return best.points, best.score

    def search(self, problem: Problem, points: Tensor) -> SearchResult:
        """All stages from the given points on; what the last one found."""
        measure = self.begin(problem)
        done = 0
        for radius, steps in self.stages():
            result = self._run_stage(problem, measure, points, radius, steps, done)
            points = (result.by_error if self.handover == "error" else result.by_ce).points
            done += steps
        return result

    def _run_stage(
        self,
        problem: Problem,
        measure: Callable[[Tensor, float], Measurement],
        points: Tensor,
        radius: float,
        steps: int,
        done: int,
    ) -> SearchResult:
        def gradient(at: Tensor, step: int) -> Measurement:
            progress = step / steps if self.scope == "stage" else (done + step) / self.steps
            return measure(at, progress)

        eps = problem.clean.new_full((len(problem.clean),), radius * self.eps)
        needed = problem.final_forward or not self.final_forward_is_optional or done + steps < self.steps
        stage = Stage(problem, self.threat, eps, steps, gradient, within=radius <= 1, measures_last=needed)
        points = stage.project(points)
        if self.optimiser == "apgd":
            return apgd(stage, points, self.track, self.first_step, self.halves_first)
        size = min(1.0, 2.5 / steps) * eps if self.step_size is None else torch.full_like(eps, self.step_size)
        return pgd(stage, points, size, self.step_schedule)


def start_at_random(attack: BoundedAttack, problem: Problem, restart: int, radius: float) -> Tensor:
    eps = problem.clean.new_full((len(problem.clean),), radius * attack.eps)
    start = attack.threat.random_start(problem.clean, eps, problem.draws.at(restart))
    return problem.engine.goal.restrict(start, problem.clean)
