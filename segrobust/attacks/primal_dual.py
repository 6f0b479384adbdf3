"""Primal-dual attacks: the perturbation descends norm plus weighted constraints, whose weights ascend."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from segrobust.attacks.base import Problem
from segrobust.attacks.margins import Margins, margin_gradient
from segrobust.attacks.minimum_norm import Closest, MinNormAttack
from segrobust.attacks.prox import PROXES
from segrobust.attacks.registry import register_attack
from segrobust.core.threats import per_image

SMALLEST = 1e-12  # of a weight
LR_DECAY = 0.01  # share of the perturbation's step size that is left at the end, exponentially
DUAL_LR_DECAY = 0.1  # share of the dual step size that is left at the end, linearly
AVERAGE = 0.9  # decay of the running mean of the dual weights
INNER_STEPS, INNER_CHANGE = 5, 1e-2  # of the published prox: so many, or until the change is that share of it


class DualWeights:
    """One weight per valid pixel and one for the norm, which sum to 1: the softmax of logits, averaged over steps.

    The norm's weight is an entry of the softmax and not 1 minus the rest, so that float32 is enough.
    """

    def __init__(self, problem: Problem, least_ratio: float) -> None:
        goal = problem.engine.goal
        self.bound, self.void = -math.log(least_ratio), ~goal.valid
        share = -goal.pixels.clamp_min(1).float().log().view(-1, 1, 1)
        if goal.rest is not None:
            share = goal.balance.log() - goal.balance.flatten(1).sum(1).clamp_min(1).log().view(-1, 1, 1)
        self.logits = share.expand(goal.valid.shape).masked_fill(self.void, -math.inf)
        self.norm, self.pixels = self._weights()

    def _weights(self) -> tuple[Tensor, Tensor]:
        flat = self.logits.flatten(1)
        weights = torch.cat([torch.zeros_like(flat[:, :1]), flat], 1).softmax(1)
        return weights[:, 0], weights[:, 1:].reshape(self.logits.shape).contiguous()

    @property
    def total(self) -> Tensor:
        """Weight of all pixels together, ``[N]``."""
        return self.pixels.flatten(1).sum(1).clamp_min(SMALLEST)

    def slope(self, margins: Margins) -> Tensor:
        """Of the weighted softplus of the margins.

        Not by ``torch.sigmoid``, which on a CPU depends on where in the memory a value lies, and so on neighbours.
        """
        return self.pixels / (1 + margins.margin.neg().exp())

    def ascend(self, margins: Margins, rate: float) -> None:
        moved = (self.logits + rate * margins.margin.sign().to(self.logits)).clamp_(-self.bound, self.bound)
        self.logits = moved.masked_fill_(self.void, -math.inf)
        norm, pixels = self._weights()
        self.norm = torch.lerp(norm, self.norm, AVERAGE)
        self.pixels = torch.lerp(pixels, self.pixels, AVERAGE)


class Adam:
    """Bias-corrected moments (Kingma & Ba, 2015, arXiv 1412.6980)."""

    decays = 0.9, 0.999

    def __init__(self, like: Tensor) -> None:
        self.moments = [torch.zeros_like(like), torch.zeros_like(like)]
        self.steps = 0

    def __call__(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Direction, and the root mean square it is to be divided by."""
        self.steps += 1
        powers = (gradient, gradient.square())
        for moment, power, decay in zip(self.moments, powers, self.decays, strict=True):
            moment.lerp_(power, 1 - decay)
        first, second = (m / (1 - d**self.steps) for m, d in zip(self.moments, self.decays, strict=True))
        return first, second.sqrt_().add_(1e-8)


