"""Ensembles of bounded attacks: members in a row, per image the worst result, and further candidates.

An image's answer is the one with the fewest pixels right. Which of an image's candidates lowers the mIoU of a whole
data set most depends on the other images: see ``segrobust/analysis/worst_case.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from segrobust.attacks.base import Answer, Attack, Candidate, Problem
from segrobust.attacks.bounded import PerClass
from segrobust.attacks.gradient_attack import GradientAttack, start_at_random
from segrobust.attacks.members import Ensemble, with_fields
from segrobust.attacks.optimise import BestIterate, SearchResult
from segrobust.attacks.segmentation import Goal
from segrobust.attacks.selection import selected
from segrobust.core.errors import UserError

ERROR, BALANCED_ERROR = "error", "balanced error"  # what points are best by


@dataclass(frozen=True)
class PlannedSearch:
    """One member's search, with the steps that it gets.

    name: of its candidate.
    start: ``"random"`` noise, or the best points of the members before it, by ``"error"`` or ``"balanced error"``.
    restart: which random start.
    """

    name: str
    attack: GradientAttack
    start: str = "random"
    restart: int = 0

    def candidate(self, kind: str) -> str:
        return self.name if kind == ERROR else f"{self.name} by {kind}"


@dataclass(frozen=True, kw_only=True)
class BoundedEnsemble(Ensemble, PerClass):
    """Base of the ensembles: members in a row; the best points of each become candidates.

    Args:
        steps: gradients; of what, the ensemble says.
    """

    steps: int = 300

    kinds: ClassVar[tuple[str, ...]] = (ERROR,)  # of the best points that are kept
    sets: ClassVar[tuple[str, ...]] = ("norm", "targeted", "eps", "seed", "steps", "restarts", "random_start", "keep")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._whole(steps=1)

    def plan(self) -> list[PlannedSearch]:
        """The members' searches in their order."""
        raise NotImplementedError

    def members(self) -> list[Attack]:
        return [search.attack for search in self.plan()]

    def active(self, error: Tensor) -> Tensor:
        """The images that a search attacks, ``[N]`` bool, by their error so far."""
        return torch.ones_like(error, dtype=torch.bool)

    def class_weights(self, goal: Goal) -> Tensor | None:
        """Weight of every pixel in the balanced error, ``[N, H, W]``, where points are kept by that."""
        return None

    def passes(self) -> tuple[int, int]:
        """Forwards and backwards spent on one image, at most."""
        spent = [attack.passes() for attack in self.members()]
        return sum(forwards for forwards, _ in spent), sum(backwards for _, backwards in spent)

    def candidate_names(self) -> tuple[str, ...]:
        return tuple(search.candidate(kind) for search in self.plan() for kind in self.kinds)

    def run(self, problem: Problem) -> Answer:
        best, candidates = {kind: BestIterate(problem.clean) for kind in self.kinds}, []
        for search in self.plan():
            points = {kind: one.points for kind, one in best.items()}  # of images that sit out, what is best so far
            active = self.active(best[ERROR].score) & (problem.engine.goal.pixels > 0)
            rows = selected(active)
            if len(rows):
                result = self._search(search, problem, rows, points)
                found = {ERROR: result.by_error, BALANCED_ERROR: result.by_balanced_error}
                for kind, one in best.items():
                    points[kind] = points[kind].index_copy(0, rows, found[kind].points)
                    one.update(points[kind], one.score.index_copy(0, rows, found[kind].score))
            candidates += [Candidate(search.candidate(kind), self.eps, points[kind]) for kind in self.kinds]
        return Answer(best[ERROR].points, best[ERROR].score, tuple(candidates))

    def _search(self, search: PlannedSearch, problem: Problem, rows: Tensor, best: dict[str, Tensor]) -> SearchResult:
        part = problem.subset(rows)
        part = replace(part, class_weights=self.class_weights(part.engine.goal))
        if search.start == "random":
            start = start_at_random(search.attack, part, search.restart, search.attack.stages()[0][0])
        else:
            start = best[search.start][rows]
        return search.attack.search(part, start)

    def _set_up(self, attack: Any) -> GradientAttack:
        """A member with what the ensemble sets, all steps among it; what it leaves alone is at its default."""
        if not isinstance(attack, GradientAttack):
            shown = attack.name if isinstance(attack, Attack) else repr(attack)
            raise UserError(f"{self.name}: expected members that follow a gradient within a radius, got {shown}")
        unused = {"targeted": False, "seed": 0, "restarts": 1, "random_start": True, "keep": "best"}
        counts = {"class_counts": self.class_counts} if self.class_counts else {}
        return with_fields(attack, **unused, norm=self.norm, eps=self.eps, steps=self.steps, **counts)
