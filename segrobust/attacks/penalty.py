"""The penalty-Lagrangian of ALMA-prox and ALMA: one constraint, multiplier and penalty parameter per pixel.

It is ``h2 = sum_i m_i P(w c_i, rho_i, mu_i)``, Eq. (7) of ALMA-prox (arXiv 2206.07179), with constraints c_i that are
at most 0 at the goal, Eq. (3), their scale w, a mask m, multipliers mu and penalty parameters rho; P is P2 of ALMA
(Rony et al., 2021, arXiv 2011.11857). Only the derivative in the margins is needed: the input gradient takes it as
given.
"""

from __future__ import annotations

import torch
from torch import Tensor

from segrobust.attacks.margins import Margins
from segrobust.attacks.segmentation import Goal

TOLERANCE = 1e-4  # of a constraint beyond the boundary
LEAST_SCALE, SCALE_RATE = 0.1, 0.02
CHECK_EVERY, IMPROVED = 10, 0.95  # iterations between two looks at the penalty parameters; tau
LARGEST_PENALTY = 1e4
ROUNDING = 1e-5  # 1 - 0.99 in float32 is a little less than 0.01

MULTIPLIER, PENALTY = 1.0, 0.01  # of ALMA-prox, at first
MULTIPLIER_DECAY = 0.8  # alpha
LEAST_MULTIPLIER, LARGEST_MULTIPLIER = 1e-12, 1.0
PENALTY_GROWTH = 2.0  # gamma
NORMALISE_EVERY = 5  # iterations
FEW_STEPS = 20


def penalty_derivative(constraint: Tensor, penalty: Tensor) -> tuple[Tensor, Tensor]:
    """Derivative of P2 in the constraint.

    ``P2(c) = mu c + mu rho c^2 + rho^2 c^3 / 6`` for c >= 0 and ``mu c / (1 - rho c)`` below, where rho counts as at
    least 1 as in the code of ALMA-prox: that lets go of the pixels at their goal while rho is still small.

    Returns:
        (factor, offset): the derivative is ``factor * mu + offset``.
    """
    below, above = _both_sides(constraint, penalty)
    return below.add_(above, alpha=2), above.square_().mul_(0.5)


def published_derivative(constraint: Tensor, penalty: Tensor) -> tuple[Tensor, Tensor]:
    """What the code published with ALMA-prox takes for it: ``mu c`` in place of ``mu`` for c >= 0."""
    below, above = _both_sides(constraint, penalty)
    is_above = torch.ge(constraint, 0, out=torch.empty_like(constraint))  # where ``below`` is 1
    of_multiplier = below.sub_(is_above).add_(constraint.clamp_min(0))
    return of_multiplier.add_(above, alpha=2), above.square_().mul_(0.5)


def _both_sides(constraint: Tensor, penalty: Tensor) -> tuple[Tensor, Tensor]:
    """``1 / (1 - max(rho, 1) c)^2`` below 0, else 1; and ``rho c`` above, else 0."""
    below = constraint.clamp_max(0).mul_(penalty.clamp_min(1)).sub_(1).square_().reciprocal_()
    return below, (penalty * constraint).clamp_min_(0)


def adapted(value: Tensor, succeeds: Tensor, least: float, most: float) -> Tensor:
    """``value`` ``[N]``, smaller where the image reaches its goal and larger where it does not."""
    return (value * torch.where(succeeds, 1 / (1 + SCALE_RATE), 1 / (1 - SCALE_RATE))).clamp_(least, most)


