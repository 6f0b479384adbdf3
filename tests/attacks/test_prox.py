"""Proximal operators against solutions that share no idea with them."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from segrobust.attacks.prox import PROXES, prox_linf


def problem(seed, kind, count=5, size=4):
    generator = torch.Generator().manual_seed(seed)
    shape = (count, 3, size, size)
    clean = torch.rand(shape, generator=generator, dtype=torch.float64)
    delta = torch.randn(shape, generator=generator, dtype=torch.float64) * (1.0 if kind == "clipped" else 0.05)
    metric = torch.rand(shape, generator=generator, dtype=torch.float64) * 3 + 0.05
    strength = torch.rand(count, generator=generator, dtype=torch.float64)
    strength = strength * (2.0 if kind == "clipped" else 0.02)
    return delta, metric, strength, -clean, 1 - clean


def objective(norm, point, delta, metric, strength):
    size = {"Linf": point.abs().flatten(1).amax(1), "L2": point.flatten(1).norm(dim=1)}.get(norm)
    size = point.abs().flatten(1).sum(1) if size is None else size
    return 0.5 * (metric * (point - delta).square()).flatten(1).sum(1) + strength * size


def sorted_linf(delta, metric, strength, low, high):
    """Walk over the sorted sizes: between two of them the objective is a parabola in the bound."""
    clipped = delta.clamp(low, high).flatten()
    wanted, size, metric = delta.flatten().abs(), clipped.abs(), metric.flatten()
    edges = torch.cat([torch.zeros(1, dtype=size.dtype), size.sort().values])
    best, best_value = torch.zeros_like(clipped), None
    for left, right in pairwise(edges):
        beyond = size >= right
        if not beyond.any():
            continue
        bound = ((wanted * metric)[beyond].sum() - strength) / metric[beyond].sum()
        bound = bound.clamp(left, right)
        point = clipped.clamp(-bound, bound)
        value = 0.5 * (metric * (point - delta.flatten()).square()).sum() + strength * bound
        if best_value is None or value < best_value:
            best, best_value = point, value
    return best.view_as(delta)


@pytest.mark.parametrize("kind", ["inside", "clipped"])
def test_linf_equals_the_sorted_solution(kind):
    for seed in range(4):
        delta, metric, strength, low, high = problem(seed, kind)
        got = prox_linf(delta, metric, strength, low, high)
        for n in range(len(delta)):
            exact = sorted_linf(delta[n], metric[n], strength[n], low[n], high[n])
            torch.testing.assert_close(got[n], exact, rtol=0, atol=1e-6)
        assert (got.abs().flatten(1).amax(1) > 0).any()


@pytest.mark.parametrize("cap", [None, 0.3])
@pytest.mark.parametrize("kind", ["inside", "clipped"])
@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_no_point_nearby_is_better(norm, kind, cap):
    """The objective is convex: a point that is best near by is best anywhere. At a kink the bound is exact to 1e-7."""
    delta, metric, strength, low, high = problem(7, kind, count=2, size=2)
    limit = None if cap is None else torch.full_like(strength, cap * {"Linf": 0.1, "L2": 0.2, "L1": 0.5}[norm])
    got = PROXES[norm](delta, metric, strength, low, high, limit)
    value = objective(norm, got, delta, metric, strength)
    assert (got >= low).all() and (got <= high).all()
    sizes = {"Linf": got.abs().flatten(1).amax(1), "L2": got.flatten(1).norm(dim=1), "L1": got.abs().flatten(1).sum(1)}
    if cap is not None:
        assert (sizes[norm] <= limit + 1e-6).all() and (sizes[norm] > 0).any()
    generator = torch.Generator().manual_seed(1)
    for scale in (1e-1, 1e-2, 1e-3, 1e-4):
        for _ in range(300):
            near = (got + scale * torch.randn(got.shape, generator=generator, dtype=got.dtype)).clamp(low, high)
            near = torch.where(torch.rand(got.shape, generator=generator) < 0.5, near, got)
            if limit is not None:
                size = {"Linf": near.abs().flatten(1).amax(1), "L2": near.flatten(1).norm(dim=1)}.get(norm)
                size = near.abs().flatten(1).sum(1) if size is None else size
                near = near * (limit / size.clamp_min(1e-12)).clamp_max(1).view(-1, 1, 1, 1)
            assert (objective(norm, near, delta, metric, strength) >= value - 3e-7).all()


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_a_large_strength_gives_zero_and_none_gives_the_box(norm):
    delta, metric, strength, low, high = problem(3, "clipped")
    zero = PROXES[norm](delta, metric, strength * 0 + 1e6, low, high)
    assert torch.equal(zero, torch.zeros_like(zero))
    kept = PROXES[norm](delta, metric, strength * 0, low, high)
    torch.testing.assert_close(kept, delta.clamp(low, high), rtol=0, atol=1e-6)


def test_l2_satisfies_its_optimality_condition():
    delta, metric, strength, low, high = problem(5, "inside")
    got = PROXES["L2"](delta, metric, strength, low, high)
    inside = (got > low) & (got < high)
    length = got.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    slope = metric * (got - delta) + strength.view(-1, 1, 1, 1) * got / length
    assert (length > 0).all() and slope[inside].abs().max() < 1e-6
