"""What training asks of an attack: no forward that only tells, and a start at given points."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from segrobust.attacks import build_attack
from segrobust.attacks.gradient import Engine
from segrobust.attacks.segmentation import Goal
from segrobust.core.errors import UserError
from tests.attacks.toys import PixelLinear, SmallNet, batch
from tests.known_answer.trace import Recorder

EPS = 0.03
PGD = dict(eps=EPS, steps=3, optimiser="pgd", radius_reduction=False)
LAST = dict(type="CEPGD", keep="last", **PGD)


@pytest.mark.parametrize(
    ("attack", "with_it", "without"),
    [
        (LAST, 4, 3),
        (LAST | {"optimiser": "apgd"}, 4, 3),
        (LAST | {"optimiser": "apgd", "radius_reduction": True, "steps": 10}, 13, 12),  # two stages hand theirs on
        (LAST | {"keep": "best"}, 4, 4),
        (LAST | {"restarts": 2}, 8, 8),
        (dict(type="FGSM", eps=EPS), 2, 1),
        (dict(type="ALMAProx", steps=5, eps_max=EPS, target_apsr=0.3), 7, 6),
    ],
)
def test_a_forward_that_only_tells_can_be_left_out(attack, with_it, without):
    net = SmallNet().eval()
    images, labels = batch(net, count=3)
    attack = build_attack(attack)
    whole, less = (attack(net, images, labels, seeds=(1, 2, 3), final_forward=told) for told in (True, False))
    assert torch.equal(whole.images, less.images) and torch.equal(whole.distance, less.distance)
    assert whole.forwards.tolist() == [with_it] * 3 and less.forwards.tolist() == [without] * 3
    assert torch.equal(whole.backwards, less.backwards)
    assert attack.final_forward_is_optional == (with_it > without)


def test_the_error_is_then_that_of_the_points_before():
    net = SmallNet().eval()
    images, labels = batch(net, count=3)
    sure = dict(random_start=False, step_size=EPS / 3)
    two, three = (build_attack(LAST | sure | {"steps": steps}) for steps in (2, 3))
    assert torch.equal(
        three(net, images, labels, final_forward=False).pixel_error, two(net, images, labels).pixel_error
    )
    with torch.no_grad():
        wrong = ((net(images).argmax(1) != labels) & (labels != 255)).flatten(1).sum(1) / (labels != 255).flatten(
            1
        ).sum(1)
    fgsm = build_attack("FGSM", eps=EPS)
    torch.testing.assert_close(fgsm(net, images, labels, final_forward=False).pixel_error, wrong)


def test_of_a_capped_minimum_norm_attack_its_own_count_is_the_same():
    net = SmallNet().eval()
    images, labels = batch(net, count=3)
    attack = build_attack(dict(type="ALMAProx", steps=5, eps_max=EPS, target_apsr=0.05, step_size=EPS / 2))
    whole, less = (attack(net, images, labels, final_forward=told) for told in (True, False))
    assert torch.equal(whole.found, less.found) and whole.found.any()
    assert torch.equal(whole.pixel_error, less.pixel_error)
    assert less.error_of_correct is None and whole.error_of_correct is not None


def test_a_start_is_put_into_the_ball_and_followed():
    """One step of a linear rule by hand, from a start at one end of the ball, beyond it, and from none."""
    net = PixelLinear()
    images, labels = torch.full((3, 3, 2, 2), 0.5), torch.zeros(3, 2, 2, dtype=torch.long)
    start = torch.stack([images[0] - EPS, images[1] + 1, torch.full_like(images[2], torch.nan)])
    attack = build_attack(LAST | {"steps": 1, "step_size": EPS / 2, "random_start": False})
    found = attack(net, images, labels, start=start).images
    towards = (net.weight[1] - net.weight[0]).detach().sign().expand(3, 2, 2)
    for got, before in zip(found, (images[0] - EPS, images[1] + EPS, images[2]), strict=True):
        torch.testing.assert_close(got, (before + EPS / 2 * towards).clamp(0.5 - EPS, 0.5 + EPS))


def test_without_a_start_it_is_the_ordinary_attack_and_later_runs_begin_at_random():
    net = SmallNet().eval()
    images, labels = batch(net, count=2)
    attack = build_attack(LAST)
    plain = attack(net, images, labels, seeds=(1, 2))
    unknown = attack(net, images, labels, seeds=(1, 2), start=torch.full_like(images, torch.nan))
    assert torch.equal(plain.images, unknown.images)
    recorder = Recorder(net)
    build_attack(LAST | {"restarts": 2})(recorder, images, labels, seeds=(1, 2), start=images)
    assert torch.equal(recorder.points[0], images) and not torch.equal(recorder.points[4], images)


@pytest.mark.parametrize(
    ("attack", "size", "message"),
    [
        (LAST, 5, r"CEPGD: expected a start as large as the images, got one of shape \(1, 3, 5, 5\)"),
        (dict(type="FGSM", eps=EPS), 8, "FGSM: expected no start, got one of shape"),
        (dict(type="ALMAProx", eps_max=EPS), 8, "ALMAProx: expected no start"),
    ],
)
def test_a_start_that_does_not_fit_is_refused(attack, size, message):
    images, labels = torch.full((1, 3, 8, 8), 0.5), torch.zeros(1, 8, 8, dtype=torch.long)
    with pytest.raises(UserError, match=message):
        build_attack(attack)(PixelLinear(), images, labels, start=torch.zeros(1, 3, size, size))


class Resized(nn.Module):
    """A network in channels-last order whose logits come out of a resize; keeps the gradient that they got."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Conv2d(3, 5, 3, stride=2, padding=1).to(memory_format=torch.channels_last)

    def forward(self, images):
        logits = F.interpolate(self.net(images), images.shape[2:], mode="bilinear")
        if logits.requires_grad:
            logits.register_hook(lambda gradient: setattr(self, "gradient", gradient))
        return logits


def test_a_logit_gradient_lies_in_memory_as_the_logits_do():
    net, images = Resized().requires_grad_(False), torch.rand(2, 3, 12, 10)
    labels = torch.arange(240).view(2, 12, 10) % 5
    engine = Engine(net, Goal(labels, labels >= 0))
    found = build_attack("CosPGD").measure_gradient(engine, images, 0.0).gradient
    assert net.gradient.is_contiguous(memory_format=torch.channels_last) and not net.gradient.is_contiguous()
    points = images.clone().requires_grad_()
    (expected,) = torch.autograd.grad(net(points), points, net.gradient.contiguous())
    assert torch.equal(found, expected)
