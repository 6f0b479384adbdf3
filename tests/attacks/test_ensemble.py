"""SEA and Standard: what their members give alone, what an active set costs and changes, and which points are kept."""

from __future__ import annotations

import json
import math

import pytest
import torch

from segrobust.attacks import build_attack
from segrobust.attacks.base import Problem
from segrobust.attacks.gradient import Engine
from segrobust.attacks.sea import LOSSES, spherical_gradient
from segrobust.attacks.segmentation import Segmentation
from segrobust.attacks.standard import MEMBERS
from segrobust.core.draws import Draws
from segrobust.core.errors import UserError
from tests.attacks.toys import PixelLinear, SmallNet, batch, share_wrong
from tests.known_answer.trace import Recorder

EPS = 0.03
CHAIN = ({"type": "SegPGD", "share": 2}, {"type": "SharpPGD", "start": "error", "radius_reduction": False})


def test_passes():
    assert build_attack("SEA").passes() == (909, 900)
    assert build_attack("SEA", losses="v1").passes() == (1212, 1200)
    forwards, backwards = build_attack("Standard").passes()
    assert backwards == 450 and forwards <= 462
    for steps in (1, 7, 100, 901):
        assert build_attack("Standard", steps=steps).passes()[1] == steps
    assert [search.attack.steps for search in build_attack("Standard", steps=90, attacks=CHAIN).plan()] == [60, 30]


@pytest.mark.parametrize("version", LOSSES)
@pytest.mark.parametrize("counts", [None, (5.0, 80.0, 20.0, 300.0)])
def test_sea_is_the_worst_of_its_members_alone(version, counts):
    model = SmallNet()
    images, labels = batch(model)
    sea = build_attack("SEA", eps=EPS, steps=12, losses=version, class_counts=counts)
    result = sea(model, images, labels, seeds=[3, 4, 5])
    best = torch.full((3,), -1.0)
    names = tuple(loss.__name__ for loss in LOSSES[version])
    assert sea.candidate_names() == names == tuple(one.name for one in result.candidates)
    for name, candidate in zip(names, result.candidates, strict=True):
        more = {"class_counts": counts} if name == "BalancedPGD" else {}
        alone = build_attack(name, eps=EPS, steps=12, **more)(model, images, labels, seeds=[3, 4, 5])
        assert torch.equal(alone.images, candidate.images) and candidate.eps == EPS
        best = torch.maximum(best, alone.pixel_error)
    assert torch.equal(result.pixel_error, best)
    torch.testing.assert_close(share_wrong(model, result.images, labels), best)
    assert (best > torch.stack([share_wrong(model, one.images, labels) for one in result.candidates]).amin(0)).any()


def easy_and_hard(model):
    """Six images of which some are broken within the first few steps, and others never are."""
    images, labels = batch(model, count=6, size=8)
    labels[::2] = torch.where(labels[::2] == 255, 255, (labels[::2] + 1) % 3)  # wrong everywhere from the beginning
    return images, labels


def test_an_image_gets_the_same_among_others_and_alone():
    model = PixelLinear(num_classes=3)
    images, labels = easy_and_hard(model)
    attack = build_attack("Standard", eps=0.1, steps=40)
    together = attack(model, images, labels, seeds=range(6))
    assert together.backwards.unique().numel() > 1  # some left before others
    for n in range(6):
        alone = attack(model, images[n : n + 1], labels[n : n + 1], seeds=[n])
        assert torch.equal(alone.images[0], together.images[n])
        assert alone.pixel_error[0] == together.pixel_error[n]
        assert alone.forwards[0] == together.forwards[n] and alone.backwards[0] == together.backwards[n]
        for mine, theirs in zip(alone.candidates, together.candidates, strict=True):
            assert mine.name == theirs.name and torch.equal(mine.images[0], theirs.images[n])


