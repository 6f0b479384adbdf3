"""PDGD and PDPGD as published with ALMA-prox, step by step, for one image.

Written from the formulas alone, in float64, with autograd; nothing of the package is used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from tests.parity.reference_min_norm import Best, margin, share_of


@dataclass
class Run:
    points: list = field(default_factory=list)
    weights: list = field(default_factory=list)  # of the pixels' constraints, averaged, seen by each gradient
    norms: list = field(default_factory=list)


class Duals:
    """Logits of the pixels' weights beside a 0 for the norm; void pixels have none."""

    def __init__(self, valid, least_ratio):
        self.valid, self.bound = valid, -math.log(least_ratio)
        start = -math.log(valid.sum().item())
        self.logits = torch.full(valid.shape, start, dtype=torch.float64).masked_fill(~valid, -math.inf)
        self.average = self.weights()

    def weights(self):
        return (
            torch.cat([torch.zeros(1, dtype=torch.float64), self.logits.flatten()]).softmax(0)[1:].view_as(self.logits)
        )

    def ascend(self, gap, rate):
        moved = (self.logits + rate * gap.sign()).clamp(-self.bound, self.bound)
        self.logits = moved.masked_fill(~self.valid, -math.inf)


class Adam:
    def __init__(self):
        self.first = self.second = 0.0
        self.count = 0

    def step(self, gradient):
        self.count += 1
        self.first = 0.9 * self.first + 0.1 * gradient
        self.second = 0.999 * self.second + 0.001 * gradient**2
        root = (self.second / (1 - 0.999**self.count)).sqrt() + 1e-8
        return self.first / (1 - 0.9**self.count), root


def box(delta, clean):
    return (clean + delta).clamp(0, 1) - clean


def on_l1_ball(x, radius):
    """Nearest point with a sum of absolute values of at most ``radius``, by a threshold found from sorted values."""
    if x.abs().sum() <= radius:
        return x
    ordered = x.abs().flatten().sort(descending=True).values
    excess = (ordered.cumsum(0) - radius) / torch.arange(1, len(ordered) + 1)
    threshold = excess[ordered > excess][-1]
    return x.sign() * (x.abs() - threshold).clamp(min=0)


def plain_prox(x, strength, order):
    if order == math.inf:
        return x - on_l1_ball(x, strength)
    if order == 2:
        return x * max(0.0, 1 - strength / x.norm().item())
    return x.sign() * (x.abs() - strength).clamp(min=0)


def descend_both(delta, gradient, duals, adam, lr, clean):
    """PDGD: the norm's gradient with what weight the pixels leave it."""
    length = delta.norm()
    left = 1 - duals.average.sum()
    direction, root = adam.step(gradient + (left * delta / length if length > 0 else 0.0))
    return box(delta - lr * direction / root, clean)


def descend_and_prox(order):
    """PDPGD: a step on the constraints, then at most five steps towards the norm's prox in Adam's metric."""

    def move(delta, gradient, duals, adam, lr, clean):
        direction, root = adam.step(gradient)
        target = box(delta - lr * direction / root, clean)
        total = duals.average.sum().item()
        strength = (1 - total) / total * lr / root.max().item()
        metric, found = root / root.max(), target
        for _ in range(5):
            new = box(plain_prox(found - metric * (found - target), strength, order), clean)
            change, found = (new - found).norm().item(), new
            if not change > 1e-2 * found.norm().item():
                break
        return found

    return move


def primal_dual(network, clean, labels, valid, steps, required, move, order, lr, dual_lr, least_ratio, targeted=False):
    run, best, delta = Run(), Best(), torch.zeros_like(clean)
    duals, adam = Duals(valid, least_ratio), Adam()
    for i in range(steps):
        if i > 0:
            duals.average = 0.9 * duals.average + 0.1 * duals.weights()
        points = (clean + delta).requires_grad_()
        logits = network(points)
        norm = torch.linalg.vector_norm(delta, order).item()
        best.offer(points.detach(), norm, share_of(logits, labels, valid, targeted), required)
        gap = margin(logits, labels) * (-1 if targeted else 1)
        (gradient,) = torch.autograd.grad((duals.average * F.softplus(gap)).sum(), points)
        run.points.append(points.detach())
        run.weights.append(duals.average)
        run.norms.append(norm)
        delta = move(delta, gradient, duals, adam, lr * 0.01 ** (i / steps), clean)
        duals.ascend(gap.detach(), dual_lr * ((steps - 1 - i) / (steps - 1) * (1 - 0.1) + 0.1))
    return run, best
