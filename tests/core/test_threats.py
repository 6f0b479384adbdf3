"""Projections, steps and random starts against independent solutions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from segrobust.core.draws import Draws
from segrobust.core.threats import THREATS, allowed

NORMS = list(THREATS)
RADII = {"Linf": 0.1, "L2": 0.8, "L1": 2.5}


def sample(seed, count=4, spread=0.5):
    generator = torch.Generator().manual_seed(seed)
    clean = torch.rand(count, 3, 4, 5, generator=generator, dtype=torch.float64)
    clean[0, :, :2] = 0.0  # values at the box's side
    points = clean + spread * torch.randn(clean.shape, generator=generator, dtype=torch.float64)
    return clean, points


def l1_ball(v, radius):
    """Projection on the L1 ball by sorting (Duchi et al., 2008)."""
    if np.abs(v).sum() <= radius:
        return v
    u = np.sort(np.abs(v))[::-1]
    tops = (np.cumsum(u) - radius) / np.arange(1, len(u) + 1)
    threshold = tops[np.nonzero(u > tops)[0][-1]]
    return np.sign(v) * np.maximum(np.abs(v) - threshold, 0)


BALLS = {
    "Linf": lambda v, radius: np.clip(v, -radius, radius),
    "L2": lambda v, radius: v * min(1, radius / max(np.linalg.norm(v), 1e-300)),
    "L1": l1_ball,
}


def dykstra(point, clean, norm, radius, rounds=4000):
    """Projection on ball and box by Dykstra's alternating projections."""
    x, p, q = point.copy(), np.zeros_like(point), np.zeros_like(point)
    for _ in range(rounds):
        y = clean + BALLS[norm](x + p - clean, radius)
        p = x + p - y
        x = np.clip(y + q, 0, 1)
        q = y + q - x
    return x


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("spread", [0.02, 0.5, 3.0])
def test_projection_is_the_nearest_point_of_ball_and_box(norm, spread):
    clean, points = sample(0, spread=spread)
    eps = torch.full((4,), RADII[norm], dtype=torch.float64)
    found = THREATS[norm].project(points, clean, eps)
    for n in range(4):
        exact = dykstra(points[n].numpy().ravel(), clean[n].numpy().ravel(), norm, RADII[norm])
        np.testing.assert_allclose(found[n].numpy().ravel(), exact, atol=2e-5)


def test_l2_projection_where_one_value_after_the_other_meets_the_box():
    """clip(t delta) has the length of the radius: t by bisection."""
    room = 0.6 ** torch.arange(12, dtype=torch.float64)
    clean = (1 - room).view(1, 3, 2, 2)
    for share in (0.5, 0.9, 0.99, 0.999):
        eps = share * room.norm()
        low, high = 0.0, 1.0
        for _ in range(80):
            middle = (low + high) / 2
            low, high = (middle, high) if (middle * torch.ones(12)).minimum(room).norm() < eps else (low, middle)
        found = THREATS["L2"].project(clean + 1, clean, eps.view(1)) - clean
        torch.testing.assert_close(found.flatten(), room.clamp(max=low), rtol=0, atol=1e-6)