@dataclass(frozen=True, kw_only=True)
class PrimalDual(MinNormAttack):
    """What PDPGD and PDGD share.

    Args:
        lr: first step size of the perturbation (Adam), in image units.
        dual_lr: first step size of the dual logits.
    """

    lr: float = 0.01
    dual_lr: float = 0.1

    paper: ClassVar[str] = "arXiv 2106.01538"
    published: ClassVar = {}
    least_ratio: ClassVar[float] = 1e-12  # of a pixel's weight to the norm's, and the other way round

    def __post_init__(self) -> None:
        super().__post_init__()
        self._numbers("lr", "dual_lr", above=0)

    def move(self, delta: Tensor, gradient: Tensor, duals: DualWeights, adam: Adam, lr: float, clean: Tensor) -> Tensor:
        """The next perturbation, between ``-clean`` and ``1 - clean``."""
        raise NotImplementedError

    def search(self, problem: Problem, closest: Closest) -> None:
        engine, clean = problem.engine, problem.clean
        duals, adam = DualWeights(problem, self.least_ratio), Adam(clean)
        delta, points = torch.zeros_like(clean), clean
        for step in range(self.steps):
            gradient, margins = margin_gradient(engine, points, duals.slope)
            closest.update(points, margins.reached)
            lr = self.lr * LR_DECAY ** (step / self.steps)
            delta = self.move(delta, gradient, duals, adam, lr, clean)
            left = 1 - step / max(self.steps - 1, 1)
            duals.ascend(margins, self.dual_lr * (DUAL_LR_DECAY + (1 - DUAL_LR_DECAY) * left))
            points = (clean + delta).clamp_(0, 1)
        closest.update(points, engine.measure(points).reached)


@register_attack
class PDGD(PrimalDual):
    """Primal-dual gradient descent on norm and constraints together (Matyasko & Chau, 2021, arXiv 2106.01538)."""

    norm: str = "L2"
    norms: ClassVar[tuple[str, ...]] = ("L2",)
    least_ratio: ClassVar[float] = 1e-6

    def move(self, delta: Tensor, gradient: Tensor, duals: DualWeights, adam: Adam, lr: float, clean: Tensor) -> Tensor:
        shrink = duals.norm / self.threat.distance(delta).clamp_min(SMALLEST)
        direction, scale = adam(gradient + delta * per_image(shrink))
        return torch.clamp(delta - lr * direction / scale, -clean, 1 - clean)


@register_attack
class PDPGD(PrimalDual):
    """Primal-dual proximal gradient descent: Adam on the constraints, then the norm's prox in Adam's metric
    (Matyasko & Chau, 2021, arXiv 2106.01538).

    Args:
        reference: the behaviour of the code published with arXiv 2206.07179: the prox is approached in up to five inner
            steps, and the constraints' gradient shrinks with their weight against the norm, which counts it twice.
            Without, the prox is exact, and the gradient is that of weights which sum to 1.
    """

    reference: bool = False
    published: ClassVar = {"reference": True}

    def move(self, delta: Tensor, gradient: Tensor, duals: DualWeights, adam: Adam, lr: float, clean: Tensor) -> Tensor:
        direction, scale = adam(gradient if self.reference else gradient / per_image(duals.total))
        largest = scale.flatten(1).amax(1)
        strength = duals.norm / duals.total * lr / largest
        ahead, metric = delta - lr * direction / scale, scale / per_image(largest)
        if self.reference:
            return self._inner_prox_steps(torch.clamp(ahead, -clean, 1 - clean), metric, strength, clean)
        return PROXES[self.norm](ahead, metric, strength, -clean, 1 - clean)

    def _inner_prox_steps(self, target: Tensor, metric: Tensor, strength: Tensor, clean: Tensor) -> Tensor:
        """Proximal gradient steps from ``target`` towards the prox in ``metric`` there."""
        identity, free = torch.ones_like(metric), torch.full_like(metric, math.inf)
        found, running = target, torch.ones_like(strength, dtype=torch.bool)
        for _ in range(INNER_STEPS):
            ahead = found - metric * (found - target)
            new = torch.clamp(PROXES[self.norm](ahead, identity, strength, -free, free), -clean, 1 - clean)
            change = (new - found).flatten(1).norm(dim=1)
            found = torch.where(per_image(running), new, found)
            running = running & (change > INNER_CHANGE * new.flatten(1).norm(dim=1))
        return found
