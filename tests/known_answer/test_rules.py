"""The rules by which results are kept, counted and refused, each on an example of few numbers."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from segrobust.analysis.broken import broken_shares
from segrobust.attacks import build_attack
from segrobust.attacks.base import AttackContractError, Problem
from segrobust.attacks.minimum_norm import Closest
from segrobust.attacks.segmentation import Goal
from segrobust.core.draws import Draws
from segrobust.core.rows import Condition, Row
from segrobust.core.threats import THREATS, allowed
from segrobust.studies.base import Perturbed
from segrobust.studies.bench import Bench, Group
from segrobust.studies.rows import rows_of
from tests.attacks.toys import PixelLinear, batch
from tests.core.splitmix import uniform_of
from tests.known_answer.trace import Recorder

CLEAN = torch.full((1, 3, 1, 100), 0.5)


def closest_of(budgets=()):
    goal = Goal(torch.zeros(1, 1, 100, dtype=torch.long), torch.ones(1, 1, 100, dtype=torch.bool))
    engine = SimpleNamespace(goal=goal, share=lambda pixels: pixels.flatten(1).sum(1) / 100)
    return Closest(build_attack("FMN"), Problem(engine, CLEAN, Draws.of((0,)), budgets))


def reached(count):
    return (torch.arange(100) < count).view(1, 1, 100)


def test_an_image_is_found_at_99_percent_and_the_latest_of_equally_close_points_counts():
    closest = closest_of()
    assert closest.required.tolist() == [-1.0]
    points = {name: CLEAN + change for name, change in (("far", 0.2), ("near", 0.1), ("as near", -0.1))}
    assert not closest.update(CLEAN, reached(5)) and closest.required.tolist() == pytest.approx([0.99])
    assert not closest.update(points["far"], reached(98)) and not closest.found
    assert closest.update(points["far"], reached(99)) and closest.found
    assert closest.update(points["near"], reached(99)) and closest.distance.item() == pytest.approx(0.1)
    closest.distance = (points["as near"] - CLEAN).abs().amax().view(1)
    closest.update(points["as near"], reached(100))
    assert torch.equal(closest.points, points["as near"])
    assert not closest.update(CLEAN, reached(98)) and torch.equal(closest.points, points["as near"])


def test_before_a_success_the_latest_of_the_points_with_the_most_pixels_is_kept():
    closest = closest_of(budgets=(0.15,))
    closest.update(CLEAN, reached(5))
    for change, count in ((0.1, 40), (0.11, 40), (0.12, 39), (0.3, 60)):
        closest.update(CLEAN + change, reached(count))
    assert torch.equal(closest.points, CLEAN + 0.3) and closest.error.item() == pytest.approx(0.6)
    assert torch.equal(closest.budgets[0].images, CLEAN + 0.11)
    closest.update(CLEAN + 0.2, reached(60))
    assert torch.equal(closest.points, CLEAN + 0.2)
    edge = (CLEAN + 0.15 - CLEAN).abs().amax().item()
    exactly = closest_of(budgets=(edge,))
    exactly.update(CLEAN + 0.15, reached(50))
    assert torch.equal(exactly.budgets[0].images, CLEAN + 0.15)


@pytest.mark.parametrize(("wrong", "found"), [(98, False), (99, True), (100, True)])
def test_bounded_attacks_find_an_image_at_99_percent_too(wrong, found):
    model = PixelLinear()
    images, labels = batch(model, count=1, size=10, wrong=0, void=0)
    flat = labels.view(-1)
    flat[:wrong] = 1 - flat[:wrong]
    assert build_attack("CEPGD", eps=0, steps=1)(model, images, labels).found.tolist() == [found]
    row = Row(0, Condition("clean", "clean"), {"tp": [100 - wrong], "fn": [wrong]})
    (share,) = broken_shares([row], {}).values()
    assert share == (100.0 if found else 0.0)


def rows(prediction, labels, targets=None, **made):
    """Of one image whose prediction is known."""
    group = Group([0], [SimpleNamespace(name="x")], CLEAN, labels, targets)
    bench = Bench(None, SimpleNamespace(num_classes=2, ignore_index=255))
    bench.measured = lambda *_: prediction
    return list(rows_of(bench, group, Perturbed(Condition("attack", "FGSM"), CLEAN, [{}], **made)))


@pytest.mark.parametrize(("wrong", "found"), [(98, False), (99, True)])
def test_a_row_says_found_at_99_percent_of_what_counts(wrong, found):
    labels = torch.zeros(1, 1, 100, dtype=torch.long)
    prediction = reached(wrong).long()
    (row,) = rows(prediction, labels)
    assert row.found is found and (row.counts["tp"], row.counts["fn"]) == ([100 - wrong, 0], [wrong, 0])
    (row,) = rows(prediction, torch.full_like(labels, 255))
    assert row.found is False and row.counts["classes"] == []
    (row,) = rows(prediction, labels, torch.ones_like(labels))
    assert row.found is found and (row.extra["at_target"], row.extra["target_pixels"]) == (wrong, 100)


def test_pixels_that_a_study_takes_out_do_not_count_and_regions_are_counted_one_by_one():
    labels = torch.zeros(1, 1, 100, dtype=torch.long)
    labels[0, 0, :10] = 255
    void, regions = torch.arange(100).view(1, 1, 100) >= 90, torch.arange(100).view(1, 1, 100) // 50
    (row,) = rows(reached(30).long(), labels, void=void, regions=regions)
    assert (row.counts["tp"], row.counts["fn"]) == ([60, 0], [20, 0])
    assert row.extra["regions"] == [[20, 40], [40, 40]]


@pytest.mark.parametrize(("norm", "slack"), [("Linf", 0.0), ("L2", 1e-5), ("L1", 1e-5)])
def test_what_rounding_may_add_to_a_radius(norm, slack):
    for eps in (0.5, 2.0):
        assert allowed(norm, eps) == pytest.approx(eps * (1 + slack) + 1e-6, rel=1e-12)


@pytest.mark.parametrize(("beyond", "refused"), [(5e-7, False), (5e-6, True)])
def test_points_farther_than_that_are_refused(beyond, refused):
    attack = build_attack("FGSM", eps=0.1)
    clean = torch.zeros(1, 3, 2, 2)
    problem = Problem(SimpleNamespace(goal=Goal(clean[:, 0].long(), clean[:, 0] == 0)), clean, Draws.of((0,)))
    points = torch.full_like(clean, 0.1 + beyond)
    if refused:
        with pytest.raises(AttackContractError, match="left its bounds"):
            attack._check_images(points, problem, 0.1)
    else:
        attack._check_images(points, problem, 0.1)


def test_noise_is_that_of_the_seed_of_image_and_restart():
    model = PixelLinear()
    images, labels = torch.full((2, 3, 4, 4), 0.5), torch.zeros(2, 4, 4, dtype=torch.long)
    recorder = Recorder(model)
    build_attack("CEPGD", eps=0.1, steps=1, restarts=2)(recorder, images, labels, seeds=[7, 8])
    for restart, points in enumerate((recorder.points[0], recorder.points[2])):
        for image, seed in enumerate((7, 8)):
            noise = torch.tensor(uniform_of(seed, restart, 48)).view(3, 4, 4)
            torch.testing.assert_close(points[image], 0.5 + 0.1 * (2 * noise - 1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("norm", ["L2", "L1"])
def test_random_starts_of_other_balls_are_spread_over_their_volume(norm):
    """Of points that are even in a ball of n dimensions the share u of the radius has u^n even; here n = 3."""
    clean, eps = torch.full((800, 3, 1, 1), 0.5), torch.full((800,), 0.3)
    start = THREATS[norm].random_start(clean, eps, Draws.of(range(800)))
    share = (THREATS[norm].distance(start - clean) / eps) ** 3
    assert share.max() <= 1 + 1e-5 and share.mean().item() == pytest.approx(0.5, abs=0.05)
    assert (share < 0.25).float().mean().item() == pytest.approx(0.25, abs=0.05)


def test_an_ensembles_radii_are_even_changes_from_half_a_level_on():
    attack = build_attack("MinNormEnsemble", attacks=("CosPGD",))
    assert attack._radii(CLEAN) == pytest.approx([level / 255 for level in (0.5, 1, 2, 4, 8, 16)])
    attack = build_attack("MinNormEnsemble", attacks=("CosPGD",), norm="L1")
    assert attack._radii(CLEAN) == pytest.approx([300 * level / 255 for level in (0.5, 1, 2, 4, 8, 16)])
