"""RP-PGD's regions: a pixel weight that remembers which pixels have been right in every point of the search so far."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from segrobust.attacks.base import Problem
from segrobust.attacks.bounded import PGD_SETTINGS
from segrobust.attacks.gradient import Measurement
from segrobust.attacks.gradient_attack import GradientAttack
from segrobust.attacks.registry import register_attack
from segrobust.attacks.weights import Pixels


class Regions:
    """The weight of one search (Zhang et al., AAAI 2025): a pixel is *false* where it was wrong at the first point,
    *boundary* where it has been wrong since, even if it is right again, and *true* where it never was wrong.

    With t of n steps done the regions weigh 1 - t / 2n (true), (t - 1) / 2n (boundary) and 1 / 2n (false). Each is a
    mean over the region's pixels in the image, times all of its valid pixels, which keeps half precision from
    underflow.

    Args:
        steps: n.
    """

    def __init__(self, steps: int) -> None:
        self.least = 1 / (2 * steps)
        self.false: Tensor | None = None  # [N, H, W] bool, from the first point on
        self.boundary: Tensor | None = None

    def __call__(self, pixels: Pixels) -> Tensor:
        wrong = pixels.valid & ~pixels.correct
        if self.false is None:
            self.false, self.boundary = wrong, torch.zeros_like(wrong)
        self.boundary = self.boundary | (wrong & ~self.false)
        true = pixels.valid & ~self.false & ~self.boundary
        half = pixels.progress / 2
        factors = ((true, 1 - half), (self.boundary, max(half - self.least, 0.0)), (self.false, self.least))
        weights = torch.zeros_like(pixels.log_p)
        for region, factor in factors:
            share = pixels.valid.flatten(1).sum(1) / region.flatten(1).sum(1).clamp_min(1)
            weights += region * (factor * share).view(-1, 1, 1)
        return weights


@register_attack
class RPPGD(GradientAttack):
    """True pixels first, boundary pixels more and more, false ones hardly (RP-PGD, Zhang et al., AAAI 2025).

    The region part alone: its second loss, on prototypes of features, needs more of a model than its logits. Regions
    are those of an image; the authors' code takes them over the batch. Published: radius, step size and steps of the
    paper's attacks.
    """

    paper: ClassVar[str] = "AAAI 2025, RP-PGD"
    published: ClassVar = {**PGD_SETTINGS, "eps": "8/255", "steps": 100, "step_size": 0.01, "keep": "last"}

    def weight(self, pixels: Pixels) -> Tensor:
        """At the first point of a search, without a memory yet."""
        return Regions(self.steps)(pixels)

    def begin(self, problem: Problem) -> Callable[[Tensor, float], Measurement]:
        regions = Regions(self.steps)
        return lambda points, progress: problem.engine.gradient(points, regions, progress)
