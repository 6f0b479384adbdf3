"""SEA as published: three or four losses, each with its own run, and per image the worst of them."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from segrobust.attacks.bounded import JSPGD, SEA_SETTINGS, BalancedPGD, MaskedPGD, SegPGD
from segrobust.attacks.ensemble import BoundedEnsemble, PlannedSearch
from segrobust.attacks.gradient import Engine, Measurement
from segrobust.attacks.gradient_attack import GradientAttack
from segrobust.attacks.per_class import write
from segrobust.attacks.registry import register_attack
from segrobust.core.errors import UserError, unknown_name


@register_attack
class SphericalPGD(GradientAttack):
    """Minus the label's logit over the length of all logits, where the label is still predicted (Croce et al., 2023,
    arXiv 2306.12941v1): the masked spherical loss of SEA's first version.

    APGD's step control watches cross-entropy here, as for the other losses.
    """

    paper: ClassVar[str] = "arXiv 2306.12941v1"
    published: ClassVar = SEA_SETTINGS

    def measure_gradient(self, engine: Engine, points: Tensor, progress: float) -> Measurement:
        goal = engine.goal

        def ascent(logits: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
            ce, reached = goal.measure(logits, engine.memory)
            return spherical_gradient(logits, goal.labels, goal.valid & ~reached), (ce, reached)

        return engine.measured_gradient(points, ascent)


def spherical_gradient(logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """Gradient of ``-sum(mask * u_y / |u|)`` in the logits u, ``[N, K, H, W]``."""
    length = logits.norm(dim=1, keepdim=True).clamp_min(torch.finfo(logits.dtype).tiny)
    unit = logits / length
    own = unit.gather(1, labels.unsqueeze(1))
    ascent = unit * own
    write(ascent, labels, own.square().sub_(1).squeeze(1))
    return ascent * (mask.unsqueeze(1) / length)


LOSSES = {
    "v1": (MaskedPGD, SegPGD, JSPGD, SphericalPGD),
    "v2": (BalancedPGD, MaskedPGD, JSPGD),
}


@register_attack
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

    def plan(self) -> list[PlannedSearch]:
        return [PlannedSearch(attack.name, attack) for attack in self.losses]
