"""SEA as published: three or four losses, each with its own run, and per image the worst of them.

attack = SEA(eps="4/255")                         # 900 passes
result = attack(model, images, labels)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from segrobust.attacks.bounded import JSPGD, BalancedPGD, MaskedPGD, SegPGD
from segrobust.attacks.ensemble import BoundedEnsemble, PlannedSearch
from segrobust.attacks.gradient_attack import GradientAttack
from segrobust.attacks.registry import register_attack
from segrobust.attacks.spherical import SphericalPGD
from segrobust.core.errors import UserError, unknown_name

LOSSES = {
    "v1": (MaskedPGD, SegPGD, JSPGD, SphericalPGD),
    "v2": (BalancedPGD, MaskedPGD, JSPGD),
}


@register_attack
@dataclass(frozen=True, kw_only=True)
class SEA(BoundedEnsemble):
    """Segmentation Ensemble Attack (Croce et al., 2024, arXiv 2306.12941): APGD with radius reduction on each loss.

    The members start from the same noise and know nothing of each other: the answer is the worst of what each of them
    gives alone. Their results are the candidates, one per loss, as in the paper.

    Args:
        steps: of each loss.
        losses: ``"v2"``, the three of the paper's final version; ``"v1"``, the four of its first; or attacks.
    """

    steps: int = 300
    losses: str | tuple[GradientAttack, ...] = "v2"

    paper: ClassVar[str] = "arXiv 2306.12941"
    published: ClassVar = {}
    members_field: ClassVar[str] = "losses"

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.losses, str):
            if self.losses not in LOSSES:
                raise unknown_name(f"{self.name} losses", self.losses, LOSSES)
            object.__setattr__(self, "losses", tuple(loss() for loss in LOSSES[self.losses]))
        losses = tuple(self._set_up(attack) for attack in self.given())
        if len({attack.name for attack in losses}) < len(losses):
            raise UserError(f"{self.name}: expected different losses, got {[attack.name for attack in losses]}")
        object.__setattr__(self, "losses", losses)

    def fields(self) -> dict[str, Any]:
        return {**super().fields(), "losses": [self.config(attack) for attack in self.losses]}

    def plan(self) -> list[PlannedSearch]:
        return [PlannedSearch(attack.name, attack) for attack in self.losses]
