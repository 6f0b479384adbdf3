"""FMN and DDN: one gradient step, then back to a norm that shrinks while the goal is reached and else grows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from segrobust.attacks.base import Problem
from segrobust.attacks.eight_bit import on_grid
from segrobust.attacks.margins import CROSS_ENTROPIES, MARGIN_LOSSES, Margins, loss_gradient, margin_gradient
from segrobust.attacks.minimum_norm import Closest, MinNormAttack
from segrobust.attacks.registry import register_attack
from segrobust.attacks.weights import cosine
from segrobust.core.threats import THREATS, per_image

LAST_STEP = 0.01
RELATIVE_STEP = {"Linf": 0.3, "L2": 0.3, "L1": 1.0}
DUAL = {"Linf": "L1", "L2": "L2", "L1": "Linf"}


@dataclass(frozen=True, kw_only=True)
class AdaptiveNorm(MinNormAttack):
    """Base of the two.

    Args:
        step_size: Euclidean length of the first step, in image units; cosine decay towards ``LAST_STEP`` of it, which
            the step after the last would have. None (FMN alone): ``RELATIVE_STEP`` of the change that fills the ball
            evenly, for images of any size.
        gamma: share by which the norm changes in the first step.
    """

    step_size: float | None = None
    gamma: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        self._numbers("step_size", above=0)
        self._numbers("gamma", above=0, below=1)

    def decayed(self, first: float, last: float, step: int) -> float:
        return cosine(first, last, step / self.steps)


@register_attack
class FMN(AdaptiveNorm):
    """Fast minimum-norm attack (Pintor et al., 2021, arXiv 2102.12827).

    Published: the Linf settings of arXiv 2206.07179, which has ``step_size=1.0`` in L2 and L1. L2 and L1 are projected
    to the nearest point of ball and box, not to the ball first and then to the box.

    Args:
        loss: ``"margin"``: mean of the label's margins over all valid pixels; ``"hinge"``: only over those not at
            their goal.
        last_gamma: share by which the norm changes in the last step.
    """

    loss: str = "hinge"
    last_gamma: float = 0.001

    paper: ClassVar[str] = "arXiv 2102.12827"
    published: ClassVar = {"norm": "Linf", "loss": "margin", "step_size": 10.0}

    def __post_init__(self) -> None:
        super().__post_init__()
        self._one_of(loss=("margin", "hinge"))
        self._numbers("last_gamma", above=0, below=1)

    def search(self, problem: Problem, closest: Closest) -> None:
        engine, clean, points = problem.engine, problem.clean, problem.clean
        widest = self.threat.distance(torch.maximum(clean, 1 - clean))
        eps = torch.full_like(widest, math.inf)
        for step in range(self.steps):
            gradient, margins = margin_gradient(engine, points, MARGIN_LOSSES[self.loss])
            success = closest.update(points, margins.reached)
            gamma = self.decayed(self.gamma, self.last_gamma, step)
            estimate = self._estimate(points - clean, gradient, margins, engine.goal.valid)
            changed = torch.where(success, torch.minimum(eps * (1 - gamma), closest.distance), eps * (1 + gamma))
            eps = torch.where(closest.found, changed, estimate).clamp_max(widest)
            length = self._first_step(eps, clean) * self.decayed(1, LAST_STEP, step)
            points = self.threat.project(points + THREATS["L2"].step(points, -gradient, length), clean, eps)
        closest.update(points, engine.measure(points).reached)

    def _first_step(self, eps: Tensor, clean: Tensor) -> Tensor:
        if self.step_size is not None:
            return torch.full_like(eps, self.step_size)
        even = torch.ones_like(clean)
        return eps * RELATIVE_STEP[self.norm] * THREATS["L2"].distance(even) / self.threat.distance(even)

    def _estimate(self, delta: Tensor, gradient: Tensor, margins: Margins, valid: Tensor) -> Tensor:
        """Distance of the clean image from where the summed margins would be 0 were they linear."""
        total = (margins.margin * MARGIN_LOSSES[self.loss](margins)).masked_fill(~valid, 0).flatten(1).sum(1).abs()
        slope = THREATS[DUAL[self.norm]].distance(gradient).clamp_min(torch.finfo(gradient.dtype).tiny)
        return self.threat.distance(delta) + total / slope


@register_attack
class DDN(AdaptiveNorm):
    """Decoupled direction and norm (Rony et al., 2019, arXiv 1811.09600).

    An image without a gradient keeps its direction, where the published code draws one at random.

    Args:
        first_eps: norm before the first step makes it smaller or larger, in image units.
        levels: values that a channel may take in every point tried, evenly from 0 to 1; None: any.
        loss: ``"masked"``: cross-entropy of the pixels not at their goal; ``"ce"``: of all valid pixels.
    """

    norm: str = "L2"
    step_size: float = 1.0
    first_eps: float = 1.0
    levels: int | None = None
    loss: str = "masked"

    norms: ClassVar[tuple[str, ...]] = ("L2",)
    paper: ClassVar[str] = "arXiv 1811.09600"
    published: ClassVar = {"loss": "ce", "levels": 256}

    def __post_init__(self) -> None:
        super().__post_init__()
        self._one_of(loss=CROSS_ENTROPIES)
        self._numbers("first_eps", above=0)
        self._whole(levels=2)

    def search(self, problem: Problem, closest: Closest) -> None:
        engine, clean, points = problem.engine, problem.clean, problem.clean
        eps = clean.new_full((len(clean),), self.first_eps)
        widest = self.threat.distance(torch.maximum(clean, 1 - clean))
        for step in range(self.steps):
            gradient, reached = loss_gradient(engine, points, self.loss)
            success = closest.update(points, reached)
            eps = torch.where(success, eps * (1 - self.gamma), eps * (1 + self.gamma)).clamp_max(widest)
            length = torch.full_like(eps, self.decayed(self.step_size, self.step_size * LAST_STEP, step))
            delta = points + self.threat.step(points, gradient, length) - clean
            scale = eps / self.threat.distance(delta).clamp_min(1e-12)  # finite: without a gradient it meets zeros
            points = (clean + delta * per_image(scale)).clamp_(0, 1)
            if self.levels is not None:
                points = engine.goal.restrict(on_grid(points, self.levels), clean)
        closest.update(points, engine.measure(points).reached)
