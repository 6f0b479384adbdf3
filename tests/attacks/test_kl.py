"""The attack inside TRADES: its gradient is that of the divergence, which it makes larger than others do."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from segrobust.attacks import build_attack
from segrobust.attacks.base import Problem
from segrobust.attacks.gradient import Engine
from segrobust.attacks.segmentation import Goal
from segrobust.core.draws import Draws
from segrobust.core.errors import UserError
from tests.attacks.toys import SmallNet, batch

PLAIN = dict(eps=0.03, steps=10, optimiser="pgd", radius_reduction=False, keep="last")


def divergence(net, clean, attacked, valid):
    """KL(clean || attacked) by torch, summed over the valid pixels of each image."""
    log_p, log_r = (net.eval()(one).log_softmax(1) for one in (clean, attacked))
    return (F.kl_div(log_r, log_p, reduction="none", log_target=True).sum(1) * valid).flatten(1).sum(1)


def test_the_gradient_is_that_of_the_divergence():
    net = SmallNet().eval()
    images, labels = batch(net)
    valid = labels != 255
    engine = Engine(net, Goal(labels.masked_fill(~valid, 0), valid))
    measure = build_attack("KLPGD").begin(Problem(engine, images, Draws.of((0, 0, 0), images.device)))
    points = (images + 0.1).clamp(0, 1).requires_grad_()
    (expected,) = torch.autograd.grad(divergence(net, images, points, valid).sum(), points)
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(measure(points.detach(), 0.5).gradient, expected, rtol=1e-4, atol=1e-5)
    assert measure(images, 0.5).gradient.abs().max() < 1e-5  # why it starts from noise


def test_the_divergence_becomes_larger_than_under_cross_entropy():
    net = SmallNet()
    images, labels = batch(net, size=24, wrong=0.3)
    found = {name: build_attack(name, **PLAIN)(net, images, labels).images for name in ("KLPGD", "CEPGD")}
    with torch.no_grad():
        kl, ce = (divergence(net, images, found[name], labels != 255) for name in ("KLPGD", "CEPGD"))
    assert (kl > 1.2 * ce).all()


def test_one_more_forward_in_every_search():
    net = SmallNet()
    attack = build_attack("KLPGD", steps=6, restarts=2)
    result = attack(net, *batch(net))
    assert attack.passes() == (2 * (6 + 3 + 1), 12)
    assert (int(result.forwards[0]), int(result.backwards[0])) == attack.passes()


def test_a_start_at_the_clean_image_is_refused():
    with pytest.raises(UserError, match="no gradient at the clean image"):
        build_attack("KLPGD", random_start=False)
