"""ALMA-prox (Rony et al., 2023, arXiv 2206.07179): one multiplier per pixel, and an exact proximal step of the norm.

The problem, Eq. (1): the least norm of delta such that all pixels, or the share ``apsr`` of them, are at their goal
and the image stays in [0, 1]. Every pixel is a constraint, Eq. (3), with a penalty, Eq. (7) (``penalty.py``). An
iteration descends the penalties' gradient in a variable metric and takes the proximal step of norm and box in the same
metric, Eq. (17), by the root of its dual problem, one bound per image (``prox.py``).

Against the published method: the penalty has its true derivative, the normaliser of the margins takes no gradient, and
nothing shrinks or slows down before a feasible point is known. Before the iterations a bounded search grows to such a
point, after them one shrinks what was found (``ball.py``).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from segrobust.attacks.ball import BallSearch
from segrobust.attacks.base import Problem
from segrobust.attacks.margins import Margins, margin_gradient, published_gradient
from segrobust.attacks.minimum_norm import Closest, MinNormAttack
from segrobust.attacks.penalty import ProxLagrangian
from segrobust.attacks.prox import PROXES
from segrobust.attacks.registry import register_attack
from segrobust.core.errors import UserError
from segrobust.core.threats import per_image

STEP_DECAY = {"Linf": 0.1, "L2": 0.03, "L1": 0.03}
SQUARE_DECAY = 0.8  # of the running mean of the squared gradient
LEAST_METRIC = 1e-8
WARM_STEPS = 30  # first steps in the distance that a warm start has found


@register_attack
class ALMAProx(MinNormAttack):
    """Minimum-norm attack by proximal splitting with an augmented Lagrangian (arXiv 2206.07179).

    Args:
        step_size: of the first iterations, in image units: a value's move where its gradient is as large as lately.
        step_decay: step size at the end, as a share of the first; it falls from the first feasible point on. None:
            the norm's own.
        warm_share: share of the steps for the bounded search at growing radii that starts it.
        repair_share: share of the steps for shrinking what was found.
        eps_max: cap on the norm, inside the proximal step; for training. A capped attack has neither warm start nor
            repair, and spends ``steps`` gradients and two forwards on every image.
        target_apsr: required share of the pixels that are not at the goal from the beginning, in place of ``apsr`` of
            all.
        reference: the published behaviour: its derivative, gradient through the normaliser, multipliers floored as
            in its code, shrinking from the start.
    """

    step_size: float | str = 1e-3
    step_decay: float | None = None
    warm_share: float = 0.3
    repair_share: float = 0.6
    eps_max: float | str | None = None
    target_apsr: float | None = None
    reference: bool = False

    paper: ClassVar[str] = "arXiv 2206.07179"
    published: ClassVar = {"reference": True, "warm_share": 0.0, "repair_share": 0.0, "step_decay": 0.1}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.step_decay is None:
            object.__setattr__(self, "step_decay", STEP_DECAY[self.norm])
        self._numbers("step_decay", "target_apsr", above=0, up_to=1)
        self._numbers("warm_share", "repair_share", least=0)
        self._image_units("step_size", "eps_max")
        if self.warm_share + self.repair_share > 1:
            raise UserError(f"{self.name}: expected warm_share and repair_share with a sum of at most 1")

    @property
    def rounds(self) -> bool:
        return self.eps_max is None

    def phases(self) -> tuple[int, int, int]:
        """Steps of the warm start, of the proximal iterations and of the repair."""
        if self.eps_max is not None:
            return 0, self.steps, 0
        warm, repair = int(self.warm_share * self.steps), int(self.repair_share * self.steps)
        return warm, self.steps - warm - repair, repair

    def required(self, clean_error: Tensor) -> Tensor:
        if self.target_apsr is None:
            return super().required(clean_error)
        return clean_error + self.target_apsr * (1 - clean_error)

    def search(self, problem: Problem, closest: Closest) -> None:
        warm, proximal, repair = self.phases()
        ball = BallSearch(self, problem, closest, warm + repair)
        ball.run(warm)
        points = ball.points
        if proximal:
            points = ProximalSplitting(self, problem, closest, proximal, warm > 0).run()
        if repair:
            ball.run(repair)
            points = ball.points
        closest.update(points, problem.engine.measure(points).reached)


class ProximalSplitting:
    """The variable-metric forward-backward iteration on one batch.

    It minimises ``h1 + h2``: norm and box, Eq. (5), and the penalties of the pixels, Eq. (7), by Eq. (17):
    ``delta <- prox^H_{lam h1}(delta - lam H^-1 grad h2(delta))``.

    Args:
        steps: iterations N.
        warm: begin at the closest points so far, and not at the clean images.
    """

    def __init__(self, attack: ALMAProx, problem: Problem, closest: Closest, steps: int, warm: bool) -> None:
        clean = problem.clean
        self.attack, self.engine, self.closest, self.steps = attack, problem.engine, closest, steps
        self.clean, self.low, self.high = clean, -clean, 1 - clean
        self.delta = closest.points - clean if warm else torch.zeros_like(clean)
        capped, least_required = attack.eps_max is not None, attack.target_apsr or attack.apsr
        self.lagrangian = ProxLagrangian(problem.engine.goal, steps, attack.reference, capped, least_required)
        self.mean_square = torch.zeros_like(clean)
        self.cap = None if attack.eps_max is None else torch.full_like(closest.distance, attack.eps_max)
        self.first_step_size = closest.distance.new_full((len(clean),), attack.step_size)
        self.found_at = torch.full_like(closest.distance, steps // 2)
        if warm:
            self.first_step_size = torch.where(closest.found, closest.distance / WARM_STEPS, self.first_step_size)
            self.found_at = torch.where(closest.found, 0, self.found_at)

    def run(self) -> Tensor:
        """Spend the steps; the last points, which nobody has measured yet."""
        for step in range(self.steps):
            self.iterate(step)
        return self.points

    def iterate(self, step: int) -> None:
        gradient = self.penalty_gradient(step)
        self.proximal_step(gradient, self.step_size(step), self.metric(gradient, step))

    @property
    def points(self) -> Tensor:
        return (self.clean + self.delta).clamp_(0, 1)

    def penalty_gradient(self, step: int) -> Tensor:
        """Of h2: one forward, the penalties' derivative in the margins there, one backward."""
        points = self.points

        def derivative(margins: Margins) -> Tensor:
            succeeds = self.keep_closest(points, margins.reached, step)
            return self.lagrangian.derivative(margins, succeeds, self.closest.required, step)

        if self.attack.reference:
            return published_gradient(self.engine, points, derivative, self.lagrangian.tolerance)
        normaliser = self.lagrangian.needs_normaliser(step)
        return margin_gradient(self.engine, points, derivative, normaliser)[0]

    def keep_closest(self, points: Tensor, reached: Tensor, step: int) -> Tensor:
        """Which images are at their goal; from the first time on, in the first half of the steps, they slow down."""
        found_before = self.closest.found
        succeeds = self.closest.update(points, reached)
        if step < self.steps // 2:
            self.found_at = torch.where(succeeds & ~found_before, step, self.found_at)
        return succeeds

    def step_size(self, step: int) -> Tensor:
        """lam ``[N]``: hyperbolic decay from the first feasible point on; published, from half-way without one."""
        decay = self.attack.step_decay
        if decay == 1:
            return self.first_step_size
        begin = self.found_at
        if not self.attack.reference:
            begin = torch.where(self.closest.found, begin, step)
        horizon = decay / (1 - decay) * (self.steps - begin).clamp_min(1)
        return self.first_step_size * horizon / ((step - begin).clamp_min(0) + horizon)

    def metric(self, gradient: Tensor, step: int) -> Tensor:
        """H, diagonal: root of the bias-corrected running mean of the squared gradient."""
        self.mean_square.mul_(SQUARE_DECAY).addcmul_(gradient, gradient, value=1 - SQUARE_DECAY)
        return (self.mean_square / (1 - SQUARE_DECAY ** (step + 1))).sqrt_().clamp_min_(LEAST_METRIC)

    def proximal_step(self, gradient: Tensor, step_size: Tensor, metric: Tensor) -> None:
        """A gradient step in the metric, then the prox of norm and box; without a feasible point, of the box alone."""
        ahead = torch.addcdiv(self.delta, gradient.mul_(per_image(step_size)), metric, value=-1)
        strength = step_size if self.attack.reference else torch.where(self.closest.found, step_size, 0)
        self.delta = PROXES[self.attack.norm](ahead, metric, strength, self.low, self.high, self.cap)
