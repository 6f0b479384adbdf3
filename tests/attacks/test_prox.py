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


def exact_bound(delta, metric, strength, low, high):
    """The root of the dual problem among the sorted sizes, in float64, ``[N]``."""
    found = []
    for delta, metric, strength, low, high in zip(delta, metric, strength, low, high, strict=True):  # noqa: B020
        size, order = delta.double().clamp(low, high).abs().flatten().sort(descending=True)
        weight = metric.double().flatten()[order]
        weighted = (weight * delta.double().abs().flatten()[order]).cumsum(0)
        weight, smaller = weight.cumsum(0), torch.cat([size[1:], size.new_zeros(1)])
        enough = (weighted - weight * smaller >= strength).nonzero()
        if strength <= 0 or len(enough) == 0:
            found.append(size[0] if strength <= 0 else size.new_zeros(()))
            continue
        last = enough[0, 0]
        found.append(((weighted[last] - strength) / weight[last]).clamp(smaller[last], size[last]))
    return torch.stack(found)


def large(kind):
    """An image of many values, of a kind that makes the search hard."""
    generator = torch.Generator().manual_seed(11)
    shape = (5, 3, 50, 51)
    noise = torch.randn(shape, generator=generator) * 0.02
    clean = (torch.rand(shape, generator=generator) * 255).round() / 255
    metric = torch.rand(shape, generator=generator) + 0.1
    strength = torch.tensor([0.0, 1e-4, 1e-2, 1.0, 1e5])
    if kind == "far outside":
        noise, strength = 50 * noise, 100 * strength
    elif kind == "levels":
        noise = (noise * 255).round() / 255
    elif kind == "equal":
        noise = torch.full(shape, 0.01)
        clean.fill_(0.5)
    elif kind == "one huge":
        noise *= 1e-4
        noise[:, 0, 0, 0], clean[:, 0, 0, 0] = 0.9, 0.0
    elif kind == "metrics":
        metric = 10 ** (8 * torch.rand(shape, generator=generator) - 8)
    elif kind == "few beyond":
        noise = noise.clamp(-0.03, 0.03)
        noise[:, :, ::17, 5] *= 1.5
    elif kind == "jumps":
        clean, noise = (torch.rand(shape, generator=generator) * 8).round() / 255, -20 * noise.abs()
        strength = 100 * strength
    return noise, metric, strength, -clean, 1 - clean


@pytest.mark.parametrize(
    ("kind", "off"),
    [
        ("levels", 1e-6),
        ("equal", 1e-6),
        ("one huge", 1e-6),
        ("metrics", 1e-6),
        ("few beyond", 1e-6),
        ("far outside", 1 / 16),
        ("jumps", 1 / 16),
    ],
)
def test_bounds_of_large_images(kind, off):
    """The error is a share of the largest change."""
    delta, metric, strength, low, high = large(kind)
    size = delta.clamp(low, high).abs().flatten(1).amax(1)
    bound = exact_bound(delta, metric, strength, low, high)
    got = prox_linf(delta, metric, strength, low, high)
    error = got - delta.clamp(low, high).clamp(-bound.view(-1, 1, 1, 1), bound.view(-1, 1, 1, 1))
    assert (error.abs().flatten(1).amax(1) <= off * size).all()
    assert bound.min() == 0
    assert ((bound > 0) & (bound < size)).sum() >= 1
    cap = bound.float() / 2
    capped = prox_linf(delta, metric, strength, low, high, cap).abs().flatten(1).amax(1)
    assert (capped <= cap).all() and (capped[bound > 0] > 0).all()


@pytest.mark.parametrize("size", [16, 51])
@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_neighbours_change_nothing(norm, size):
    delta, metric, strength, low, high = (t[..., :size, :size] if t.ndim == 4 else t for t in large("levels"))
    for cap in (None, torch.full_like(strength, 0.02)):
        together = PROXES[norm](delta, metric, strength, low, high, cap)
        for n in range(len(delta)):
            part = slice(n, n + 1)
            given = delta[part], metric[part], strength[part], low[part], high[part]
            assert torch.equal(PROXES[norm](*given, None if cap is None else cap[part]), together[part])


def test_l2_is_zero_where_only_the_box_holds_against_the_strength():
    """Values that have no room do not count for the length that the strength is measured by."""
    delta = torch.tensor([0.5, 0.1, 0.0]).view(1, 3, 1, 1)
    low, high = -torch.ones_like(delta), torch.tensor([0.0, 1.0, 1.0]).view(1, 3, 1, 1)
    got = PROXES["L2"](delta, torch.ones_like(delta), torch.tensor([0.2]), low, high)
    assert torch.equal(got, torch.zeros_like(got))
    got = PROXES["L2"](delta, torch.ones_like(delta), torch.tensor([0.04]), low, high)
    torch.testing.assert_close(got.flatten(), torch.tensor([0.0, 0.06, 0.0]))
