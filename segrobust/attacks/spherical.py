"""The masked spherical loss of SEA's first version, which depends on all logits of a pixel.

attack = SphericalPGD(eps="4/255", steps=300)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from segrobust.attacks.bounded import SEA_SETTINGS
from segrobust.attacks.gradient import Engine, Measurement
from segrobust.attacks.gradient_attack import GradientAttack
from segrobust.attacks.registry import register_attack


@register_attack
@dataclass(frozen=True, kw_only=True)
class SphericalPGD(GradientAttack):
    """Minus the label's logit over the length of all logits, where the label is still predicted (Croce et al., 2023,
    arXiv 2306.12941v1).

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
    labels = labels.unsqueeze(1)
    own = unit.gather(1, labels)
    ascent = unit * own
    ascent.scatter_add_(1, labels, -torch.ones_like(own))
    return ascent * (mask.unsqueeze(1) / length)
