"""The multipliers of ALMA-prox under scripted margins, against arXiv 2206.07179 written out in float64 (nu = 1: with
every pixel required, none is masked)."""

from __future__ import annotations

import pytest
import torch

from segrobust.attacks.margins import Margins
from segrobust.attacks.penalty import ProxLagrangian, penalty_derivative
from segrobust.attacks.segmentation import Goal
from tests.known_answer.trace import assert_same

STEPS = 260


def scripted_margins(generator):
    """``[STEPS, 2, 1, 8]``: pixels that hold out more and more, are far gone, near the boundary, or come nearer by
    7 % within ten iterations, which is enough, or by 3 %, which is not; and pixels that wander over the boundary."""
    time = torch.arange(STEPS, dtype=torch.float64)
    paths = [
        0.5 + 0.01 * time,
        -5 - 0 * time,
        2e-4 * torch.cos(time / 3),
        0.4 * 0.93 ** (time / 10),
        0.4 * 0.97 ** (time / 10),
        *(0.05 * torch.randn(3, STEPS, generator=generator, dtype=torch.float64)).cumsum(1),
    ]
    return torch.stack([torch.stack(paths), torch.stack(paths).flip(0) * 0.9]).movedim(2, 0).unsqueeze(2)


def reference(margins, normalisers, successes, published):
    """Slope of the penalty in every pixel's margin, iteration by iteration (section 3.3 and algorithm 1)."""
    scale = torch.ones(margins.shape[1], dtype=torch.float64)
    multiplier, penalty = torch.full_like(margins[0], 1.0), torch.full_like(margins[0], 0.01)
    lately, found = torch.zeros_like(margins[0], dtype=torch.bool), []
    for step, (margin, succeeds) in enumerate(zip(margins, successes, strict=True)):
        lately = lately | (margin < 0)
        scale = torch.where(succeeds, scale / (1 + 0.02), scale / (1 - 0.02)).clamp(0.1, 1)
        normaliser = normalisers[step if published else step - step % 5]  # ours takes it anew in every fifth iteration
        factor = scale.view(-1, 1, 1) / normaliser
        constraint = (margin + 1e-4) * factor
        if step == 0:
            before = constraint
        if (step + 1) % 10 == 0:
            penalty = torch.where((constraint <= 0.95 * before) | lately, penalty, 2 * penalty)
            if not published:
                penalty = penalty.clamp(max=1e4)
            before, lately = constraint, torch.zeros_like(lately)

        def slope(multiplier, constraint=constraint, penalty=penalty):
            first = multiplier * (constraint if published else 1)
            above = first + 2 * multiplier * penalty * constraint + penalty**2 * constraint**2 / 2
            below = multiplier / (1 - penalty.clamp(min=1) * constraint.clamp(max=0)) ** 2
            return torch.where(constraint >= 0, above, below)

        if step:
            multiplier = (0.8 * multiplier + 0.2 * slope(multiplier)).clamp(1e-12, 1)
        found.append(slope(multiplier) * factor)
    return found


@pytest.mark.parametrize("published", [True, False])
def test_slopes_follow_the_published_iteration(published):
    generator = torch.Generator().manual_seed(2)
    margins = scripted_margins(generator)
    normalisers = 0.5 + torch.rand(margins.shape, generator=generator, dtype=torch.float64)
    successes = torch.rand(STEPS, 2, generator=generator) < torch.tensor([0.2, 0.9])
    valid = torch.ones(2, 1, 8, dtype=torch.bool)
    goal = Goal(torch.zeros(2, 1, 8, dtype=torch.long), valid)
    lagrangian = ProxLagrangian(goal, STEPS, reference=published, capped=False, least_required=1.0)
    got = []
    for step, (margin, normaliser) in enumerate(zip(margins.float(), normalisers.float(), strict=True)):
        got.append(lagrangian.derivative(Margins(margin, margin < 0, normaliser), successes[step], torch.ones(2), step))
    assert_same(got, reference(margins, normalisers, successes, published), rtol=2e-3)


def test_the_derivative_below_the_boundary_counts_small_penalties_as_one():
    constraint, penalty = torch.tensor([-0.5, -0.5, 0.5]), torch.tensor([0.01, 3.0, 0.01])
    factor, offset = penalty_derivative(constraint, penalty)
    torch.testing.assert_close(factor, torch.tensor([1 / 1.5**2, 1 / 2.5**2, 1.01]))
    torch.testing.assert_close(offset, torch.tensor([0, 0, 0.005**2 / 2]))


@pytest.mark.parametrize(("step", "dropped"), [(0, 0), (50, 1), (75, 2), (100, 3)])
def test_up_to_the_share_that_may_miss_the_hardest_pixels_are_left_out(step, dropped):
    """Of 40 pixels four may miss in the end: those strictly above the fourth largest constraint."""
    valid = torch.arange(44).view(1, 1, 44) < 40
    goal = Goal(torch.zeros(1, 1, 44, dtype=torch.long), valid)
    lagrangian = ProxLagrangian(goal, 101, reference=False, capped=False, least_required=0.9)
    margin = torch.randperm(44, generator=torch.Generator().manual_seed(0)).view(1, 1, 44) / 10 + 0.1
    margins = Margins(margin, margin < 0, torch.ones_like(margin))
    slopes = lagrangian.derivative(margins, torch.zeros(1) > 0, torch.tensor([0.9]), step)
    hardest = margin.masked_fill(~valid, -1).flatten().argsort(descending=True)[:dropped]
    assert (slopes.flatten() == 0).nonzero().flatten().tolist() == sorted([*hardest.tolist(), *range(40, 44)])


def test_penalty_parameters_of_void_pixels_stay():
    """They have no bound in the published iteration, and infinity times a mask of 0 is not a number."""
    valid = torch.tensor([[[True, False]]])
    goal = Goal(torch.zeros(1, 1, 2, dtype=torch.long), valid)
    lagrangian = ProxLagrangian(goal, 40, reference=True, capped=False, least_required=1.0)
    margins = Margins(torch.tensor([[[1.0, -1.0]]]), torch.zeros_like(valid), torch.ones(1, 1, 2))
    for step in range(40):
        lagrangian.derivative(margins, torch.zeros(1) > 0, torch.ones(1), step)
    assert lagrangian.penalty.flatten().tolist() == pytest.approx([0.01 * 2**4, 0.01])