class PenaltyLagrangian:
    """What both attacks share: state of all pixels ``[N, H, W]``, scale ``[N]``, and the rules it follows.

    Args:
        steps: iterations of the attack.
        multiplier, penalty: of every pixel at first.
        growth: factor on a penalty parameter.
        least_required: share of the pixels that every image must have at the goal at least, known without the device.
    """

    check_every, largest_penalty, dtype = CHECK_EVERY, LARGEST_PENALTY, torch.float32

    def __init__(
        self, goal: Goal, steps: int, multiplier: float, penalty: float, growth: float, least_required: float
    ) -> None:
        self.goal, self.steps, self.growth, self.least_required = goal, steps, growth, least_required
        self.multiplier = torch.full(goal.valid.shape, multiplier, dtype=self.dtype, device=goal.valid.device)
        self.penalty = torch.full_like(self.multiplier, penalty)
        self.scale = torch.ones(len(goal.valid), dtype=torch.float32, device=goal.valid.device)
        self.reached_since_check = torch.zeros_like(goal.valid)
        self.constraint_at_check: Tensor | None = None

    def update_scale(self, succeeds: Tensor) -> None:
        self.scale = adapted(self.scale, succeeds, LEAST_SCALE, 1)

    def mask(self, constraint: Tensor, required: Tensor, step: int) -> Tensor:
        """All pixels but the hardest judged ones, more and more of which may stay: none at first, 1 - required at the
        end."""
        progress = step / max(self.steps - 1, 1)
        spare = ((1 - required) * self.goal.pixels * progress * (1 + ROUNDING)).long().unsqueeze(1)
        flat = constraint.masked_fill(~self.goal.judged, -torch.inf).flatten(1)
        most = int((1 - self.least_required) * flat.shape[1] * progress) + 2  # its own count the device alone knows
        hardest = flat.topk(min(most, flat.shape[1])).values
        limit = hardest.gather(1, (spare - 1).clamp_(0, hardest.shape[1] - 1)).masked_fill_(spare == 0, torch.inf)
        return self.goal.valid & (flat <= limit).view_as(constraint)

    def update_penalty(self, constraint: Tensor, mask: Tensor, reached: Tensor, step: int) -> None:
        """Raise rho of the pixels that were not at the goal since the last check and have not come nearer by 5 %; one
        that is masked counts as at its goal."""
        self.reached_since_check |= reached
        first, due = self.constraint_at_check is None, (step + 1) % self.check_every == 0
        if not (first or due):
            return
        constraint = constraint.masked_fill(~self.goal.valid, 0)
        if first:
            self.constraint_at_check = constraint
        if not due:
            return
        improves = (constraint * mask <= IMPROVED * self.constraint_at_check) | self.reached_since_check
        self.penalty = torch.where(improves, self.penalty, self.growth * self.penalty).clamp_(max=self.largest_penalty)
        self.constraint_at_check, self.reached_since_check = constraint, torch.zeros_like(reached)


class ProxLagrangian(PenaltyLagrangian):
    """The penalty-Lagrangian of ALMA-prox, whose normaliser is taken as constant.

    Published (``reference``): as in the code of the paper, which shifts targeted constraints the wrong way.

    Args:
        capped: the attack has a cap on the norm; with few steps, scale and mask then stay as they are.
    """

    def __init__(self, goal: Goal, steps: int, reference: bool, capped: bool, least_required: float) -> None:
        if reference:
            self.largest_penalty, self.dtype = torch.inf, torch.float64
        else:
            self.check_every = max(2, min(CHECK_EVERY, steps // 5))
        super().__init__(goal, steps, MULTIPLIER, PENALTY, PENALTY_GROWTH, least_required)
        self.reference, self.fixed = reference, capped and steps < FEW_STEPS
        self.tolerance = -TOLERANCE if reference and goal.targeted else TOLERANCE
        self.normaliser: Tensor | None = None

    def needs_normaliser(self, step: int) -> bool:
        """Whether the margins of this iteration need their normaliser: a constant may stay for a few iterations."""
        return self.reference or step % NORMALISE_EVERY == 0

    def derivative(self, margins: Margins, succeeds: Tensor, required: Tensor, step: int) -> Tensor:
        """Of h2 in every pixel's margin, after scale, mask, penalty parameters and multipliers are updated.

        Args:
            succeeds, required: ``[N]``, which images are at their goal, and the share it takes.
        """
        if not self.fixed:
            self.update_scale(succeeds)
        if self.needs_normaliser(step):
            self.normaliser = margins.normaliser
        per_margin = self.scale.view(-1, 1, 1) / self.normaliser
        constraint = (margins.margin + self.tolerance).mul_(per_margin)  # Eq. (3), times w
        mask = self.goal.valid if self.fixed else self.mask(constraint, required, step)
        self.update_penalty(constraint, mask, margins.reached, step)
        of_penalty = published_derivative if self.reference else penalty_derivative
        factor, offset = of_penalty(constraint.to(self.multiplier.dtype), self.penalty)
        counts = mask.to(factor.dtype)
        if step:
            self.update_multiplier(torch.addcmul(offset, factor, self.multiplier).mul_(counts))
        return offset.addcmul_(factor, self.multiplier).mul_(counts) * per_margin

    def update_multiplier(self, derivative: Tensor) -> None:
        """``mu <- alpha mu + (1 - alpha) P'``, within bounds."""
        self.multiplier.lerp_(derivative, 1 - MULTIPLIER_DECAY).clamp_(LEAST_MULTIPLIER, LARGEST_MULTIPLIER)
