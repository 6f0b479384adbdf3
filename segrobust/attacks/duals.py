"""The penalty of ALMA-prox: constraints, multipliers and penalty parameters, one of each per pixel."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from segrobust.attacks.gradient import Engine
from segrobust.attacks.margins import FLOOR, Margins

TOLERANCE = 1e-4
FIRST_MULTIPLIER, FIRST_PENALTY = 1.0, 0.01
LEAST_MULTIPLIER, LARGEST_MULTIPLIER = 1e-12, 1.0
LARGEST_PENALTY = 1e4
LARGEST_SLOPE = 1e12  # of the unbounded reference, whose squares must stay finite
ROUNDING = 1e-5  # 1 - 0.99 in float32 is a little less than 0.01
MEMORY = 0.8
EVERY = 10  # iterations between two looks at the penalty parameters
IMPROVED = 0.95
SPREAD_EVERY = 5
LEAST_SCALE, SCALE_RATE = 0.1, 0.02


def penalty_slope(constraint: Tensor, penalty: Tensor) -> tuple[Tensor, Tensor]:
    """Derivative of the penalty-Lagrangian function P2 of ALMA (Rony et al., 2021, arXiv 2011.11857).

    ``P2(c) = mu c + mu rho c^2 + rho^2 c^3 / 6`` for c >= 0 and ``mu c / (1 - rho c)`` below, where rho counts as at
    least 1 as in the code of ALMA-prox: that lets go of the pixels at their goal while rho is still small.

    Returns:
        (factor, offset): the derivative is ``factor * mu + offset``.
    """
    scaled = (penalty * constraint).clamp_min_(0)
    below = constraint.clamp_max(0).mul_(penalty.clamp_min(1)).neg_().add_(1).square_().reciprocal_()
    return torch.where(constraint >= 0, 2 * scaled + 1, below), scaled.square_().mul_(0.5)


def reference_slope(constraint: Tensor, penalty: Tensor) -> tuple[Tensor, Tensor]:
    """What the published code takes for it: ``mu c`` in place of ``mu`` for c >= 0."""
    factor, offset = penalty_slope(constraint, penalty)
    return torch.where(constraint >= 0, factor - 1 + constraint, factor), offset


class Duals:
    """State of all pixels ``[N, H, W]`` and what they make of the margins of one iteration."""

    def __init__(self, attack, engine: Engine, steps: int) -> None:
        valid = engine.goal.valid
        kind = torch.float64 if attack.reference else torch.float32
        self.engine, self.steps, self.reference = engine, steps, attack.reference
        self.few = attack.eps_max is not None and steps < 20
        self.every = EVERY if self.reference else max(2, min(EVERY, steps // 5))
        # the published code shifts targeted constraints the wrong way
        self.tolerance = -TOLERANCE if self.reference and engine.goal.targeted else TOLERANCE
        self.multiplier = torch.full(valid.shape, FIRST_MULTIPLIER, dtype=kind, device=valid.device)
        self.penalty = torch.full_like(self.multiplier, FIRST_PENALTY)
        self.scale = torch.ones(len(valid), dtype=torch.float32, device=valid.device)
        self.reached_lately = torch.zeros_like(valid)
        self.previous: Tensor | None = None
        self.spread: Tensor | None = None

    def wants_spread(self, step: int) -> bool:
        """Whether the margins of this iteration need their normaliser: a constant may stay for a few iterations."""
        return self.reference or step % SPREAD_EVERY == 0

    def slopes(self, margins: Margins, succeeds: Tensor, required: Tensor, step: int) -> Tensor:
        """Slope of the penalty in every pixel's gap, after the multipliers have followed.

        Args:
            succeeds, required: ``[N]``, which images are at their goal, and the share it takes.
        """
        valid = self.engine.goal.valid
        self.reached_lately |= margins.reached
        if not self.few:
            factor = torch.where(succeeds, 1 / (1 + SCALE_RATE), 1 / (1 - SCALE_RATE))
            self.scale = (self.scale * factor).clamp_(LEAST_SCALE, 1)
        if self.wants_spread(step):
            self.spread = margins.spread
        scaled = self.scale.view(-1, 1, 1) / self.spread
        constraint = (margins.gap + self.tolerance) * scaled
        kept = valid if self.few else valid & self._kept(constraint, required, step)
        self._tighten(constraint.masked_fill(~valid, 0), kept, step)
        derivative = reference_slope if self.reference else penalty_slope
        constraint = constraint.to(self.multiplier.dtype)
        factor, offset = derivative(constraint, self.penalty)
        if step:
            slope = torch.addcmul(offset, factor, self.multiplier).mul_(kept)
            self.multiplier.lerp_(slope, 1 - MEMORY).clamp_(LEAST_MULTIPLIER, LARGEST_MULTIPLIER)
        return offset.addcmul_(factor, self.multiplier).mul_(kept) * scaled

    def _kept(self, constraint: Tensor, required: Tensor, step: int) -> Tensor:
        """All pixels but the hardest ones, more and more of which may stay: none at first, 1 - required at the end."""
        pixels = self.engine.goal.pixels
        progress = step / max(self.steps - 1, 1)
        spare = ((1 - required) * pixels * progress * (1 + ROUNDING)).long()
        flat = constraint.masked_fill(~self.engine.goal.valid, -torch.inf).flatten(1)
        limits = [
            image.kthvalue(len(image) - count + 1).values if count else image.new_tensor(torch.inf)
            for image, count in zip(flat, spare.tolist(), strict=True)
        ]
        return (flat <= torch.stack(limits).unsqueeze(1)).view_as(constraint)

    def _tighten(self, constraint: Tensor, kept: Tensor, step: int) -> None:
        """Double the penalty parameter of pixels that were not at the goal lately and have not come nearer; one that is
        left out counts as at its goal."""
        if self.previous is None:
            self.previous = constraint
        if (step + 1) % self.every:
            return
        improves = (constraint * kept <= IMPROVED * self.previous) | self.reached_lately
        self.penalty = torch.where(improves, self.penalty, 2 * self.penalty)
        if not self.reference:
            self.penalty.clamp_(max=LARGEST_PENALTY)
        self.previous = constraint
        self.reached_lately = torch.zeros_like(self.reached_lately)


def reference_gradient(
    engine: Engine, points: Tensor, slope: Callable[[Margins], Tensor], tolerance: float = TOLERANCE
) -> Tensor:
    """Input gradient of the constraints with the normaliser inside, as the published code takes it.

    Args:
        slope: from the margins to one factor per pixel, already over the spread.
        tolerance: what is added to a gap before it is divided by the spread.
    """

    def logit_gradient(logits: Tensor) -> tuple[Tensor, None]:
        goal = engine.goal
        labels = goal.labels.unsqueeze(1)
        top, places = logits.topk(min(4 if goal.targeted else 3, logits.shape[1]), dim=1)
        own = logits.gather(1, labels)
        mine = places[:, :1] == labels
        rival, rival_place = (
            torch.where(mine, top[:, 1:2], top[:, :1]),
            torch.where(mine, places[:, 1:2], places[:, :1]),
        )
        gap = own - rival if not goal.targeted else rival - own
        sign = -1.0 if goal.targeted else 1.0
        enough = logits.shape[1] >= (4 if goal.targeted else 3)
        low = top[:, 2:].mean(1, keepdim=True) if enough else top[:, :1] - 1
        spread = top[:, :1] - low + FLOOR
        reached = (gap <= 0 if goal.targeted else gap < 0).squeeze(1) & goal.valid
        margins = Margins(gap.squeeze(1), reached, spread.squeeze(1))
        slopes = slope(margins).clamp(max=LARGEST_SLOPE).to(logits.dtype)
        factor = (slopes * goal.valid).unsqueeze(1)
        ascent = torch.zeros_like(logits)
        ascent.scatter_add_(1, labels, sign * factor).scatter_add_(1, rival_place, -sign * factor)
        if enough:
            bent = factor * (gap + tolerance) / spread
            ascent.scatter_add_(1, places[:, :1], -bent)
            for n in range(2, top.shape[1]):
                ascent.scatter_add_(1, places[:, n : n + 1], bent / (top.shape[1] - 2))
        return ascent, None

    return engine.pull(points, logit_gradient)[0]
