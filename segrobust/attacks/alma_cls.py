"""ALMA for classification, with every pixel a constraint of its own: gradient steps on the norm plus penalties."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from segrobust.attacks.base import Problem
from segrobust.attacks.margins import Margins, margin_gradient, published_gradient
from segrobust.attacks.minimum_norm import Closest, MinNormAttack
from segrobust.attacks.penalty import TOLERANCE, PenaltyLagrangian, adapted, penalty_derivative
from segrobust.attacks.registry import register_attack
from segrobust.core.threats import per_image

FIRST_CHANGE = 0.3 / 255  # of every channel value in the first step, where its length is not given
DECAY = 0.8  # alpha: of the running means of multipliers, squared gradient and momentum
STEP_DECAY = 0.1  # share of the step size that is left at the end; it falls from the first success on
MULTIPLIER, PENALTY = 1e-4, 1.0  # of every pixel at first
LEAST_MULTIPLIER, LARGEST_MULTIPLIER, LARGEST_OF_REFERENCE = 1e-12, 1e12, 1.0
PENALTY_GROWTH = 1.2  # gamma
LARGEST_TOLERANCE = 0.1


@register_attack
class ALMACls(MinNormAttack):
    """Augmented Lagrangian minimum-norm attack (Rony et al., 2021, arXiv 2011.11857), ported to segmentation.

    The baseline that ALMA-prox was derived from: the norm is descended by its gradient, not by its prox. How far beyond
    the boundary pixels are to go, relative to the normaliser of the margins, follows the image: up where it misses the
    goal, down where it reaches it. Else pixels end scattered about the boundary, and the goal is missed in the last
    steps. Published: its L2 settings in arXiv 2206.07179; the L1 ones differ by ``init_lr_distance=1000.0``.

    Args:
        init_lr_distance: norm of the first step, which sets the step size; None: that of 0.3/255 in every value.
        masking: leave out more and more of the hardest pixels, as many as may miss the goal in the end.
        reference: the published behaviour: every value has its own mean square, from 1 on; multipliers stay below 1;
            the constraints' scale and the tolerance, which is one of the logits, stay as they are; gradient flows
            through the normaliser; ``init_lr_distance`` is the length of the bare gradient times the step size.
    """

    norm: str = "L2"
    init_lr_distance: float | None = None
    masking: bool = True
    reference: bool = False

    norms: ClassVar[tuple[str, ...]] = ("L2", "L1")
    paper: ClassVar[str] = "arXiv 2011.11857"
    published: ClassVar = {"norm": "L2", "init_lr_distance": 1.0, "reference": True}

    def __post_init__(self) -> None:
        super().__post_init__()
        self._numbers("init_lr_distance", above=0)

    def search(self, problem: Problem, closest: Closest) -> None:
        engine, clean = problem.engine, problem.clean
        lagrangian = ClsLagrangian(self, problem, closest)
        normalised = _normaliser_per_value(clean) if self.reference else _normaliser_per_image(clean)
        points, momentum = clean, torch.zeros_like(clean)
        found_at = torch.full_like(closest.distance, self.steps // 2)
        for step in range(self.steps):
            found_before, derivative = closest.found, lagrangian.derivative_at(points, step)
            if self.reference:
                gradient = published_gradient(engine, points, derivative, lagrangian.least_tolerance)
            else:
                gradient, _ = margin_gradient(engine, points, derivative, normaliser=True)
            latest = step if self.reference else found_at.clamp_max(step)
            found_at = torch.where(closest.found & ~found_before, latest, found_at)
            gradient = gradient + self._norm_gradient(points - clean)
            momentum = DECAY * momentum + normalised(gradient)
            if step == 0:
                first_size = self._line_search(clean, gradient if self.reference else momentum)
            progress = (step - found_at).clamp_min(0) / (self.steps - found_at)
            points = (points - momentum * per_image(first_size * STEP_DECAY**progress)).clamp_(0, 1)
        closest.update(points, engine.measure(points).reached)

    def _norm_gradient(self, delta: Tensor) -> Tensor:
        if self.norm == "L1":
            return delta.sign()
        return delta / per_image(self.threat.distance(delta).clamp_min(1e-12))

    def _line_search(self, clean: Tensor, direction: Tensor) -> Tensor:
        """Step size ``[N]`` at which the first step, inside the box, has its length; no passes."""
        values = clean[0].numel()
        wanted = self.init_lr_distance or FIRST_CHANGE * (values if self.norm == "L1" else math.sqrt(values))

        def falls_short(size: Tensor) -> Tensor:
            return self.threat.distance((clean - direction * per_image(size)).clamp_(0, 1) - clean) < wanted

        low = torch.zeros_like(direction[:, 0, 0, 0])
        high = wanted / self.threat.distance(direction).clamp_min(1e-12)
        for _ in range(10):  # the box may leave no room for more
            short = falls_short(high)
            low, high = torch.where(short, high, low), torch.where(short, 2 * high, high)
        for _ in range(20):
            middle = (low + high) / 2
            short = falls_short(middle)
            low, high = torch.where(short, middle, low), torch.where(short, high, middle)
        return (low + high) / 2


def _normaliser_per_image(clean: Tensor) -> Callable[[Tensor], Tensor]:
    """A gradient over its root mean square length."""
    square, weight = torch.zeros_like(clean[:, 0, 0, 0]), 0.0

    def normalised(gradient: Tensor) -> Tensor:
        nonlocal square, weight
        square = torch.lerp(gradient.flatten(1).square().sum(1), square, DECAY)
        weight = 1 - DECAY + DECAY * weight
        return gradient / per_image((square / weight).sqrt().clamp_min(1e-12))

    return normalised


def _normaliser_per_value(clean: Tensor) -> Callable[[Tensor], Tensor]:
    """A gradient over the root mean square of every value."""
    square = torch.ones_like(clean)

    def normalised(gradient: Tensor) -> Tensor:
        square.lerp_(gradient.square(), 1 - DECAY)
        return gradient / square.sqrt().add_(1e-8)

    return normalised


class ClsLagrangian(PenaltyLagrangian):
    """ALMA's penalties of the margins over their normaliser, beyond the boundary by a tolerance ``[N]``.

    Published (``reference``): the code shifts targeted constraints the wrong way.
    """

    def __init__(self, attack: ALMACls, problem: Problem, closest: Closest) -> None:
        goal = problem.engine.goal
        super().__init__(goal, attack.steps, MULTIPLIER, PENALTY, PENALTY_GROWTH, attack.apsr)
        self.attack, self.closest = attack, closest
        self.least_tolerance = -TOLERANCE if attack.reference and goal.targeted else TOLERANCE
        self.tolerance = torch.full_like(self.scale, self.least_tolerance)

    def derivative_at(self, points: Tensor, step: int) -> Callable[[Margins], Tensor]:
        """Of the penalties in the margins, once the points are kept and the multipliers have followed."""

        def derivative(margins: Margins) -> Tensor:
            succeeds = self.closest.update(points, margins.reached)
            if not self.attack.reference:
                self.update_scale(succeeds)
                if step:
                    self.tolerance = adapted(self.tolerance, succeeds, TOLERANCE, LARGEST_TOLERANCE)
            scale = self.scale.view(-1, 1, 1)
            per_margin = scale / margins.normaliser.float()
            beyond = self.tolerance.view(-1, 1, 1) * (per_margin if self.attack.reference else scale)
            constraint = (margins.margin * per_margin + beyond).float().masked_fill(~self.goal.valid, 0)
            mask = self.goal.valid
            if self.attack.masking:
                mask = self.mask(constraint, self.closest.required, step)
            self.update_penalty(constraint, mask, margins.reached, step)
            factor, offset = penalty_derivative(constraint, self.penalty)
            if step:
                self.update_multiplier((factor * self.multiplier + offset) * mask)
            return (factor * self.multiplier + offset) * mask * per_margin

        return derivative

    def update_multiplier(self, derivative: Tensor) -> None:
        largest = LARGEST_OF_REFERENCE if self.attack.reference else LARGEST_MULTIPLIER
        self.multiplier = torch.lerp(derivative, self.multiplier, DECAY).clamp_(LEAST_MULTIPLIER, largest)
