"""The input gradient in the code published with ALMA-prox (arXiv 2206.07179), for ``reference=True``: it flows through
the normaliser of the constraints too, which bends it away from the boundary."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from segrobust.attacks.gradient import Engine
from segrobust.attacks.margins import FLOOR, RANKS, Margins

LARGEST_DERIVATIVE = 1e12  # penalty parameters have no bound there, and its squares must stay finite


def published_gradient(
    engine: Engine, points: Tensor, derivative: Callable[[Margins], Tensor], tolerance: float
) -> Tensor:
    """Input gradient ``[N, 3, H, W]`` of the penalties of ``(margin + tolerance) / normaliser``.

    Args:
        derivative: of the penalties in the margins, ``[N, H, W]``, already over the normaliser.
    """
    targeted = engine.goal.targeted
    sign, ranks = (-1.0 if targeted else 1.0), RANKS[targeted]

    def logit_gradient(logits: Tensor) -> tuple[Tensor, None]:
        labels = engine.goal.labels.unsqueeze(1)
        top, places = logits.topk(min(ranks, logits.shape[1]), dim=1)
        first_is_label = places[:, :1] == labels
        rival = torch.where(first_is_label, top[:, 1:2], top[:, :1])
        rival_place = torch.where(first_is_label, places[:, 1:2], places[:, :1])
        own = logits.gather(1, labels)
        margin = rival - own if targeted else own - rival
        normalised = logits.shape[1] >= ranks
        low = top[:, 2:].mean(1, keepdim=True) if normalised else top[:, :1] - 1
        normaliser = top[:, :1] - low + FLOOR
        reached = (margin <= 0 if targeted else margin < 0).squeeze(1) & engine.goal.valid
        slope = derivative(Margins(margin.squeeze(1), reached, normaliser.squeeze(1)))
        slope = (slope.clamp(max=LARGEST_DERIVATIVE).to(logits.dtype) * engine.goal.valid).unsqueeze(1)
        ascent = torch.zeros_like(logits)
        ascent.scatter_add_(1, labels, sign * slope).scatter_add_(1, rival_place, -sign * slope)
        if normalised:
            through_normaliser = slope * (margin + tolerance) / normaliser
            ascent.scatter_add_(1, places[:, :1], -through_normaliser)
            for rank in range(2, ranks):
                ascent.scatter_add_(1, places[:, rank : rank + 1], through_normaliser / (ranks - 2))
        return ascent, None

    return engine.backward(points, logit_gradient)[0]
