"""ALMA-prox and ALMA (ported to segmentation) as published, step by step, for one image.

Written from the formulas alone, in float64, with autograd; nothing of the package is used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

from tests.parity.reference_min_norm import Best, margin, share_of


@dataclass
class Run:
    """Per iteration: what the network sees, and the state once the multipliers have followed it."""

    points: list = field(default_factory=list)
    multipliers: list = field(default_factory=list)
    penalties: list = field(default_factory=list)
    scales: list = field(default_factory=list)
    sizes: list = field(default_factory=list)
    dropped: list = field(default_factory=list)  # how many valid pixels the mask leaves out
    norms: list = field(default_factory=list)


def ratio(logits, labels, targeted, tolerance=1e-4):
    """The constraint of every pixel; the tolerance is on the published side, wrong where targeted."""
    top = logits.sort(dim=1, descending=True).values
    spread = top[:, 0] - ((top[:, 2] + top[:, 3]) / 2 if targeted else top[:, 2])
    value = (margin(logits, labels) + tolerance) / (spread + 1e-8)
    return -value if targeted else value


def slope_of_prox(c, rho, mu):
    """The derivative that the code of ALMA-prox writes down, which is not that of its penalty."""
    above = mu * c + 2 * mu * rho * c + rho**2 * c**2 / 2
    below = mu / (1 - rho.clamp(min=1) * c.clamp(max=0)) ** 2
    return torch.where(c >= 0, above, below)


def slope_of_cls(c, rho, mu):
    """The derivative of the penalty P2 of ALMA."""
    above = mu + 2 * mu * rho * c + rho**2 * c**2 / 2
    return torch.where(c >= 0, above, mu / (1 - rho * c.clamp(max=0)) ** 2)


def slope_of_default(c, rho, mu):
    """That of P2 for c >= 0, and below as ALMA-prox has it: what the package takes by itself."""
    return torch.where(c >= 0, slope_of_cls(c, rho, mu), slope_of_prox(c, rho, mu))


def kept_pixels(c, valid, step, steps, required):
    """All valid pixels but those with a constraint above the k-th largest, k rising to 1 - required of them."""
    k = int((1 - required) * valid.sum().item() * step / (steps - 1) + 1e-9)
    if k == 0:
        return valid
    return valid & (c <= c[valid].sort(descending=True).values[k - 1])


def prox_linf(delta, strength, metric, low, high):
    """argmin of sum(metric (p - delta)^2) / 2 + strength max|p| in the box: clip to the box and then to a bound."""
    inside = torch.minimum(torch.maximum(delta, low), high)
    small, large = 0.0, inside.abs().max().item()
    for _ in range(100):
        bound = (small + large) / 2
        beyond = inside.abs() > bound
        if (metric * (delta.abs() - bound))[beyond].sum().item() > strength:
            small = bound
        else:
            large = bound
    return inside.clamp(-large, large)


class ProxDuals:
    """Multipliers, penalty parameters and the constraints' common scale of ALMA-prox."""

    def __init__(self, valid, steps, required, slope=slope_of_prox, largest_rho=math.inf):
        self.valid, self.steps, self.required = valid, steps, required
        self.slope, self.largest_rho = slope, largest_rho
        self.mu, self.rho = (torch.full(valid.shape, first, dtype=torch.float64) for first in (1.0, 0.01))
        self.w, self.reached_lately = 1.0, torch.zeros_like(valid)

    def follow(self, constraint, hit, success, i):
        """The slope of the penalty in every constraint before it is scaled."""
        self.reached_lately |= hit
        self.w = min(max(self.w / (1.02 if success else 0.98), 0.1), 1.0)
        c = self.w * constraint
        self.mask = kept_pixels(c, self.valid, i, self.steps, self.required)
        if i == 0:
            self.previous = c
        elif (i + 1) % 10 == 0:
            improved = c * self.mask <= 0.95 * self.previous
            self.rho = torch.where(self.reached_lately | improved, self.rho, 2 * self.rho).clamp(max=self.largest_rho)
            self.previous, self.reached_lately = c, torch.zeros_like(self.valid)
        if i > 0:
            self.mu = (0.8 * self.mu + 0.2 * self.mask * self.slope(c, self.rho, self.mu)).clamp(1e-12, 1)
        return self.w * self.mask * self.slope(c, self.rho, self.mu)