def rooms():
    """Clean values and changes ``[1, 3, H, W]`` of many magnitudes, most of which meet the box on the way."""
    generator = torch.Generator().manual_seed(0)
    even = torch.rand(4095, generator=generator, dtype=torch.float64)
    normal = torch.randn(4095, generator=generator, dtype=torch.float64)
    yield even, 3 * normal
    yield even, 0.1 * normal / torch.randn(4095, generator=generator, dtype=torch.float64)
    yield even**8, -5 * even.flip(0)
    yield even * (even > 0.5), normal
    for ratio in (0.3, 0.6, 0.9, 0.99):
        falling = ratio ** torch.arange(int(-30 / math.log(ratio)) // 3 * 3, dtype=torch.float64)
        yield 1 - falling, torch.ones_like(falling)
        yield torch.full_like(falling, 0.5), 1e-3 * falling / falling.min()
        yield 1 - falling, 1 / falling


@pytest.mark.parametrize("share", [0.01, 0.3, 0.8, 0.99, 0.99999, 1.1])
def test_l2_projection_is_exact_within_its_rounds_whatever_is_clipped(share):
    """Against a bisection of t in float64; and every answer lies in the ball, in float32 too."""
    for clean, delta in rooms():
        room = torch.where(delta > 0, 1 - clean, clean)
        eps = share * delta.abs().minimum(room).norm()
        low, high = torch.zeros(()).double(), torch.ones(()).double()
        for _ in range(100):
            middle = (low + high) / 2
            fits = (middle * delta.abs()).minimum(room).norm() <= eps
            low, high = (middle, high) if fits else (low, middle)
        exact = (high * delta.abs()).minimum(room) * delta.sign()
        clean = clean.view(1, 3, -1, 1)
        points = clean + delta.view_as(clean)
        found = THREATS["L2"].project(points, clean, eps.view(1)) - clean
        torch.testing.assert_close(found.flatten(), exact, rtol=0, atol=1e-6)
        single = THREATS["L2"].project(points.float(), clean.float(), eps.view(1).float()) - clean.float()
        assert single.norm() <= allowed("L2", eps)


def test_l1_step_is_the_same_at_any_order_of_its_sums():
    """Sums of whole numbers: a float64 sum from the other end would differ in the last bits."""
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(1, 3, 64, 64, generator=generator)
    gradient = torch.randn(points.shape, generator=generator)
    step = THREATS["L1"].step(points, gradient, torch.tensor([300.0]))
    order = gradient.flatten().abs().argsort(descending=True)
    room = torch.where(gradient > 0, 1 - points, points).flatten()[order]
    whole = [round(value * 2**36) for value in room.tolist()]
    before, expected = 0, []
    for value, fixed in zip(room.tolist(), whole, strict=True):
        expected.append(min(value, max(300 - before / 2**36, 0)))
        before += fixed
    assert torch.equal(step.flatten()[order].abs(), torch.tensor(expected))
    assert step.abs().double().sum().item() == pytest.approx(300, rel=1e-7)


@pytest.mark.parametrize("norm", NORMS)
def test_projection_has_a_radius_per_image_and_keeps_inner_points(norm):
    clean, points = sample(1)
    eps = torch.tensor([0.0, 0.05, 0.5, 50.0], dtype=torch.float64)
    found = THREATS[norm].project(points, clean, eps)
    assert torch.equal(found[0], clean[0])
    assert (THREATS[norm].distance(found - clean) <= eps + 1e-9).all()
    assert torch.equal(found[3], points[3].clamp(0, 1))


@pytest.mark.parametrize("norm", NORMS)
def test_distance(norm):
    delta = torch.zeros(1, 3, 2, 2)
    delta[0, 0, 0, 0], delta[0, 2, 1, 1] = 3.0, -4.0
    assert THREATS[norm].distance(delta).item() == {"Linf": 4.0, "L2": 5.0, "L1": 7.0}[norm]


@pytest.mark.parametrize("norm", NORMS)
def test_random_start_fills_the_ball_and_stays_inside(norm):
    clean = torch.full((3, 3, 16, 16), 0.5)
    eps = torch.tensor([0.01, 0.05, 0.2]) * {"Linf": 1, "L2": 10, "L1": 100}[norm]
    threat = THREATS[norm]
    start = threat.random_start(clean, eps, Draws.of(range(3)))
    distance = threat.distance(start - clean)
    assert (distance <= eps * (1 + 1e-4)).all() and (distance > 0.9 * eps).all()
    again = threat.random_start(clean[2:], eps[2:], Draws.of([2]))
    assert torch.equal(start[2:], again)
    assert -0.1 < ((start - clean) / per_size(start - clean)).mean() < 0.1


def per_size(delta):
    return delta.abs().flatten(1).mean(1).view(-1, 1, 1, 1)


@pytest.mark.parametrize("norm", ["Linf", "L1"])
def test_step_is_the_steepest_one(norm):
    """Against linear programming: L1 inside the box, Linf on the ball alone (its projection clips afterwards)."""
    clean, _ = sample(2, count=1)
    gradient = torch.randn(clean.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    size = {"Linf": 0.1, "L1": 3.3}[norm]
    step = THREATS[norm].step(clean, gradient, torch.tensor([size], dtype=torch.float64)).numpy().ravel()
    g, x = gradient.numpy().ravel(), clean.numpy().ravel()
    if norm == "Linf":
        best = linprog(-g, bounds=[(-size, size)] * len(g)).fun
    else:  # step = up - down
        bounds = [(0, high) for high in np.concatenate([1 - x, x])]
        best = linprog(np.concatenate([-g, g]), A_ub=np.ones((1, 2 * len(g))), b_ub=[size], bounds=bounds).fun
    assert g @ step == pytest.approx(-best, rel=1e-9)


def test_l2_step_follows_the_gradient_at_any_scale():
    direction = torch.randn(2, 3, 4, 4)
    gradient = direction * torch.tensor([1e-30, 1e30]).view(2, 1, 1, 1)
    step = THREATS["L2"].step(gradient, gradient, torch.tensor([0.5, 2.0]))
    torch.testing.assert_close(step.flatten(1).norm(dim=1), torch.tensor([0.5, 2.0]))
    assert (torch.nn.functional.cosine_similarity(step.flatten(1), direction.flatten(1)) > 0.99999).all()


@pytest.mark.parametrize("norm", NORMS)
def test_no_gradient_no_step(norm):
    zero = torch.zeros(1, 3, 4, 4)
    assert not THREATS[norm].step(zero + 0.5, zero, torch.ones(1)).any()
