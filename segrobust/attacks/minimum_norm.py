"""What every minimum-norm attack promises: the smallest change that takes ``apsr`` of an image's pixels to the goal.

attack = ALMAProx(steps=500)
result = attack(model, images, labels)
result.distance[result.found]       # norms in image units; an image that is not found counts as inf in a median

Where a preset is called published, the search is the published one but for this: the points after the last step are
measured too, and where nothing was found the image with the most pixels at their goal is returned.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from segrobust.attacks.base import Answer, Attack, AttackResult, Candidate, Problem
from segrobust.attacks.eight_bit import grid_passes, on_grid, search_grid
from segrobust.attacks.optimise import BestIterate
from segrobust.core.errors import UserError
from segrobust.core.precision_names import FLOAT32
from segrobust.core.threats import per_image
from segrobust.models.precision import computing_in


@dataclass(frozen=True, kw_only=True)
class MinNormAttack(Attack):
    """Base of the minimum-norm attacks; a subclass implements ``search``.

    Args:
        steps: gradients in all, each of one forward and one backward.
        apsr: attack pixel success rate to reach: share of the valid pixels that are wrong or, targeted, at the target.
        quantise: return the closest image found among those that an 8-bit file can hold; see ``eight_bit.py``. The
            worst images per budget stay as the search left them.
        quantise_steps: steps for that, more than the attack's own.
    """

    steps: int = 500
    apsr: float = 0.99
    quantise: bool = False
    quantise_steps: int = 40
    can_target: ClassVar[bool] = True
    minimum_norm: ClassVar[bool] = True
    rounds: ClassVar[bool] = True  # whether the result's norm after rounding to 8 bits is measured too

    def __post_init__(self) -> None:
        super().__post_init__()
        self._numbers("apsr", above=0, up_to=1)
        self._whole(steps=1, quantise_steps=1)
        self._flags("quantise")
        if self.quantise and not self.rounds:
            raise UserError(f"{self.name}: 8-bit images need room above the cap; leave quantise or eps_max out")

    @property
    def final_forward_is_optional(self) -> bool:
        return True

    def search_passes(self) -> tuple[int, int]:
        """Forwards and backwards that ``search`` spends on one image, at most: a gradient per step, and a last look."""
        return self.steps + 1, self.steps

    def passes(self) -> tuple[int, int]:
        forwards, backwards = self.search_passes()
        more = grid_passes(self.norm, self.quantise_steps) if self.quantise else (0, 0)
        final = 2 if self.rounds else 1  # of what is returned, in float32: as it is, and rounded to 8 bits
        return forwards + more[0] + final, backwards + more[1]

    def required(self, clean_error: Tensor) -> Tensor:
        """Share of pixels at the goal that an image must reach, ``[N]``, from that of the clean image."""
        return torch.full_like(clean_error, self.apsr)

    def search(self, problem: Problem, closest: Closest) -> None:
        """Update ``closest`` with everything that was measured, the clean images first."""
        raise NotImplementedError

    def run(self, problem: Problem) -> Answer:
        closest = Closest(self, problem)
        self.search(problem, closest)
        if not self.quantise:
            return closest.answer()
        grid = Closest(self, problem)
        grid.before, grid.required = closest.before, closest.required
        with computing_in(FLOAT32, problem.clean.device):
            search_grid(problem, closest.points, grid, self.norm, self.quantise_steps)
        return grid.answer()._replace(candidates=closest.budgets)

    def report(self, answer: Answer, problem: Problem) -> AttackResult:
        """Measure what is returned once more, in float32; that counts, not what the search saw."""
        points, error, candidates, before = answer
        engine, clean = problem.engine, problem.clean
        distance = self._check_images(points, problem, math.inf)
        for candidate in candidates:
            self._check_images(candidate.images, problem, candidate.eps)
        judged = engine.goal.pixels > 0
        required = self.required(engine.goal.share(before))
        if not problem.final_forward:
            passes = (engine.forwards, engine.backwards)
            return AttackResult(points, distance, (error >= required) & judged, error, *passes, candidates)
        with computing_in(FLOAT32, points.device):
            after = engine.measure(points)
            distance_8bit = None
            if self.rounds:
                rounded = on_grid(points)
                lost = (engine.measure(rounded).error < required) | ~judged
                distance_8bit = self.threat.distance(rounded - clean).masked_fill(lost, math.inf)
        attacked = (engine.goal.judged & ~before).flatten(1)
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

    Also, per budget, the points with the most pixels at the goal within it. The first update is by the clean images:
    they say which pixels are at the goal from the beginning, and what is required.
    """

    def __init__(self, attack: MinNormAttack, problem: Problem) -> None:
        clean = problem.clean
        self.attack, self.engine, self.clean = attack, problem.engine, clean
        self.points = clean
        self.distance = clean.new_full((len(clean),), math.inf)
        self.error = clean.new_full((len(clean),), -1.0)
        self.found = torch.zeros(len(clean), dtype=torch.bool, device=clean.device)
        self._budgets = [(eps, BestIterate(clean)) for eps in problem.budgets]
        self.before: Tensor | None = None
        self.required = self.error

    def update(self, points: Tensor, reached: Tensor, rows: Tensor | None = None) -> Tensor:
        """Take the points that are at least as good; returns which images are at their goal, ``[N]`` bool.

        Args:
            points: ``[N, 3, H, W]`` in [0, 1].
            reached: ``[N, H, W]`` bool, the valid pixels that are at their goal there.
            rows: long indices of the N images, where these are not all; never in the first update.
        """
        given = torch.ones_like(self.found)
        if rows is not None:
            given = torch.zeros_like(self.found).index_fill_(0, rows, True)
            points = self.clean.index_copy(0, rows, points)
            reached = torch.zeros_like(self.engine.goal.valid).index_copy_(0, rows, reached)
        error = self.engine.goal.share(reached)
        if self.before is None:
            self.before, self.required = reached, self.attack.required(error)
        distance = self.attack.threat.distance(points - self.clean)
        succeeds = (error >= self.required) & given
        better = torch.where(succeeds, ~self.found | (distance <= self.distance), ~self.found & (error >= self.error))
        better &= given
        self.points = torch.where(per_image(better), points, self.points)
        self.distance = torch.where(better, distance, self.distance)
        self.error = torch.where(better, error, self.error)
        self.found = self.found | succeeds
        for eps, best in self._budgets:
            best.update(points, torch.where((distance <= eps) & given, error, -math.inf))
        return succeeds if rows is None else succeeds[rows]

    @property
    def budgets(self) -> tuple[Candidate, ...]:
        return tuple(Candidate("", eps, best.points) for eps, best in self._budgets)

    def answer(self) -> Answer:
        return Answer(self.points, self.error, self.budgets, self.before)
