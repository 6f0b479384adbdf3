"""The losses of the minimum-norm attacks that follow no penalty, by name: weighted cross-entropies, and margins."""

from __future__ import annotations

import torch
from torch import Tensor

from segrobust.attacks.gradient import Engine
from segrobust.attacks.margins import Margins, margin_gradient
from segrobust.attacks.weights import ce, masked
from segrobust.core.threats import per_image


def every_pixel(margins: Margins) -> Tensor:
    """Slope of the summed margins of all valid pixels."""
    return torch.ones_like(margins.margin)


def unreached(margins: Margins) -> Tensor:
    """Slope of the summed margins of the pixels that are not at their goal."""
    return ~margins.reached


def over_normaliser(margins: Margins) -> Tensor:
    """Slope of the difference-of-logits ratio (Croce & Hein, 2020, arXiv 2003.01690), its normaliser constant."""
    return margins.normaliser.reciprocal()


CROSS_ENTROPIES = {"masked": masked, "ce": ce}
MARGIN_LOSSES = {"margin": every_pixel, "hinge": unreached, "dlr": over_normaliser}


def loss_gradient(engine: Engine, points: Tensor, loss: str) -> tuple[Tensor, Tensor]:
    """Input gradient towards the goal, ``[N, 3, H, W]``, and the pixels that are there, ``[N, H, W]`` bool."""
    if loss in CROSS_ENTROPIES:
        measured = engine.gradient(points, CROSS_ENTROPIES[loss], 0.0)
        return measured.gradient, measured.reached
    gradient, margins = margin_gradient(engine, points, MARGIN_LOSSES[loss], normaliser=loss == "dlr")
    return -gradient, margins.reached


def normalised(gradient: Tensor) -> Tensor:
    """Of length 1 in L1."""
    return gradient / per_image(gradient.abs().flatten(1).sum(1).clamp_min(torch.finfo(gradient.dtype).tiny))
