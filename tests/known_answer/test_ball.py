"""The bounded search of ALMA-prox's start and repair: its radii, and the loss that it follows."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from segrobust.attacks.alma_prox import ALMAProx
from segrobust.attacks.ball import BallSearch
from segrobust.attacks.margins import Margins
from segrobust.attacks.segmentation import Goal
from tests.known_answer.trace import cosine


def search_of(found, distance, norm="Linf", steps=20):
    """A search on two images of 8 pixels, all of them required and one of eight at the goal from the beginning."""
    clean = torch.full((2, 3, 2, 4), 0.5)
    goal = Goal(torch.zeros(2, 2, 4, dtype=torch.long), torch.ones(2, 2, 4, dtype=torch.bool))
    engine = SimpleNamespace(goal=goal)
    before = torch.zeros(2, 2, 4, dtype=torch.bool)
    before[:, 0, 0] = True
    closest = SimpleNamespace(
        found=torch.tensor(found), distance=torch.tensor(distance), before=before, required=torch.ones(2), points=clean
    )
    return BallSearch(ALMAProx(norm=norm), SimpleNamespace(engine=engine, clean=clean), closest, steps)


@pytest.mark.parametrize(("norm", "first"), [("Linf", 0.5 / 255), ("L2", 0.25), ("L1", 25.0)])
def test_first_radius(norm, first):
    assert search_of([False, False], [torch.inf, torch.inf], norm).radius.tolist() == pytest.approx([first] * 2)


def test_until_the_first_success_every_fourth_step_widens_it_the_more_the_further_the_goal_is():
    """By 1.8 where as little is reached as at the beginning, by 1.1 at the goal."""
    search = search_of([False, False], [torch.inf, torch.inf])
    radii = []
    for _ in range(8):
        search._resize(torch.zeros(2, dtype=torch.bool), torch.tensor([1 / 8, 1 / 8 + 7 / 16]), 0.05)
        radii.append(search.radius * 255 / 0.5)
    expected = [[1.0, 1.0]] * 3 + [[1.8, 1.45]] * 4 + [[1.8**2, 1.45**2]]
    torch.testing.assert_close(torch.stack(radii), torch.tensor(expected))


def test_after_it_a_success_makes_it_tighter_than_the_points_and_a_failure_wider_but_below_what_is_known():
    search = search_of([True, True], [0.05, 0.05])
    search.radius = torch.tensor([0.05, 0.05])
    search.points = search.clean + torch.tensor([0.04, 0.06]).view(2, 1, 1, 1)
    search._resize(torch.tensor([True, True]), torch.ones(2), 0.05)
    assert search.radius.tolist() == pytest.approx([0.04 * 0.95, 0.05 * 0.95])
    search._resize(torch.tensor([False, False]), torch.zeros(2), 0.05)
    assert search.radius.tolist() == pytest.approx([0.04 * 0.95 * 1.05, 0.05 * 0.95 * 1.05])
    search._resize(torch.tensor([False, False]), torch.zeros(2), 0.05)
    assert search.radius.tolist() == pytest.approx([0.04 * 0.95 * 1.05**2, 0.05 * 0.999])  # 0.1 % closer


def test_changes_fall_from_eight_percent_to_a_fifth_of_one(monkeypatch):
    search = search_of([True, True], [0.05, 0.05], steps=10)
    search.closest.update = lambda points, reached: torch.ones(2, dtype=torch.bool)
    changes = []
    monkeypatch.setattr(search, "_ascent", lambda progress: (torch.zeros(2, 3, 2, 4), torch.ones(2, 2, 4)))
    monkeypatch.setattr(search, "_resize", lambda succeeds, error, change: changes.append(change))
    search.run(4)
    search.run(6)
    assert changes == pytest.approx([cosine(0.08, 0.002, step / 10) for step in range(10)])


def test_pixels_far_from_their_goal_count_little_and_those_just_beyond_it_still():
    """1 / (1 + margin / mean) with the mean of the pixels that are not there; until 0.2 means beyond the boundary."""
    search = search_of([True, True], [0.05, 0.05])
    margin = torch.tensor([[1.0, 3.0, 5.0, -0.5, -0.7, -9.0, 2.0, 4.0], [0.1, 0.1, 0.1, 0.1, 0.1, -0.01, -0.03, 0.4]])
    margin = margin.view(2, 2, 4)
    slope = search._slope(Margins(margin, margin < 0, torch.ones_like(margin)))
    of_first = [1 / (1 + value / 3) for value in (1, 3, 5)] + [1, 0, 0] + [1 / (1 + value / 3) for value in (2, 4)]
    mean = 0.9 / 6
    of_second = [1 / (1 + 0.1 / mean)] * 5 + [1, 0] + [1 / (1 + 0.4 / mean)]
    torch.testing.assert_close(slope.flatten(1), torch.tensor([of_first, of_second]))
