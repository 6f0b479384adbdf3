"""FMN, DDN, DAG, the bisections of PGD and MI-FGSM, and ASMA, step by step, for one image, as published.

Written from the formulas alone, in float64, with autograd; nothing of the package is used. Every function returns the
points in the order in which the network sees them, with what a step decided there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

SHARE = 0.99


@dataclass
class Run:
    points: list = field(default_factory=list)
    shares: list = field(default_factory=list)  # of the valid pixels at their goal
    norms: list = field(default_factory=list)  # of the change, seen by the network
    radii: list = field(default_factory=list)  # to which the step after each point is bound


class Best:
    """The smallest change that succeeds; before a success, the one with the most pixels at the goal; later ones win."""

    def __init__(self):
        self.points, self.norm, self.share, self.found = None, math.inf, 0.0, False

    def offer(self, points, norm, share, required=SHARE):
        if share >= required:
            if not self.found or norm <= self.norm:
                self.points, self.norm, self.share, self.found = points, norm, share, True
        elif not self.found and share >= self.share:
            self.points, self.share = points, share


def margin(logits, labels):
    """Logit of the label minus the largest other one, per pixel."""
    own = logits.gather(1, labels[:, None])[:, 0]
    other = logits.masked_fill(F.one_hot(labels, logits.shape[1]).permute(0, 3, 1, 2).bool(), -math.inf)
    return own - other.amax(1)


def share_of(logits, labels, valid, targeted=False):
    hit = logits.argmax(1) == labels
    return (((hit if targeted else ~hit) & valid).sum() / valid.sum()).item()


def fmn_linf(network, clean, labels, valid, steps, required, first_step=10.0, gammas=(0.05, 0.001), targeted=False):
    run, best, delta, eps = Run(), Best(), torch.zeros_like(clean), math.inf
    widest = torch.maximum(clean, 1 - clean).max().item()
    sign = 1 if targeted else -1
    for i in range(steps):
        cosine = (1 + math.cos(math.pi * i / steps)) / 2
        alpha = first_step / 100 + (first_step - first_step / 100) * cosine
        gamma = gammas[1] + (gammas[0] - gammas[1]) * cosine
        points = (clean + delta).requires_grad_()
        logits = network(points)
        loss = sign * (margin(logits, labels) * valid).sum() / valid.sum()
        (gradient,) = torch.autograd.grad(loss, points)
        norm, share = delta.abs().max().item(), share_of(logits, labels, valid, targeted)
        best.offer(points.detach(), norm, share, required)
        if share >= required:
            eps = min(eps * (1 - gamma), best.norm)
        elif best.found:
            eps = eps * (1 + gamma)
        else:
            eps = norm + abs(loss.item()) / gradient.abs().sum().item()
        eps = min(eps, widest)
        run.points.append(points.detach())
        run.shares.append(share)
        run.norms.append(norm)
        run.radii.append(eps)
        delta = (delta + alpha * gradient / gradient.norm()).clamp(-eps, eps)
        delta = (clean + delta).clamp(0, 1) - clean
    return run, best


def ddn(network, clean, labels, valid, steps, required, gamma=0.05, first_norm=1.0, levels=256, targeted=False):
    run, best, delta, eps = Run(), Best(), torch.zeros_like(clean), first_norm
    widest = torch.maximum(clean, 1 - clean).norm().item()
    sign = -1 if targeted else 1
    for i in range(steps):
        alpha = 0.01 + (1 - 0.01) * (1 + math.cos(math.pi * i / steps)) / 2
        points = (clean + delta).requires_grad_()
        logits = network(points)
        loss = sign * (F.cross_entropy(logits, labels, reduction="none") * valid).sum()
        (gradient,) = torch.autograd.grad(loss, points)
        norm, share = delta.norm().item(), share_of(logits, labels, valid, targeted)
        best.offer(points.detach(), norm, share, required)
        eps = min(eps * (1 - gamma if share >= required else 1 + gamma), widest)
        run.points.append(points.detach())
        run.shares.append(share)
        run.norms.append(norm)
        run.radii.append(eps)
        delta = delta + alpha * gradient / gradient.norm()
        moved = (clean + eps * delta / delta.norm()).clamp(0, 1)
        delta = (moved * (levels - 1)).round() / (levels - 1) - clean
    return run, best


def dag(network, clean, labels, valid, steps, required, gamma=0.001, order=math.inf, targeted=False):
    """The change itself knows no box; where it leaves it, nothing pulls at it any more."""
    run, best, r = Run(), Best(), torch.zeros_like(clean)
    sign = -1 if targeted else 1
    for _ in range(steps):
        r.requires_grad_()
        points = (clean + r).clamp(0, 1)
        logits = network(points)
        gap = sign * margin(logits, labels)
        share = (((gap < 0) & valid).sum() / valid.sum()).item()
        norm = torch.linalg.vector_norm(points.detach() - clean, order).item()
        best.offer(points.detach(), norm, share, required)
        run.points.append(points.detach())
        run.shares.append(share)
        run.norms.append(norm)
        if share >= required:
            return run, best
        (gradient,) = torch.autograd.grad((gap * valid).relu().sum(), r)
        r = (r - gamma * gradient / torch.linalg.vector_norm(gradient, order)).detach()
    run.points.append((clean + r).clamp(0, 1))
    return run, best


def bisection(network, clean, labels, valid, required, searches, steps, relative_step, momentum, targeted=False):
    """The published search: the radius halves (0, 2), and every radius has its own run of all steps from zero.

    ``Run.radii`` holds the radius of every point; the best of each run is offered, whatever its radius.
    """
    run, best, low, high = Run(), Best(), 0.0, 2.0
    sign = -1 if targeted else 1
    for _ in range(searches):
        eps = (low + high) / 2
        delta, past = torch.zeros_like(clean), torch.zeros_like(clean)
        kept, kept_share = clean, 0.0
        for _ in range(steps):
            points = (clean + delta).requires_grad_()
            logits = network(points)
            loss = sign * (F.cross_entropy(logits, labels, reduction="none") * valid).sum()
            (gradient,) = torch.autograd.grad(loss, points)
            share = share_of(logits, labels, valid, targeted)
            run.points.append(points.detach())
            run.shares.append(share)
            run.radii.append(eps)
            if share >= kept_share:
                kept, kept_share = points.detach(), share
            if momentum:
                past = momentum * past + gradient / gradient.abs().sum()
                gradient = past
            delta = (delta + relative_step * eps * gradient.sign()).clamp(-eps, eps)
            delta = (clean + delta).clamp(0, 1) - clean
        best.offer(kept, (kept - clean).abs().max().item(), kept_share, required)
        low, high = (low, eps) if kept_share >= required else (eps, high)
    return run, best


def asma(network, clean, targets, valid, steps, required, tau=1e-7, beta=1e-6):
    run, best, delta = Run(), Best(), torch.zeros_like(clean)
    for i in range(steps):
        points = (clean + delta).requires_grad_()
        logits = network(points)
        predicted = logits.argmax(1)
        share, norm = share_of(logits, targets, valid, True), delta.norm().item()
        best.offer(points.detach(), norm, share, required)
        run.points.append(points.detach())
        run.shares.append(share)
        run.norms.append(norm)
        size = tau
        if i > 0:
            overlaps = []
            for k in range(logits.shape[1]):
                wanted, seen = (targets == k) & valid, (predicted == k) & valid
                overlaps.append((wanted & seen).sum().item() / ((wanted | seen).sum().item() + 1e-6))
            size = beta * sum(overlaps) / len(overlaps) + tau
        run.radii.append(size)
        missing = valid & (predicted != targets)
        change = points - clean
        loss = (logits.gather(1, targets[:, None])[:, 0] * missing).sum() - change.square().sum()
        (gradient,) = torch.autograd.grad(loss, points)
        delta = (clean + delta + size * gradient).clamp(0, 1) - clean
    return run, best
