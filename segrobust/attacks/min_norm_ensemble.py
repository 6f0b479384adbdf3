"""The smallest norm, per image, that any of several attacks finds; bounded attacks are run at growing radii."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from segrobust.attacks.alma_cls import ALMACls
from segrobust.attacks.alma_prox import ALMAProx
from segrobust.attacks.base import Attack, BoundedAttack, Problem
from segrobust.attacks.bisection import PGDBisection
from segrobust.attacks.bounded import CosPGD
from segrobust.attacks.fmn import FMN
from segrobust.attacks.members import Ensemble, with_fields
from segrobust.attacks.minimum_norm import Closest, MinNormAttack
from segrobust.attacks.registry import register_attack
from segrobust.attacks.selection import selected
from segrobust.attacks.sharp import SharpPGD
from segrobust.core.errors import UserError
from segrobust.core.precision_names import FLOAT32
from segrobust.core.units import parse_eps
from segrobust.models.precision import computing_in

MEMBERS = {
    "Linf": (ALMAProx, FMN, PGDBisection, SharpPGD, CosPGD),
    "L2": (ALMAProx, FMN, ALMACls, PGDBisection, SharpPGD, CosPGD),
    "L1": (ALMAProx, FMN, ALMACls, SharpPGD, CosPGD),
}
CHANGES = tuple(change / 255 for change in (0.5, 1, 2, 4, 8, 16))
INSIDE = 1e-5, 1e-7  # of the radius, and in image units: rounding must not carry the images over a budget's edge


@register_attack
class MinNormEnsemble(Ensemble, MinNormAttack):
    """Per image the smallest norm of the members, each one's result measured again in float32 before it counts.

    Minimum-norm members attack all images. Bounded ones then go through ``radii``, on those images alone for which
    nothing was found within the radius. ``passes`` says the most an image can cost, without budgets; a budget costs
    a forward for each minimum-norm member.

    Args:
        attacks: the members; the ensemble sets their norm, apsr, targeted, eps and seed. None: a strong list for the
            norm.
        radii: of the bounded members, in image units, rising; None: what a change of 0.5, 1, 2, 4, 8 or 16/255 in
            every channel value amounts to in the norm.
        steps: of every member that has steps; None: each one's own.
    """

    attacks: tuple[Attack, ...] | None = None
    radii: tuple[float | str, ...] | None = None
    steps: int | None = None

    sets: ClassVar[tuple[str, ...]] = ("norm", "targeted", "apsr", "eps", "seed", "quantise", "quantise_steps")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.radii is not None:
            self._set_radii()
        if self.attacks is None:
            object.__setattr__(self, "attacks", tuple(cls(norm=self.norm) for cls in MEMBERS[self.norm]))
        object.__setattr__(self, "attacks", tuple(self._set_up(member) for member in self.given()))

    def _set_up(self, member: Any) -> Attack:
        """A member with what the ensemble sets."""
        if not isinstance(member, Attack):
            raise UserError(f"{self.name}: expected attacks, which build_attack makes of names, got {member!r}")
        settings = {"norm": self.norm, "targeted": self.targeted, "apsr": self.apsr, "eps": 0.0}
        unused = {"seed": 0, "quantise": False, "quantise_steps": MinNormAttack.quantise_steps}
        steps = {} if self.steps is None else {"steps": self.steps}
        return with_fields(member, **settings, **unused, **steps)

    def _set_radii(self) -> None:
        if isinstance(self.radii, str) or not isinstance(self.radii, Sequence) or not self.radii:
            raise UserError(f'{self.name}: expected radii=["1/255", ...], got {self.radii!r}')
        radii = tuple(parse_eps(radius, self.norm, "radii") for radius in self.radii)
        if radii[0] <= 0 or any(low >= high for low, high in itertools.pairwise(radii)):
            raise UserError(f"{self.name}: expected radii above 0 that rise, got {self.radii!r}")
        object.__setattr__(self, "radii", radii)

    def search_passes(self) -> tuple[int, int]:
        forwards, backwards = 1, 0
        for member in self.attacks:
            bounded = isinstance(member, BoundedAttack)
            runs = len(CHANGES if self.radii is None else self.radii) if bounded else 1
            spent, back = member.passes() if bounded else member.search_passes()
            forwards += runs * (spent + 1)
            backwards += runs * back
        return forwards, backwards

    def search(self, problem: Problem, closest: Closest) -> None:
        closest.update(problem.clean, _measure(problem, problem.clean))
        for member in self.attacks:
            if not isinstance(member, BoundedAttack):
                self._run_minimum_norm(member, problem, closest)
        for radius in self._radii(problem.clean):
            for member in self.attacks:
                if isinstance(member, BoundedAttack):
                    eps = max(radius * (1 - INSIDE[0]) - INSIDE[1], 0.0)
                    self._run_bounded(dataclasses.replace(member, eps=eps), problem, closest)

    def _radii(self, clean: Tensor) -> tuple[float, ...]:
        if self.radii is not None:
            return self.radii
        values = clean[0].numel()
        factor = {"Linf": 1.0, "L2": math.sqrt(values), "L1": float(values)}[self.norm]
        return tuple(change * factor for change in CHANGES)

    def _run_minimum_norm(self, member: MinNormAttack, problem: Problem, closest: Closest) -> None:
        own = Closest(member, problem)
        member.search(problem, own)
        for points in (own.points, *(budget.images for budget in own.budgets)):
            closest.update(points, _measure(problem, points))

    def _run_bounded(self, member: BoundedAttack, problem: Problem, closest: Closest) -> None:
        farther = ~closest.found | (closest.distance > member.eps)
        rows = selected(farther & (problem.engine.goal.pixels > 0))
        if not len(rows):
            return
        part = problem.subset(rows)
        points = member.run(part)[0].detach()
        closest.update(points, _measure(part, points), rows)


def _measure(problem: Problem, points: Tensor) -> Tensor:
    with computing_in(FLOAT32, points.device):
        return problem.engine.measure(points).reached
