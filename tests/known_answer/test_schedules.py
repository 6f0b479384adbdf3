"""What the bounded attacks do when, and the settings of their papers, as numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch

from segrobust.attacks import build_attack
from segrobust.attacks.bounded import CEPGD
from segrobust.attacks.segmentation import Goal
from tests.attacks.toys import PixelLinear, SmallNet, batch
from tests.known_answer.trace import Recorder

EPS = 0.03


def points_of(attack, net=None, count=3, size=12):
    """Images, labels and the points of every forward."""
    recorder = Recorder(SmallNet() if net is None else net)
    images, labels = batch(recorder.net, count=count, size=size)
    attack(recorder, images, labels)
    return images, labels, recorder.points


@pytest.mark.parametrize(("steps", "share"), [(1, 1.0), (2, 1.0), (10, 0.25), (25, 0.1)])
def test_the_steps_of_pgd_are_two_and_a_half_radii_together(steps, share):
    attack = build_attack("CEPGD:published", eps=EPS, steps=steps, random_start=False)
    images, _, points = points_of(attack, PixelLinear())
    moved = (points[1] - images).abs().flatten(1).amax(1)
    torch.testing.assert_close(moved, torch.full((3,), share * EPS))


@pytest.mark.parametrize(("name", "reach"), [("CEPGD", 2.0), ("TsallisPGD", 2.0), ("SharpPGD", 1.0)])
def test_the_first_step_of_apgd_is_two_radii_long_and_that_of_sharp_pgd_one(name, reach):
    images, _, points = points_of(build_attack(name, eps=EPS, steps=4, radius_reduction=False), PixelLinear())
    start, after = points[0], points[1]
    up = torch.minimum(torch.minimum(start + reach * EPS, images + EPS), torch.ones_like(images))
    down = torch.maximum(torch.maximum(start - reach * EPS, images - EPS), torch.zeros_like(images))
    moved = after != start
    least = torch.minimum((after - up).abs(), (after - down).abs())[moved]
    assert moved.float().mean() > 0.5 and least.max() < 1e-6


def test_sharp_pgd_watches_the_error():
    net = SmallNet()
    images, labels = batch(net, count=6, size=24)
    attack = build_attack("SharpPGD", eps=EPS, steps=40)
    watched = {track: replace(attack, track=track)(net, images, labels).images for track in ("error", "ce")}
    assert torch.equal(attack(net, images, labels).images, watched["error"])
    assert not torch.equal(watched["error"], watched["ce"])


@dataclass(frozen=True, kw_only=True)
class Clock(CEPGD):
    """Cross-entropy that writes down when it was asked."""

    seen = []

    def weight(self, pixels):
        self.seen.append(pixels.progress)
        return super().weight(pixels)


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        ("stage", [0, 1 / 3, 2 / 3, 0, 1 / 3, 2 / 3, 0, 1 / 4, 2 / 4, 3 / 4]),
        ("run", [step / 10 for step in range(10)]),
    ],
)
def test_schedules_begin_anew_in_every_stage_or_last_for_the_run(scope, expected):
    Clock.seen.clear()
    points_of(Clock(eps=EPS, steps=10, scope=scope))
    assert Clock.seen == pytest.approx(expected)
    Clock.seen.clear()
    points_of(Clock(eps=EPS, steps=10))
    assert Clock.seen == pytest.approx([0, 1 / 3, 2 / 3, 0, 1 / 3, 2 / 3, 0, 1 / 4, 2 / 4, 3 / 4])


def test_the_second_stage_starts_from_the_best_of_the_first():
    """By the share of wrong pixels, of equal ones the latest. Radii are 2, 1.5 and 1 eps, steps 30, 30 and 40 %."""
    images, labels, points = points_of(build_attack("TsallisPGD", eps=EPS, steps=40), count=4, size=16)
    valid, wanted, net = labels != 255, labels.masked_fill(labels == 255, 0), SmallNet().eval()
    scores = []
    for at in points[:13]:  # 12 gradients, and one more look at the last point
        with torch.no_grad():
            scores.append(((net(at).argmax(1) != wanted) & valid).flatten(1).sum(1))
    best = torch.stack(scores).flip(0).argmax(0)  # the latest of equal ones
    expected = torch.stack([points[12 - step][n] for n, step in enumerate(best.tolist())])
    expected = torch.minimum(torch.maximum(expected, images - 1.5 * EPS), images + 1.5 * EPS).clamp(0, 1)
    torch.testing.assert_close(points[13], expected, rtol=0, atol=1e-6)
    assert best.unique().numel() > 1 and (best > 0).any()
    largest = [(at - images).abs().max().item() for at in (points[5], points[20], points[-1])]
    assert largest == pytest.approx([2 * EPS, 1.5 * EPS, EPS], abs=1e-6)


@pytest.mark.parametrize("name", ["SegPGD", "CosPGD"])
def test_seg_pgd_and_cos_pgd_as_published(name):
    """100 steps of 0.01 from uniform noise in the ball; the last iterate counts."""
    attack = build_attack(f"{name}:published", eps=EPS)
    assert attack.passes() == (101, 100) and attack.keep == "last"
    images, _, points = points_of(replace(attack, steps=2))
    start, moved = points[0] - images, points[1] - points[0]
    assert 0.9 * EPS < start.abs().max() <= EPS + 1e-6 and start.abs().mean() < 0.6 * EPS
    inside = (start.abs() < EPS - 0.0101) & (points[0] > 0.02) & (points[0] < 0.98)
    assert moved[inside].abs().unique().tolist() == pytest.approx(
        [0.01] * moved[inside].abs().unique().numel(), abs=1e-6
    )


@pytest.mark.parametrize("name", ["JSPGD", "MaskedPGD", "BalancedPGD", "TsallisPGD", "SphericalPGD"])
def test_losses_of_sea_and_tsallis_pgd_as_published(name):
    attack = build_attack(f"{name}:published", eps=EPS)
    assert attack.stages() == [(2.0, 90), (1.5, 90), (1.0, 120)] and attack.passes() == (303, 300)
    assert (attack.optimiser, attack.track, attack.restarts, attack.random_start) == ("apgd", "ce", 1, True)
    assert attack.first_step == 2.0 and attack.keep == "best" and attack.scope == "stage"


def test_losses_of_sea():
    """Section 4 of the paper's final version, and of its first."""
    names = {v: [member.name for member in build_attack("SEA", losses=v).members()] for v in ("v1", "v2")}
    assert names["v2"] == ["BalancedPGD", "MaskedPGD", "JSPGD"]
    assert names["v1"] == ["MaskedPGD", "SegPGD", "JSPGD", "SphericalPGD"]


