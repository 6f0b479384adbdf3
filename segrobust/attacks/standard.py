"""Standard, the default ensemble: one budget of passes for several weights that go on from each other's best points."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor

from segrobust.attacks.ensemble import BALANCED_ERROR, ERROR, BoundedEnsemble, PlannedSearch
from segrobust.attacks.gradient_attack import GradientAttack
from segrobust.attacks.registry import register_attack
from segrobust.attacks.segmentation import Goal
from segrobust.attacks.sharp import BalancedSharpPGD, SharpPGD
from segrobust.attacks.weights import rarity
from segrobust.core.errors import UserError, unknown_name

STARTS = ("random", ERROR, BALANCED_ERROR)
BALANCE = 0.5  # power of a class's inverse pixel count in the balanced error


@dataclass(frozen=True)
class Member:
    """One attack of ``Standard``.

    share: of the steps, relative to the other members'.
    start: ``"random"`` noise, or the best points of the members before it, by ``"error"`` or by ``"balanced error"``
        (wrong pixels count the more the rarer their class is).
    """

    attack: GradientAttack
    share: float = 1
    start: str = "random"


GOING_ON = {"radius_reduction": False, "first_step": 0.5}
MEMBERS = (
    Member(SharpPGD(), 9),
    Member(BalancedSharpPGD(**GOING_ON, track="ce"), 3, BALANCED_ERROR),  # for mIoU
    Member(SharpPGD(**GOING_ON, beta_start=2.0, beta_end=6.0), 4, ERROR),
)


@register_attack
class Standard(BoundedEnsemble):
    """The default ensemble: members in a row that share one budget of passes and their best points.

    An image without a right pixel leaves; the others are attacked on. Candidates are every member's best points by
    error and by balanced error. Ours, unpublished.

    Args:
        steps: of all members together.
        attacks: members in their order; as configs: ``dict(type="SharpPGD", share=2, start="error", ...)`` with the
            fields of that attack and those of :class:`Member`.
    """

    steps: int = 450
    attacks: tuple[Member, ...] = MEMBERS

    kinds: ClassVar[tuple[str, ...]] = (ERROR, BALANCED_ERROR)
    member_options: ClassVar[tuple[str, ...]] = ("share", "start")

    @classmethod
    def member(cls, attack: GradientAttack, **options: Any) -> Member:
        return Member(attack, **options)

    def __post_init__(self) -> None:
        super().__post_init__()
        members = [one if isinstance(one, Member) else Member(one) for one in self.given()]
        members = tuple(replace(one, attack=self._set_up(one.attack)) for one in members)
        shares = [one.share for one in members]
        if any(type(share) not in (int, float) or not 0 < share < math.inf for share in shares):
            raise UserError(f"{self.name}: expected shares above 0, got {shares}")
        for one in members:
            if one.start not in STARTS:
                raise unknown_name(f"{self.name} start", str(one.start), STARTS)
        if members[0].start != "random":
            raise UserError(f"{self.name}: the first of attacks has no points to start from; leave its start out")
        object.__setattr__(self, "attacks", members)

    def config(self, member: Member) -> dict[str, Any]:
        return super().config(member.attack) | {"share": member.share, "start": member.start}

    def plan(self) -> list[PlannedSearch]:
        """The searches that get at least one step; the first of them starts at random."""
        total, searches, done, before = sum(one.share for one in self.attacks), [], 0, 0.0
        for number, one in enumerate(self.attacks):
            before += one.share
            steps = round(self.steps * before / total) - done
            done += steps
            if steps:
                name, attack = f"{number + 1} {one.attack.name}", replace(one.attack, steps=steps)
                searches.append(PlannedSearch(name, attack, one.start if searches else "random", number))
        return searches

    def active(self, error: Tensor) -> Tensor:
        return error < 1

    def class_weights(self, goal: Goal) -> Tensor:
        classes = max(len(self.class_counts or ()), goal.highest + 1)
        return rarity(goal.labels, goal.valid, classes, self.class_counts) ** BALANCE