def test_images_leave_as_soon_as_all_of_them_is_wrong_and_the_others_stay_to_the_end():
    model = PixelLinear(num_classes=3)
    images, labels = easy_and_hard(model)
    members = [{"type": "CEPGD"}] * 4
    attack = build_attack("Standard", eps=0.1, steps=40, attacks=members)
    result = attack(model, images, labels)
    done = result.pixel_error == 1
    assert done.any() and not done.all()
    assert (result.backwards[done] < 40).all() and (result.backwards[~done] == 40).all()
    assert (result.forwards[~done] == attack.passes()[0]).all()
    last = result.candidates[-2]
    assert last.name == "4 CEPGD" and torch.equal(last.images[done], result.images[done])
    torch.testing.assert_close(share_wrong(model, last.images, labels)[done], result.pixel_error[done])


def test_a_member_starts_from_the_best_of_those_before_it_and_never_loses_it():
    model = SmallNet()
    images, labels = batch(model, size=16)
    result = build_attack("Standard", eps=EPS, steps=30, attacks=CHAIN)(model, images, labels, seeds=[1, 2, 3])
    first = build_attack("SegPGD", eps=EPS, steps=20)(model, images, labels, seeds=[1, 2, 3])
    by_name = {one.name: one.images for one in result.candidates}
    assert torch.equal(by_name["1 SegPGD"], first.images)
    after = share_wrong(model, by_name["2 SharpPGD"], labels)
    assert (after >= first.pixel_error).all() and (after > first.pixel_error).any()
    assert torch.equal(result.images, by_name["2 SharpPGD"])
    with torch.no_grad():
        goal = Segmentation(ignore_index=255).goal(images, labels, None, targeted=False)
        problem = Problem(Engine(model.eval(), goal), images, Draws.of((1, 2, 3)))
        again = build_attack("SharpPGD", eps=EPS, steps=10, radius_reduction=False).search(problem, first.images)
    assert torch.equal(again.by_error.points, result.images)


def test_random_members_start_from_different_noise():
    model = PixelLinear()
    images, labels = batch(model)
    attack = build_attack("Standard", eps=EPS, steps=2, attacks=[{"type": "CEPGD"}, {"type": "CEPGD"}])
    first, second = (one.images for one in attack(model, images, labels).candidates if "balanced" not in one.name)
    assert not torch.equal(first, second)


class Seesaw(torch.nn.Module):
    """Two classes, told by the green channel, and one lever for all pixels, the mean of the red one: below 0.49 every
    pixel of class 0 is taken for class 1, above 0.51 the other way round."""

    num_classes = 2

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(20.0))

    def forward(self, images):
        red = images[:, :1].mean((2, 3), keepdim=True)
        first = self.scale * torch.where(images[:, 1:2] < 0.5, red - 0.49, red - 0.51)
        return torch.cat([first, -first], 1)


def common_and_rare():
    images = torch.full((1, 3, 10, 10), 0.5)
    images[:, 1] = 0.2
    images[:, 1, 0] = 0.8
    return images, (images[:, 1] > 0.5).long()  # ten of a hundred pixels


def test_points_by_error_break_the_common_class_and_points_by_balanced_error_the_rare_one():
    images, labels = common_and_rare()
    members = [{"type": "SharpPGD"}, {"type": "BalancedSharpPGD", "start": "balanced error", "radius_reduction": False}]
    attack = build_attack("Standard", eps=0.05, steps=80, class_counts=(1000.0, 1.0), attacks=members)
    result = attack(Seesaw(), images, labels)
    assert result.pixel_error == pytest.approx(0.9)
    wrong = {one.name: float(share_wrong(Seesaw(), one.images, labels)) for one in result.candidates}
    assert (
        wrong["1 SharpPGD"] == wrong["1 SharpPGD by balanced error"] == pytest.approx(0.9)
    )  # it never saw the other side
    assert wrong["2 BalancedSharpPGD by balanced error"] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("start", "name"), [("error", "1 SharpPGD"), ("balanced error", "2 BalancedSharpPGD by balanced error")]
)
def test_a_member_starts_from_the_points_that_are_best_by_what_it_names(start, name):
    images, labels = common_and_rare()
    members = [
        {"type": "SharpPGD", "share": 4},
        {"type": "BalancedSharpPGD", "share": 4, "start": "balanced error", "radius_reduction": False},
        {"type": "CEPGD", "share": 1, "start": start, "radius_reduction": False},
    ]
    attack = build_attack("Standard", eps=0.05, steps=90, class_counts=(1000.0, 1.0), attacks=members)
    recorder = Recorder(Seesaw())
    result = attack(recorder, images, labels)
    before = sum(member.passes()[0] for member in attack.members()[:2])
    (best,) = (one.images for one in result.candidates if one.name == name)
    torch.testing.assert_close(recorder.points[before], best, rtol=0, atol=1e-7)


