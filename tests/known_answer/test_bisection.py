"""The search for a radius on a model where it is a matter of one number, step by step; and the momentum of MI-FGSM."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from segrobust.attacks import build_attack
from segrobust.attacks.bisection import Bracket
from tests.known_answer.trace import Recorder

STEPS = 60


class Threshold(nn.Module):
    """Every pixel becomes wrong where the image is brighter than 0.2 by more than ``shift``, all at once."""

    num_classes = 2

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.shift = shift

    def forward(self, images):
        level = images.mean((1, 2, 3), keepdim=True) - 0.2 - self.shift
        return torch.cat([torch.zeros_like(level), level], 1).expand(-1, -1, *images.shape[2:])


def ours(shift):
    """Changes that are measured: radii double from 0.25/255, five steps at each, until the first success; then the
    middle between what failed and what was enough, ten steps at each. A step is a quarter of the radius, less by the
    share of the steps that are done; a new radius starts from the brightest failure. Failures close to the success
    are forgotten."""
    at, eps, low, high, taken, brightest, path = 0.0, 0.25 / 255, 0.0, math.inf, 0, 0.0, []
    for _ in range(STEPS):
        path.append(at)
        success = at > shift
        if not success:
            brightest = at  # all failures of one model are alike, and the latest counts
        failed = not success and taken >= (10 if math.isfinite(high) else 5)
        if success:
            high = min(high, at)
        if failed:
            low, at = eps, brightest
        if math.isfinite(high) and low > high * (1 - 0.025):
            low = high * (1 - 0.1)
        if success or failed:
            eps, taken = (low + high) / 2 if math.isfinite(high) else min(2 * eps, 1), 0
        steps = 10 if math.isfinite(high) else 5
        push = 0 if success else 1  # where every pixel is wrong, masked cross-entropy has no gradient
        at = min(at + push * eps * 0.25 * (1 - taken / steps), eps)
        taken += 1
    return path


@pytest.mark.parametrize("shift", [0.02, 0.05, 0.11])
def test_every_radius_and_step_is_the_expected_one(shift):
    recorder = Recorder(Threshold(shift))
    images, labels = torch.full((1, 3, 4, 4), 0.2), torch.zeros(1, 4, 4, dtype=torch.long)
    result = build_attack("PGDBisection", steps=STEPS)(recorder, images, labels)
    changes = [(points - images).mean().item() for points in recorder.points[:STEPS]]
    expected = ours(shift)
    assert changes == pytest.approx(expected, abs=2e-6)
    assert result.found.all() and result.distance.item() == pytest.approx(
        min(change for change in expected if change > shift), abs=2e-6
    )


def test_mi_fgsm_adds_up_gradients_of_one_length():
    """g <- 1.0 g + gradient / |gradient|_1 (Dong et al., 2018, equation 6), from nothing at a new radius."""
    clean = torch.full((1, 3, 1, 2), 0.5)
    attack = build_attack("MIFGSMBisection", start_eps=0.1)
    bracket = Bracket(attack, SimpleNamespace(clean=clean))
    gradients = torch.tensor([[5.0, 3.0, -1.0, 1.0, 0.0, 0.0], [-0.4, 0.5, 0.2, -0.6, 0.1, -0.2]]).view(2, 1, 3, 1, 2)
    bracket.momentum = torch.zeros_like(clean)
    points, total = clean, torch.zeros_like(clean)
    for gradient in gradients:
        total = total + gradient / gradient.abs().sum()
        moved = bracket._move(clean, gradient, torch.tensor([False]))
        torch.testing.assert_close(moved - clean, 0.025 * total.sign(), rtol=0, atol=1e-6)
    assert not torch.equal(total.sign(), gradients[1].sign())
    moved = bracket._move(points, gradients[1], torch.tensor([True]))
    torch.testing.assert_close(moved - clean, 0.025 * gradients[1].sign(), rtol=0, atol=1e-6)
