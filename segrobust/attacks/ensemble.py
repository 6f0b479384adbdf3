"""Ensembles of bounded attacks: SEA as published, and Standard, ours.

    attack = Standard(eps="4/255")                    # 450 passes
    result = attack(model, images, labels)
    result.candidates                                 # further attacked images, for the worst-case mIoU

An image's answer is the one with the fewest pixels right. Which of an image's candidates lowers the mIoU of a whole
data set most depends on the other images: see ``segrobust/evaluation/worst_case.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from torch import Tensor

from segrobust.attacks.base import Answer, BoundedAttack, Candidate, Problem
from segrobust.attacks.bounded import set_class_counts
from segrobust.attacks.gradient_attack import GradientAttack, start_at_random
from segrobust.attacks.optimise import Outcome, Record
from segrobust.attacks.specs import frozen_spec, plain_spec
from segrobust.attacks.weights import rarity
from segrobust.errors import UserError, unknown_name

STARTS = ("random", "error", "worth")


@dataclass(frozen=True)
class Member:
    """One attack of an ensemble.

    name: of its candidate.
    start: ``"random"`` noise, or the best points of the members before it, by ``"error"`` or by ``"worth"`` (wrong
        pixels count by how rare their class is).
    draw: which random start.
    """

    name: str
    attack: GradientAttack
    start: str = "random"
    draw: int = 0


class Books:
    """Per image the best points so far, by error and by worth."""

    def __init__(self, problem: Problem) -> None:
        nothing = problem.clean.new_full((len(problem.clean),), -1.0)
        self.best = {"error": Record(problem.clean, nothing), "worth": Record(problem.clean, nothing)}

    def enter(self, rows: Tensor, outcome: Outcome) -> dict[str, Tensor]:
        """What a member found on the images ``rows``; for the other images, what is best so far."""
        found = {"error": outcome.by_error, "worth": outcome.by_worth}
        points = {}
        for kind, best in self.best.items():
            points[kind] = best.points.index_copy(0, rows, found[kind].points)
            best.offer(points[kind], best.score.index_copy(0, rows, found[kind].score))
        return points

    def points(self) -> dict[str, Tensor]:
        return {kind: best.points for kind, best in self.best.items()}


@dataclass(frozen=True, kw_only=True)
class BoundedEnsemble(BoundedAttack):
    """Base of the ensembles.

    Args:
        class_counts: pixels per class of the training set, for what is weighted by class; None: those of each image.
    """

    class_counts: tuple[float, ...] | None = None

    kept: ClassVar[tuple[str, ...]] = ("error",)  # which best points of every member become candidates
    defaults_of: ClassVar[str] = "BalancedPGD"

    def __post_init__(self) -> None:
        super().__post_init__()
        set_class_counts(self)

    def members(self) -> list[Member]:
        raise NotImplementedError

    def active(self, error: Tensor) -> Tensor:
        """Images that the next member attacks, ``[N]`` bool, by their error so far."""
        raise NotImplementedError

    def passes(self) -> tuple[int, int]:
        """Forwards and backwards spent on one image, at most."""
        spent = [member.attack.passes() for member in self.members()]
        return sum(forwards for forwards, _ in spent), sum(backwards for _, backwards in spent)

    def candidate_names(self) -> tuple[str, ...]:
        return tuple(_candidate(member, kind) for member in self.members() for kind in self.kept)

    def run(self, problem: Problem) -> Answer:
        books = Books(problem)
        candidates = []
        for member in self.members():
            active = self.active(books.best["error"].score) & (problem.engine.goal.pixels > 0)
            rows = active.nonzero().flatten()
            points = books.points()
            if len(rows):
                points = books.enter(rows, self._attack(member, problem, rows, points))
            candidates += [Candidate(_candidate(member, kind), self.eps, points[kind]) for kind in self.kept]
        best = books.best["error"]
        return Answer(best.points, best.score, tuple(candidates))

    def _attack(self, member: Member, problem: Problem, rows: Tensor, best: dict[str, Tensor]) -> Outcome:
        engine = problem.engine.subset(rows)
        goal = engine.goal
        classes = len(self.class_counts) if self.class_counts else goal.highest + 1
        worth = rarity(goal.labels, goal.valid, classes, self.class_counts)
        seeds = tuple(problem.seeds[row] for row in rows.tolist())
        part = Problem(engine, problem.clean[rows], seeds, worth=worth)
        if member.start == "random":
            start = start_at_random(member.attack, part, member.draw, member.attack.stages()[0][0])
        else:
            start = best[member.start][rows]
        return member.attack.search(part, start)

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


LOSSES = {
    "v1": ("MaskedPGD", "SegPGD", "JSPGD", "SphericalPGD"),
    "v2": ("BalancedPGD", "MaskedPGD", "JSPGD"),
}


@dataclass(frozen=True, kw_only=True)
class SEA(BoundedEnsemble):
    """Segmentation Ensemble Attack (Croce et al., 2024, arXiv 2306.12941): APGD with radius reduction on each loss.

    The members start from the same noise and know nothing of each other: the answer is the worst of what each of them
    gives alone. Their results are the candidates, one per loss, as in the paper.

    Args:
        steps: of each loss.
        losses: ``"v2"``, the three of the paper's final version; ``"v1"``, the four of its first; or names.
    """

    steps: int = 300
    losses: str | tuple[str, ...] = "v2"

    paper: ClassVar[str] = "arXiv 2306.12941"
    published: ClassVar = {}

    def __post_init__(self) -> None:
        super().__post_init__()
        self._whole(steps=1)
        losses = self.losses
        if isinstance(losses, str):
            if losses not in LOSSES:
                raise unknown_name(f"{self.name} losses", losses, LOSSES)
            losses = LOSSES[losses]
        if not isinstance(losses, Sequence) or not losses or len(set(losses)) < len(losses):
            raise UserError(f'{self.name}: expected losses="v1", "v2" or different names, got {self.losses!r}')
        object.__setattr__(self, "losses", tuple(losses))
        self.members()  # says now what is wrong with them

    def members(self) -> list[Member]:
        return [Member(name, self._build(str(name), self.steps)) for name in self.losses]

    def active(self, error: Tensor) -> Tensor:
        return error < 2


MEMBERS: tuple[dict[str, Any], ...] = (
    {"type": "SharpPGD", "share": 4},
    {"type": "CosPGD", "share": 3},
    {"type": "BalancedSharpPGD", "share": 2, "start": "worth", "radius_reduction": False, "first_step": 0.5},
    {"type": "SharpPGD", "share": 1, "start": "error", "radius_reduction": False, "first_step": 0.5},
)
SHARED = ("norm", "targeted", "eps", "seed", "steps", "restarts", "random_start", "keep")  # the ensemble's own


@dataclass(frozen=True, kw_only=True)
class Standard(BoundedEnsemble):
    """The default ensemble: members in a row that share one budget of passes and their best points.

    An image with ``enough`` pixels wrong leaves; the others are attacked on. Candidates are every member's best points
    by error and by worth. Ours, unpublished.

    Args:
        steps: of all members together.
        attacks: configs of the members, in their order: ``dict(type="SharpPGD", share=2, start="error", ...)`` with
            the fields of that attack. share: of the steps, relative to the others'; start: ``"random"`` noise or the
            best points of the members before it, by ``"error"`` or by ``"worth"`` (see :class:`Member`).
        enough: share of wrong pixels at which an image leaves.
    """

    steps: int = 450
    attacks: tuple[Any, ...] = MEMBERS
    enough: float = 1.0

    kept: ClassVar[tuple[str, ...]] = ("error", "worth")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._whole(steps=1)
        self._numbers("enough")
        if not 0 < self.enough <= 1:
            raise UserError(f"{self.name}: expected 0 < enough <= 1, got {self.enough}")
        given = self.attacks
        if isinstance(given, str | Mapping) or not isinstance(given, Sequence) or not given:
            raise UserError(f"{self.name}: expected attacks=[names or configs with type=], got {given!r}")
        object.__setattr__(self, "attacks", tuple(frozen_spec(spec, SHARED, "attacks") for spec in given))
        self.members()  # says now what is wrong with them

    def fields(self) -> dict[str, Any]:
        return {**super().fields(), "attacks": [plain_spec(spec) for spec in self.attacks]}

    def members(self) -> list[Member]:
        """Those that get at least one step."""
        configs = [{"type": spec} if isinstance(spec, str) else dict(spec) for spec in self.attacks]
        shares = [config.pop("share", 1) for config in configs]
        if any(isinstance(n, bool) or not isinstance(n, int | float) or n <= 0 for n in shares):
            raise UserError(f"{self.name}: expected shares above 0, got {shares}")
        members, done, before = [], 0, 0.0
        for number, (config, share) in enumerate(zip(configs, shares, strict=True)):
            before += share
            steps = round(self.steps * before / sum(shares)) - done
            done += steps
            if steps:
                members.append(self._member(number, steps, first=not members, **config))
        return members

    def _member(self, number: int, steps: int, first: bool, type: str, start: str = "random", **given: Any) -> Member:
        if start not in STARTS:
            raise unknown_name(f"{self.name} start", str(start), STARTS)
        attack = self._build(str(type), steps, **given)
        return Member(f"{number + 1} {attack.name}", attack, "random" if first else start, number)

    def active(self, error: Tensor) -> Tensor:
        return error < self.enough