def test_spherical_gradient_is_that_of_autograd():
    torch.manual_seed(0)
    logits = torch.randn(2, 5, 3, 3, dtype=torch.float64, requires_grad=True)
    labels, mask = torch.randint(5, (2, 3, 3)), torch.rand(2, 3, 3) < 0.6
    unit = logits / logits.norm(dim=1, keepdim=True)
    loss = -(mask * unit.gather(1, labels.unsqueeze(1)).squeeze(1)).sum()
    (expected,) = torch.autograd.grad(loss, logits)
    found = spherical_gradient(logits.detach(), labels, mask)
    torch.testing.assert_close(found, expected)
    assert not found.movedim(1, -1)[~mask].any()
    flat = spherical_gradient(torch.zeros(1, 5, 1, 1), torch.zeros(1, 1, 1).long(), torch.ones(1, 1, 1))
    assert torch.isfinite(flat).all()


def test_the_members_are_part_of_the_identity():
    standard = build_attack("Standard")
    listed = json.loads(json.dumps(standard.fields()))["attacks"]
    assert [one["type"] for one in listed] == [one.attack.name for one in MEMBERS]
    other = build_attack("Standard", attacks=[{**listed[0], "share": 5}, *listed[1:]])
    assert other != standard and build_attack(other.fields()) == other
    assert [one["type"] for one in build_attack("SEA", losses="v1").fields()["losses"]] == [
        one.__name__ for one in LOSSES["v1"]
    ]


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("SEA", {"losses": "v3"}, "unknown SEA losses"),
        ("SEA", {"losses": ["JSPGD", "JSPGD"]}, "different losses"),
        ("SEA", {"losses": ["FGSM"]}, "follow a gradient"),
        ("SEA", {"steps": 0}, "whole number steps"),
        ("Standard", {"attacks": []}, "expected attacks="),
        ("Standard", {"attacks": ["SharpPG"]}, "unknown attack"),
        ("Standard", {"attacks": [{"type": "SharpPGD", "beta": 2}]}, "unknown field of SharpPGD"),
        ("Standard", {"attacks": [{"type": "SharpPGD", "steps": 2}]}, "the ensemble sets steps"),
        ("Standard", {"attacks": [{"type": "SharpPGD", "share": 0}]}, "shares above 0"),
        ("Standard", {"attacks": ["CEPGD", {"type": "SharpPGD", "start": "best"}]}, "unknown Standard start"),
        ("Standard", {"attacks": [{"type": "SharpPGD", "start": "error"}]}, "no points to start from"),
        ("Standard", {"attacks": [{"share": 2}]}, "with type="),
        ("SEA", {"losses": [{"type": "JSPGD", "steps": 5}]}, "the ensemble sets steps"),
        ("SEA", {"losses": []}, "expected losses="),
        ("SEA", {"losses": [3]}, "follow a gradient within a radius, got 3"),
        ("Standard", {"attacks": ["FMN"]}, "follow a gradient within a radius, got FMN"),
        ("Standard", {"attacks": [{"type": "SharpPGD", "share": math.inf}]}, "shares above 0"),
        ("Standard", {"class_counts": "many"}, "one per class"),
    ],
)
def test_what_is_wrong_is_said_when_it_is_built(name, fields, message):
    with pytest.raises(UserError, match=message):
        build_attack(name, **fields)
