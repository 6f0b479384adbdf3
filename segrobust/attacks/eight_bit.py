"""Minimum norms among the images that an 8-bit file can hold: what rounding breaks is repaired on the grid of levels.

The float perturbation is rounded first. In Linf every image then works at a level, a radius in 1/255, with sign steps
on the grid: a success makes the next level the next smaller one; before the first, levels that fail grow. In L2 and L1
half of the steps scale the perturbation before it is rounded, up to the first success and then by bisection; the other
half starts from the plain rounding and moves the values with the largest gradients by one level each.
"""

from __future__ import annotations

import torch
from torch import Tensor

from segrobust.attacks.base import Problem
from segrobust.attacks.margins import margin_gradient, unreached
from segrobust.core.threats import per_image

LEVELS = 255
PATIENCE = 8  # steps at one level
GROWTH = 1.25
SLACK = 1e-3  # of a level: distances are exact up to float32
BELOW = 0.1  # of a level: the next radius below one; from a clean image on the grid, that is the next whole level
MOVED = 0.1  # of the budget spent so far, in one step of the greedy repair
LEAST_MOVED = 1e-3  # of all values


def on_grid(points: Tensor, levels: int = LEVELS + 1) -> Tensor:
    """The nearest 8-bit images, or those of another number of even ``levels`` from 0 to 1."""
    return (points * (levels - 1)).round_().clamp_(0, levels - 1) / (levels - 1)


def grid_passes(norm: str, steps: int) -> tuple[int, int]:
    """Forwards and backwards of :func:`search_grid`."""
    return steps + 2, steps if norm == "Linf" else steps - steps // 2


def search_grid(problem: Problem, points: Tensor, grid, norm: str, steps: int) -> None:
    """Update ``grid`` with 8-bit images.

    Args:
        points: the closest float images that a search has found.
        grid: a :class:`segrobust.attacks.minimum_norm.Closest` that knows what is required and has no points yet.
        steps: gradients and, in L2 and L1, forwards.
    """
    rounded = problem.engine.goal.restrict(on_grid(points), problem.clean)
    grid.update(rounded, problem.engine.measure(rounded).reached)
    if norm == "Linf":
        last = _walk_levels(problem, points, grid, steps)
    else:
        _scale(problem, points, grid, steps // 2)
        last = _greedy(problem, rounded, grid, steps - steps // 2)
    grid.update(last, problem.engine.measure(last).reached)


def _walk_levels(problem: Problem, points: Tensor, grid, steps: int) -> Tensor:
    clean, engine = problem.clean, problem.engine
    distance = grid.attack.threat.distance
    whole = (distance(points - clean) * LEVELS - SLACK).ceil().clamp_min(1)
    level = torch.where(grid.found, grid.distance * LEVELS - BELOW, whole)
    restrict, delta = engine.goal.restrict, points - clean
    largest = (distance(delta) * LEVELS).clamp_min(SLACK)
    points = restrict(_into(clean + delta * per_image(level / largest), clean, level), clean)
    tried = torch.zeros_like(level)
    for _ in range(steps):
        gradient, margins = margin_gradient(engine, points, unreached)
        succeeds = grid.update(points, margins.reached)
        tried = tried + 1
        fails = ~grid.found & (tried >= PATIENCE)
        lower = torch.where(succeeds, grid.distance * LEVELS - BELOW, level)
        level = torch.where(fails, (level * GROWTH).ceil().clamp_max(LEVELS), lower)
        tried = tried.masked_fill(succeeds | fails, 0)
        size = (level * 0.5 ** (tried + 1)).round().clamp_min(1)
        points = restrict(_into(points - gradient.sign() * per_image(size / LEVELS), clean, level), clean)
    return points


def _into(points: Tensor, clean: Tensor, level: Tensor) -> Tensor:
    """The nearest 8-bit image at most ``level`` levels from the clean one, which need not be on the grid itself."""
    level = per_image(level.clamp_min(0))
    lowest = (clean * LEVELS - level - SLACK).ceil().clamp_min_(0)
    highest = (clean * LEVELS + level + SLACK).floor().clamp_max_(LEVELS)
    highest = torch.maximum(lowest, highest)  # less than half a level from an image that is not on the grid
    return (points * LEVELS).round_().clamp_(lowest, highest) / LEVELS


def _scale(problem: Problem, points: Tensor, grid, steps: int) -> None:
    """Round multiples of the perturbation: growing ones up to the first success, then between the last failure and
    it."""
    clean = problem.clean
    low = torch.where(grid.found, 0.5, 1.0)
    high = torch.where(grid.found, 1.0, torch.inf)
    for _ in range(steps):
        factor = torch.where(high.isfinite(), (low + high.clamp_max(1e6)) / 2, low * GROWTH)
        scaled = problem.engine.goal.restrict(on_grid(clean + (points - clean) * per_image(factor)), clean)
        succeeds = grid.update(scaled, problem.engine.measure(scaled).reached)
        low, high = torch.where(succeeds, low, factor), torch.where(succeeds, factor, high)


def _greedy(problem: Problem, points: Tensor, grid, steps: int) -> Tensor:
    """Move the values with the largest gradients by one level; more of them the farther the image is by now."""
    clean, engine = problem.clean, problem.engine
    values = clean[0].numel()
    spent_by = {"L2": torch.square, "L1": torch.abs}[grid.attack.norm]
    for _ in range(steps):
        gradient, margins = margin_gradient(engine, points, unreached)
        grid.update(points, margins.reached)
        spent = spent_by((points - clean) * LEVELS).flatten(1).sum(1)
        count = (MOVED * spent).clamp(max(1, LEAST_MOVED * values), values).long()
        room = torch.where(gradient > 0, points > 0, points < 1)
        strength = (gradient.abs() * room).flatten(1)
        limit = strength.sort(1, descending=True).values.gather(1, count.unsqueeze(1) - 1)
        moves = (strength >= limit).view_as(gradient) & room
        points = engine.goal.restrict(on_grid(points - moves * gradient.sign() / LEVELS), clean)
    return points