def alma_prox(network, clean, labels, valid, steps, required, lr=1e-3, reduction=0.1, targeted=False):
    run, best, delta = Run(), Best(), torch.zeros_like(clean)
    square = torch.zeros_like(clean)
    duals, found_at = ProxDuals(valid, steps, required), steps // 2
    for i in range(steps):
        points = (clean + delta).requires_grad_()
        logits = network(points)
        norm, share = delta.abs().max().item(), share_of(logits, labels, valid, targeted)
        hit = logits.argmax(1) == labels
        if not best.found and share >= required and i < steps // 2:
            found_at = i
        best.offer(points.detach(), norm, share, required)
        constraint = ratio(logits, labels, targeted)
        slope = duals.follow(constraint.detach(), hit if targeted else ~hit, share >= required, i)
        (gradient,) = torch.autograd.grad((slope * constraint).sum(), points)
        horizon = reduction / (1 - reduction) * max(steps - found_at, 1)
        size = lr * horizon / (max(i - found_at, 0) + horizon)
        square = 0.8 * square + 0.2 * gradient**2
        metric = (square / (1 - 0.8 ** (i + 1))).sqrt().clamp(min=1e-8)
        run.points.append(points.detach())
        run.norms.append(norm)
        for name, value in (("multipliers", duals.mu), ("penalties", duals.rho), ("scales", duals.w), ("sizes", size)):
            getattr(run, name).append(value)
        run.dropped.append((valid & ~duals.mask).sum().item())
        delta = prox_linf(delta - size * gradient / metric, size, metric, -clean, 1 - clean)
    return run, best


def length_of_first_step(clean, gradient, wanted, order):
    """The step size at which the clipped change is ``wanted`` long: doubling, then bisection."""

    def change(size):
        return torch.linalg.vector_norm((clean - size * gradient).clamp(0, 1) - clean, order).item()

    low, high = 0.0, 1.0
    while change(high) <= wanted:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if change(middle) > wanted else (middle, high)
    return (low + high) / 2


def alma_cls(network, clean, labels, valid, steps, required, order=2, first_length=1.0, targeted=False):
    run, best, delta = Run(), Best(), torch.zeros_like(clean)
    square, momentum = torch.ones_like(clean), torch.zeros_like(clean)
    mu, rho = torch.full_like(clean[:, 0], 1e-4), torch.ones_like(clean[:, 0])
    found_at, reached_lately = steps // 2, torch.zeros_like(valid)
    for i in range(steps):
        points = (clean + delta).requires_grad_()
        logits = network(points)
        distance = torch.linalg.vector_norm(points - clean, order)
        share = share_of(logits, labels, valid, targeted)
        hit = logits.argmax(1) == labels
        reached_lately |= hit if targeted else ~hit
        if not best.found and share >= required:
            found_at = i
        best.offer(points.detach(), distance.item(), share, required)
        constraint = ratio(logits, labels, targeted)
        c = constraint.detach()
        mask = kept_pixels(c, valid, i, steps, required)
        if i == 0:
            previous = c
        elif (i + 1) % 10 == 0:
            improved = c * mask <= 0.95 * previous
            rho = torch.where(reached_lately | improved, rho, 1.2 * rho)
            previous, reached_lately = c, torch.zeros_like(valid)
        if i > 0:
            mu = (0.8 * mu + 0.2 * mask * slope_of_cls(c, rho, mu)).clamp(1e-12, 1)
        slope = (mask * slope_of_cls(c, rho, mu)).detach()
        (gradient,) = torch.autograd.grad(distance + (slope * constraint).sum(), points)
        if i == 0:
            first_size = length_of_first_step(clean, gradient, first_length, order)
        size = first_size * 0.1 ** (max(i - found_at, 0) / (steps - found_at))
        square = 0.8 * square + 0.2 * gradient**2
        momentum = 0.8 * momentum + gradient / (square.sqrt() + 1e-8)
        run.points.append(points.detach())
        run.norms.append(distance.item())
        for name, value in (("multipliers", mu), ("penalties", rho), ("sizes", size)):
            getattr(run, name).append(value)
        run.dropped.append((valid & ~mask).sum().item())
        delta = (clean + delta - size * momentum).clamp(0, 1) - clean
    return run, best
