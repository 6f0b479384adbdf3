"""The search among 8-bit images on a model where it is a matter of one sum: every image that it measures."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from segrobust.attacks import build_attack
from segrobust.attacks.base import Problem
from segrobust.attacks.eight_bit import search_grid
from segrobust.attacks.gradient import Engine
from segrobust.attacks.minimum_norm import Closest
from segrobust.attacks.segmentation import Goal
from segrobust.core.draws import Draws
from tests.known_answer.trace import Recorder

CLEAN = torch.full((1, 3, 4, 4), 51 / 255)


class Sum(nn.Module):
    """All pixels become wrong at once, where the weighted sum of the levels by which the image is brighter is above
    ``needed``."""

    num_classes = 2

    def __init__(self, weights, needed):
        super().__init__()
        self.weights, self.needed = weights, needed

    def forward(self, images):
        level = (self.weights * (images * 255 - 51)).sum((1, 2, 3), keepdim=True) - self.needed
        return torch.cat([torch.zeros_like(level), level], 1).expand(-1, -1, 4, 4)


def levels_measured(norm, weights, needed, start, steps):
    """Levels of every image that is measured, in order: ``[measured, 3, 4, 4]``."""
    recorder = Recorder(Sum(weights, needed))
    goal = Goal(torch.zeros(1, 4, 4, dtype=torch.long), torch.ones(1, 4, 4, dtype=torch.bool))
    problem = Problem(Engine(recorder, goal), CLEAN, Draws.of((0,)))
    grid = Closest(build_attack("PDPGD", norm=norm), problem)
    grid.before, grid.required = torch.zeros(1, 4, 4, dtype=torch.bool), torch.ones(1)
    search_grid(problem, CLEAN + start / 255, grid, norm, steps)
    return (torch.cat(recorder.points) * 255 - 51).round()


EVEN = torch.full((1, 3, 4, 4), 1 / 48)


@pytest.mark.parametrize(
    ("needed", "expected"),
    [
        (9.5, [3] + [3] * 8 + [4] * 8 + [5] * 8 + [7] * 8 + [9] * 8 + [12, 11, 10] + [9] * 6),
        (1.5, [3, 2] + [1] * 48),  # the rounded image is at its goal: the next one is a level closer, and so on
    ],
)
def test_linf_tries_eight_steps_at_a_level_that_grows_by_a_quarter_and_one_after_the_other_downwards(needed, expected):
    """From a change of 2.6 levels: 3, then 4, 5, 7, 9 and 12."""
    measured = levels_measured("Linf", EVEN, needed, 2.6, steps=len(expected) - 2)
    assert all(one.unique().numel() == 1 for one in measured)
    assert [int(one.max()) for one in measured] == expected


@pytest.mark.parametrize(
    ("needed", "factors"),
    [
        (72.5, [1.25, 1.25**2, 1.25**3, (1.25**2 + 1.25**3) / 2, (1.25**2 + 3 * 1.25**3) / 4]),
        (27.5, [0.75, 0.625, 0.6875, 0.65625, 0.671875]),
    ],
)
def test_l2_scales_the_change_up_by_quarters_and_then_between_half_and_all_of_it(needed, factors):
    measured = levels_measured("L2", EVEN, needed, 41.0, steps=10)
    expected = [round(41 * factor) for factor in factors]
    assert [int(one.max()) for one in measured[:6]] == [41, *expected]


def test_l2_moves_a_tenth_of_what_is_spent_by_one_level_along_the_largest_gradients():
    weights = torch.linspace(1, 2, 48).view(1, 3, 4, 4)
    measured = levels_measured("L2", weights, 1e4, 1.0, steps=2)
    before, after = measured[-2].flatten(), measured[-1].flatten()
    assert (before == 1).all()  # 48 levels squared are spent: four values move
    assert (after - before).tolist() == [0] * 44 + [1] * 4
