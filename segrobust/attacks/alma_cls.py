"""ALMA for classification, with every pixel a constraint of its own: gradient steps on the norm plus penalties.

attack = ALMACls(norm="L2", steps=500)
result = attack(model, images, labels)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from segrobust.attacks.base import Problem
from segrobust.attacks.duals import ROUNDING, TOLERANCE, penalty_slope, reference_gradient
from segrobust.attacks.margins import Margins, pull_margins
from segrobust.attacks.minimum_norm import Closest, MinNormAttack
from segrobust.attacks.registry import register_attack
from segrobust.core.errors import UserError
from segrobust.core.threats import per_image

FIRST_CHANGE = 0.3 / 255  # of every channel value in the first step, where its length is not given
LEAST_MULTIPLIER, LARGEST_MULTIPLIER, LARGEST_OF_REFERENCE = 1e-12, 1e12, 1.0
LARGEST_PENALTY = 1e4
EVERY, IMPROVED, TIGHTER = 10, 0.95, 1.2  # looks at the penalty parameters
LEAST_SCALE, RATE = 0.1, 0.02


@register_attack
@dataclass(frozen=True, kw_only=True)
class ALMACls(MinNormAttack):
    """Augmented Lagrangian minimum-norm attack (Rony et al., 2021, arXiv 2011.11857), ported to segmentation.

    The baseline that ALMA-prox was derived from: the norm is descended by its gradient, not by its prox. Published: its
    L2 settings in arXiv 2206.07179; the L1 ones differ by ``init_lr_distance=1000.0``.

    Args:
        steps: gradients, each of one forward and one backward.
        init_lr_distance: norm of the first step, which sets the step size; None: that of 0.3/255 in every value.
        lr_reduction: share of the step size that is left at the end; it falls from the first success on.
        alpha: decay of the running means of multipliers, squared gradient and momentum.
        first_multiplier, first_penalty: where every pixel begins.
        largest_tolerance: bound on how far beyond the boundary pixels are to go, relative to the spread of the logits;
            follows the image: up where it misses the goal, down where it reaches it. Without, pixels end scattered
            about the boundary, and the goal is missed in the last steps.
        masking: leave out more and more of the hardest pixels, as many as may miss the goal in the end.
        reference: the published behaviour: every value has its own mean square, from 1 on; multipliers stay below 1;
            the constraints' scale and the tolerance, which is one of the logits, stay as they are; gradient flows
            through the normaliser; ``init_lr_distance`` is the length of the bare gradient times the step size.
    """

    norm: str = "L2"
    steps: int = 500
    init_lr_distance: float | None = None
    lr_reduction: float = 0.1
    alpha: float = 0.8
    first_multiplier: float = 1e-4
    first_penalty: float = 1.0
    largest_tolerance: float = 0.1
    masking: bool = True
    reference: bool = False

    norms: ClassVar[tuple[str, ...]] = ("L2", "L1")
    paper: ClassVar[str] = "arXiv 2011.11857"
    can_target: ClassVar[bool] = True
    published: ClassVar = {"norm": "L2", "init_lr_distance": 1.0, "reference": True}

    def __post_init__(self) -> None:
        super().__post_init__()
        self._whole(steps=1)
        self._numbers("lr_reduction", "alpha", "first_multiplier", "first_penalty", "largest_tolerance")
        if self.init_lr_distance is not None:
            self._numbers("init_lr_distance")
            if self.init_lr_distance <= 0:
                raise UserError(f"{self.name}: expected init_lr_distance > 0, got {self.init_lr_distance}")
        if not (0 < self.lr_reduction <= 1 and 0 <= self.alpha < 1):
            raise UserError(f"{self.name}: expected 0 < lr_reduction <= 1 and 0 <= alpha < 1")
        if self.largest_tolerance < TOLERANCE:
            raise UserError(f"{self.name}: expected largest_tolerance >= {TOLERANCE}, got {self.largest_tolerance}")
        if min(self.first_multiplier, self.first_penalty) <= 0:
            raise UserError(f"{self.name}: expected first_multiplier and first_penalty > 0")

    def search_passes(self) -> tuple[int, int]:
        return self.steps + 1, self.steps

    def search(self, problem: Problem, closest: Closest) -> None:
        engine, clean = problem.engine, problem.clean
        constraints = Constraints(self, problem, closest)
        points, scaled = clean, (self._scaled_by_value if self.reference else self._scaled_by_image)(clean)
        momentum = torch.zeros_like(clean)
        found_at = torch.full_like(closest.distance, self.steps // 2)
        for step in range(self.steps):
            before, slope = closest.found, constraints.slope_at(points, step)
            if self.reference:
                gradient = reference_gradient(engine, points, slope, constraints.least_tolerance)
            else:
                gradient, _ = pull_margins(engine, points, slope, spread=True)
            latest = step if self.reference else found_at.clamp_max(step)
            found_at = torch.where(closest.found & ~before, latest, found_at)
            gradient = gradient + self._norm_gradient(points - clean)
            momentum = self.alpha * momentum + scaled(gradient)
            if step == 0:
                first_size = self._line_search(clean, gradient if self.reference else momentum)
            decay = (step - found_at).clamp_min(0) / (self.steps - found_at)
            points = (points - momentum * per_image(first_size * self.lr_reduction**decay)).clamp_(0, 1)
        closest.offer(points, engine.measure(points).reached)

    def _scaled_by_image(self, clean: Tensor) -> Callable[[Tensor], Tensor]:
        """A gradient over its root mean square length."""
        square, weight = torch.zeros_like(clean[:, 0, 0, 0]), 0.0

        def scaled(gradient: Tensor) -> Tensor:
            nonlocal square, weight
            square = torch.lerp(gradient.flatten(1).square().sum(1), square, self.alpha)
            weight = 1 - self.alpha + self.alpha * weight
            return gradient / per_image((square / weight).sqrt().clamp_min(1e-12))

        return scaled

    def _scaled_by_value(self, clean: Tensor) -> Callable[[Tensor], Tensor]:
        """A gradient over the root mean square of every value."""
        square = torch.ones_like(clean)

        def scaled(gradient: Tensor) -> Tensor:
            square.lerp_(gradient.square(), 1 - self.alpha)
            return gradient / square.sqrt().add_(1e-8)

        return scaled

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


class Constraints:
    """One per pixel, ``[N, H, W]``: its multiplier, its penalty parameter, and what became of it lately."""

    def __init__(self, attack: ALMACls, problem: Problem, closest: Closest) -> None:
        self.attack, self.closest, self.goal = attack, closest, problem.engine.goal
        valid = self.goal.valid
        self.multiplier = torch.full(valid.shape, attack.first_multiplier, device=valid.device)
        self.penalty = torch.full_like(self.multiplier, attack.first_penalty)
        self.scale = torch.ones_like(closest.distance)
        # the published code shifts targeted constraints the wrong way
        self.least_tolerance = -TOLERANCE if attack.reference and self.goal.targeted else TOLERANCE
        self.tolerance = torch.full_like(self.scale, self.least_tolerance)
        self.reached_lately = torch.zeros_like(valid)
        self.previous: Tensor | None = None

    def slope_at(self, points: Tensor, step: int):
        """What ``pull_margins`` asks for: offers the points and lets the multipliers follow the margins there."""

        def slope(margins: Margins) -> Tensor:
            succeeds = self.closest.offer(points, margins.reached)
            if not self.attack.reference:
                self._follow(succeeds, step)
            factor = self.scale.view(-1, 1, 1) / margins.spread.float()
            beyond = factor if self.attack.reference else self.scale.view(-1, 1, 1)
            constraint = (margins.gap * factor + self.tolerance.view(-1, 1, 1) * beyond).float()
            constraint = constraint.masked_fill(~self.goal.valid, 0)
            kept = self._kept(constraint, step)
            self._tighten(constraint, kept, margins.reached, step)
            rate, offset = penalty_slope(constraint, self.penalty)
            if step:
                pressure = (rate * self.multiplier + offset) * kept
                largest = LARGEST_OF_REFERENCE if self.attack.reference else LARGEST_MULTIPLIER
                self.multiplier = torch.lerp(pressure, self.multiplier, self.attack.alpha)
                self.multiplier.clamp_(LEAST_MULTIPLIER, largest)
            return (rate * self.multiplier + offset) * kept * factor

        return slope

    def _follow(self, succeeds: Tensor, step: int) -> None:
        """Scale and tolerance: up where the image misses its goal, down where it reaches it."""
        factor = torch.where(succeeds, 1 / (1 + RATE), 1 / (1 - RATE))
        self.scale = (self.scale * factor).clamp_(LEAST_SCALE, 1)
        if step:
            self.tolerance = (self.tolerance * factor).clamp_(TOLERANCE, self.attack.largest_tolerance)

    def _kept(self, constraint: Tensor, step: int) -> Tensor:
        """All pixels but the hardest: none of them at first, in the end as many as may miss the goal."""
        kept = self.goal.valid
        if not self.attack.masking:
            return kept
        progress = step / max(self.attack.steps - 1, 1)
        spare = ((1 - self.closest.required) * self.goal.pixels * progress * (1 + ROUNDING)).long().tolist()
        limits = [
            image[valid].topk(count).values[-1] if count > 0 else image.new_tensor(math.inf)
            for image, valid, count in zip(constraint, kept, spare, strict=True)
        ]
        return kept & (constraint <= torch.stack(limits).view(-1, 1, 1))

    def _tighten(self, constraint: Tensor, kept: Tensor, reached: Tensor, step: int) -> None:
        """Raise the penalty parameter of pixels that were not at the goal lately and have not come nearer; one that is
        left out counts as at its goal."""
        self.reached_lately = self.reached_lately | reached
        if self.previous is None:
            self.previous = constraint
        if (step + 1) % EVERY:
            return
        improves = (constraint * kept <= IMPROVED * self.previous) | self.reached_lately
        self.penalty = torch.where(improves, self.penalty, TIGHTER * self.penalty).clamp_(max=LARGEST_PENALTY)
        self.previous, self.reached_lately = constraint, torch.zeros_like(reached)
