"""The proximal iterations of ALMA-prox under scripted gradients: step sizes, scales and prox against the formulas."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from segrobust.attacks import build_attack
from segrobust.attacks.alma_prox import ALMAProx, ProximalSplitting
from segrobust.attacks.segmentation import Goal
from tests.attacks.test_prox import sorted_linf

N = 3


class Known:
    """What a search has found; here an image is at its goal where the test says so."""

    def __init__(self, points, found, distance):
        self.points, self.found, self.distance, self.required = points, found, distance, torch.full((N,), 0.99)

    def update(self, points, succeeds):
        self.found = self.found | succeeds
        return succeeds


def proximal(attack, steps=100, found=(False, False, False), distance=0.3, warm=False):
    clean = torch.full((N, 3, 2, 2), 0.5)
    goal = Goal(torch.zeros(N, 2, 2, dtype=torch.long), torch.ones(N, 2, 2, dtype=torch.bool))
    problem = SimpleNamespace(clean=clean, engine=SimpleNamespace(goal=goal))
    closest = Known(clean + 0.1, torch.tensor(found), torch.full((N,), distance))
    return ProximalSplitting(attack, problem, closest, steps, warm)


def sizes(search, steps):
    return torch.stack([search.step_size(step) for step in steps])


def test_published_step_size_falls_from_half_way_or_from_the_first_feasible_point():
    """lam_i = lam T / (max(i - i_found, 0) + T), T = r / (1 - r) * (N - i_found), r = 0.1, lam = 1e-3."""
    attack = build_attack("ALMAProx:published")
    search = proximal(attack)
    for step, succeeds in ((20, [True, False, False]), (60, [True, True, False])):
        search.keep_closest(search.clean, torch.tensor(succeeds), step)
    begin, steps = torch.tensor([20, 50, 50]), torch.tensor([[0], [20], [30], [50], [60], [100]])
    t = 0.1 / 0.9 * (100 - begin)
    expected = 1e-3 * t / ((steps - begin).clamp(min=0) + t)
    torch.testing.assert_close(sizes(search, steps.flatten().tolist()), expected, rtol=1e-5, atol=0)
    assert expected[-1].tolist() == pytest.approx([1e-4] * 3)  # found or not, r of it is left at the end
    assert attack.phases() == (0, 500, 0)


@pytest.mark.parametrize(("norm", "left"), [("Linf", 0.1), ("L2", 0.03), ("L1", 0.03)])
def test_our_step_size_stays_while_nothing_is_found(norm, left):
    attack = ALMAProx(norm=norm, steps=100)
    assert attack.phases() == (30, 10, 60)
    search = proximal(attack, found=(True, False, True))
    search.found_at = torch.tensor([20, 50, 0])
    got = sizes(search, (0, 60, 100))
    assert got[:, 1].tolist() == pytest.approx([1e-3] * 3)
    assert got[-1].tolist() == pytest.approx([1e-3 * left, 1e-3, 1e-3 * left])
    horizon = left / (1 - left) * 80
    assert got[1, 0].item() == pytest.approx(1e-3 * horizon / (40 + horizon))


def test_after_a_warm_start_steps_fit_the_distance_that_is_known():
    search = proximal(ALMAProx(), found=(True, False, True), distance=0.6, warm=True)
    assert search.first_step_size.tolist() == pytest.approx([0.02, 1e-3, 0.02])
    assert search.found_at.tolist() == [0, 50, 0]
    torch.testing.assert_close(search.delta, torch.full_like(search.delta, 0.1))


def move(search, gradient, step):
    search.proximal_step(gradient, search.step_size(step), search.metric(gradient, step))


def expected_moves(gradients, size, strengths):
    """s <- 0.8 s + 0.2 g^2, H = sqrt(s / (1 - 0.8^i)) of at least 1e-8, d <- prox(d - lam g / H) (section 3.4)."""
    delta, square = torch.zeros_like(gradients[0]), torch.zeros_like(gradients[0])
    for step, gradient in enumerate(gradients):
        square = 0.8 * square + 0.2 * gradient**2
        scale = (square / (1 - 0.8 ** (step + 1))).sqrt().clamp(min=1e-8)
        moved = delta - size * gradient / scale
        low, high = torch.full_like(moved[0], -0.5), torch.full_like(moved[0], 0.5)
        delta = torch.stack(
            [sorted_linf(moved[n], scale[n], strengths[n], low, high) if strengths[n] else moved[n] for n in range(N)]
        )
        yield delta


@pytest.mark.parametrize("published", [False, True])
def test_moves_are_those_of_the_published_iteration(published):
    """The first image's gradients are tiny. Ours does not shrink images that are not found."""
    generator = torch.Generator().manual_seed(1)
    gradients = torch.randn(12, N, 3, 2, 2, generator=generator, dtype=torch.float64) * 0.2
    gradients[:, 0] *= 1e-5
    attack = ALMAProx(reference=published, step_decay=1.0, step_size=0.004)
    search = proximal(attack, found=(False, True, True))
    strengths = torch.tensor([0.004 if published else 0.0, 0.004, 0.004], dtype=torch.float64)
    for step, expected in enumerate(expected_moves(gradients, 0.004, strengths)):
        move(search, gradients[step].float(), step)
        torch.testing.assert_close(search.delta.double(), expected, rtol=0, atol=2e-6)
    assert search.delta[1:].abs().flatten(1).amax(1).min() > 0.001 and bool(search.delta[0].any()) != published


def test_the_first_step_is_as_long_as_the_step_size_says():
    search = proximal(ALMAProx())
    gradient = torch.randn(N, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    move(search, gradient.clone(), 0)
    torch.testing.assert_close(search.delta, -1e-3 * gradient.sign())
