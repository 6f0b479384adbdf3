"""Ensembles of bounded attacks: members in a row, per image the worst result, and further candidates.

    result = SEA(eps="4/255")(model, images, labels)
    result.candidates                                 # the best points of every member, for the worst-case mIoU

An image's answer is the one with the fewest pixels right. Which of an image's candidates lowers the mIoU of a whole
data set most depends on the other images: see ``segrobust/analysis/worst_case.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from segrobust.attacks.base import Answer, BoundedAttack, Candidate, Problem
from segrobust.attacks.bounded import set_class_counts
from segrobust.attacks.gradient_attack import GradientAttack, start_at_random
from segrobust.attacks.optimise import Outcome, Record
from segrobust.attacks.segmentation import Goal
from segrobust.core.errors import UserError


@dataclass(frozen=True)
class Member:
    """One attack of an ensemble.

    name: of its candidate.
    start: ``"random"`` noise, or the best points of the members before it, by ``"error"`` or by ``"worth"`` (wrong
        pixels count the more the rarer their class is).
    draw: which random start.
    few: takes the place of ``attack`` on images with few pixels right.
    """

    name: str
    attack: GradientAttack
    start: str = "random"
    draw: int = 0
    few: GradientAttack | None = None

    def passes(self) -> tuple[int, int]:
        """Forwards and backwards spent on one image, at most."""
        spent = [attack.passes() for attack in (self.attack, self.few) if attack]
        return max(forwards for forwards, _ in spent), max(backwards for _, backwards in spent)


class Books:
    """Per image the best points so far of every kind: by error, by worth."""

    def __init__(self, problem: Problem, kinds: Sequence[str]) -> None:
        nothing = problem.clean.new_full((len(problem.clean),), -1.0)
        self.best = {kind: Record(problem.clean, nothing) for kind in kinds}

    def enter(self, rows: Tensor, outcome: Outcome) -> dict[str, Tensor]:
        """What an attack found on the images ``rows``, by kind."""
        found = {"error": outcome.by_error, "worth": outcome.by_worth}
        for kind, best in self.best.items():
            points = best.points.index_copy(0, rows, found[kind].points)
            best.offer(points, best.score.index_copy(0, rows, found[kind].score))
        return {kind: found[kind].points for kind in self.best}

    def points(self) -> dict[str, Tensor]:
        return {kind: best.points for kind, best in self.best.items()}


@dataclass(frozen=True, kw_only=True)
class BoundedEnsemble(BoundedAttack):
    """Base of the ensembles: members in a row; the best points of each become candidates.

    Args:
        class_counts: pixels per class of the training set, for what is weighted by class; None: those of each image.
    """

    class_counts: tuple[float, ...] | None = None

    kept: ClassVar[tuple[str, ...]] = ("error",)  # kinds of best points
    defaults_of: ClassVar[str] = "BalancedPGD"

    def __post_init__(self) -> None:
        super().__post_init__()
        set_class_counts(self)

    def members(self) -> list[Member]:
        raise NotImplementedError

    def turn(self, member: Member, error: Tensor) -> list[tuple[GradientAttack, Tensor]]:
        """Attacks of this member, and the images that each of them takes, ``[N]`` bool, by their error so far."""
        return [(member.attack, torch.ones_like(error, dtype=torch.bool))]

    def worth(self, goal: Goal) -> Tensor | None:
        """What every pixel counts, ``[N, H, W]``, where best points by worth are kept."""
        return None

    def passes(self) -> tuple[int, int]:
        """Forwards and backwards spent on one image, at most."""
        spent = [member.passes() for member in self.members()]
        return sum(forwards for forwards, _ in spent), sum(backwards for _, backwards in spent)

    def candidate_names(self) -> tuple[str, ...]:
        return tuple(_candidate(member, kind) for member in self.members() for kind in self.kept)

    def run(self, problem: Problem) -> Answer:
        books = Books(problem, self.kept)
        candidates = []
        for member in self.members():
            points = books.points()  # of images that sit out, what is best so far
            for attack, takes in self.turn(member, books.best["error"].score):
                rows = (takes & (problem.engine.goal.pixels > 0)).nonzero().flatten()
                if len(rows):
                    found = books.enter(rows, self._attack(member, attack, problem, rows, points))
                    points = {kind: points[kind].index_copy(0, rows, found[kind]) for kind in self.kept}
            candidates += [Candidate(_candidate(member, kind), self.eps, points[kind]) for kind in self.kept]
        best = books.best["error"]
        return Answer(best.points, best.score, tuple(candidates))

    def _attack(
        self, member: Member, attack: GradientAttack, problem: Problem, rows: Tensor, best: dict[str, Tensor]
    ) -> Outcome:
        engine = problem.engine.subset(rows)
        seeds = tuple(problem.seeds[row] for row in rows.tolist())
        part = Problem(engine, problem.clean[rows], seeds, worth=self.worth(engine.goal))
        if member.start == "random":
            start = start_at_random(attack, part, member.draw, attack.stages()[0][0])
        else:
            start = best[member.start][rows]
        return attack.search(part, start)

    def _build(self, name: str, steps: int, **given: Any) -> GradientAttack:
        from segrobust.attacks.registry import build_attack, find_attack  # it imports this file

        cls = find_attack(name.partition(":")[0])
        if not issubclass(cls, GradientAttack):
            raise UserError(f"{self.name}: expected members that follow a gradient within a radius, got {name}")
        shared = {"norm": self.norm, "eps": self.eps, "steps": steps}
        if self.class_counts and "class_counts" in {field.name for field in fields(cls)}:
            shared["class_counts"] = self.class_counts
        return build_attack(name, **{**given, **shared})


def _candidate(member: Member, kind: str) -> str:
    return member.name if kind == "error" else f"{member.name} by {kind}"