def test_budgets_of_the_ensembles():
    assert [member.passes() for member in build_attack("SEA").members()] == [(303, 300)] * 3
    standard = build_attack("Standard", steps=400)
    assert [search.attack.steps for search in standard.plan()] == [225, 75, 100]
    last = standard.plan()[-1].attack
    assert [last.sharpness(progress) for progress in (0, 0.5, 1)] == [2, 4, 6]
    assert [build_attack("SharpPGD").sharpness(progress) for progress in (0, 0.5, 1)] == [1, 2, 3]


def test_the_weight_of_a_pixel_in_the_balanced_error_is_the_root_of_its_rarity():
    labels = torch.tensor([[[0] * 16 + [1] * 4 + [2]]])
    valid = labels != 2
    weights = build_attack("Standard").class_weights(Goal(labels.masked_fill(~valid, 0), valid, highest=1))[0, 0]
    assert weights[0].item() == pytest.approx(1 / 4) and weights[16].item() == pytest.approx(1 / 2)


def test_members_of_standard_after_the_first_go_on_at_one_radius_from_half_of_it():
    first, *others = build_attack("Standard").plan()
    assert len(first.attack.stages()) == 3 and first.attack.first_step == 1.0 and first.start == "random"
    assert [(one.attack.stages()[0][0], len(one.attack.stages()), one.attack.first_step) for one in others] == [
        (1.0, 1, 0.5)
    ] * 2
    assert [(one.attack.name, one.attack.track, one.start) for one in others] == [
        ("BalancedSharpPGD", "ce", "balanced error"),
        ("SharpPGD", "error", "error"),
    ]
