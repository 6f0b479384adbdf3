"""SEA as published: three or four losses, each with its own run, and per image the worst of them.

attack = SEA(eps="4/255")                         # 900 passes
result = attack(model, images, labels)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from segrobust.attacks.ensemble import BoundedEnsemble, Member
from segrobust.core.errors import UserError, unknown_name

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
        names = isinstance(losses, Sequence) and all(isinstance(name, str) for name in losses)
        if not names or not losses or len(set(losses)) < len(losses):
            raise UserError(f'{self.name}: expected losses="v1", "v2" or different names, got {self.losses!r}')
        object.__setattr__(self, "losses", tuple(losses))
        self.members()  # says now what is wrong with them

    def members(self) -> list[Member]:
        return [Member(name, self._build(name, self.steps)) for name in self.losses]
