"""RP-PGD's regions: which pixels are in which, what they weigh, and every search remembers its own points."""

from __future__ import annotations

import pytest
import torch

from segrobust.attacks import build_attack, regions
from segrobust.attacks.regions import Regions
from segrobust.attacks.weights import Pixels
from segrobust.core.errors import UserError
from tests.attacks.toys import SmallNet, batch

STEPS = 5


def pixels(correct, step, valid=(1, 1, 1, 1, 1, 1)):
    """One image of six pixels in a row."""
    row = lambda values: torch.tensor(values, dtype=torch.bool).view(1, 1, 6)  # noqa: E731
    zeros = torch.zeros(1, 1, 6)
    return Pixels(zeros, row(correct), lambda: zeros, 2, zeros.long(), row(valid), step / STEPS, False)


def weigh(region, factor):
    """Weight of a pixel in a region of so many pixels, of five valid ones."""
    return 5 * factor / region


def test_a_pixel_that_was_wrong_once_stays_on_the_boundary():
    weight, void = Regions(STEPS), (1, 1, 1, 1, 1, 0)
    first = weight(pixels([1, 1, 1, 1, 0, 0], 0, void))
    assert first.flatten().tolist() == pytest.approx([weigh(4, 1.0)] * 4 + [weigh(1, 0.1), 0])
    flipped = weight(pixels([1, 1, 0, 0, 1, 1], 2, void))
    boundary = weigh(2, 2 / 10 - 1 / 10)
    assert flipped.flatten().tolist() == pytest.approx([weigh(2, 0.8)] * 2 + [boundary] * 2 + [weigh(1, 0.1), 0])
    back = weight(pixels([1, 0, 1, 1, 1, 0], 4, void))  # the third and fourth are right again, and stay
    boundary = weigh(3, 4 / 10 - 1 / 10)
    assert back.flatten().tolist() == pytest.approx([weigh(1, 0.6)] + [boundary] * 3 + [weigh(1, 0.1), 0])


def test_the_boundary_has_no_negative_weight():
    weight = Regions(STEPS)
    weight(pixels([1] * 6, 0))
    assert weight(pixels([0] * 6, 0)).eq(0).all()


def test_every_search_has_its_own_memory(monkeypatch):
    made = []

    class Counted(Regions):
        def __init__(self, steps):
            super().__init__(steps)
            made.append(self)
            self.calls = 0

        def __call__(self, pixels):
            self.calls += 1
            return super().__call__(pixels)

    monkeypatch.setattr(regions, "Regions", Counted)
    net = SmallNet()
    images, labels = batch(net)
    build_attack("RPPGD", eps=0.03, steps=6, restarts=2)(net, images, labels)
    assert [one.calls for one in made] == [6, 6]  # over all three stages
    assert made[0].boundary.any() and not (made[0].boundary & made[0].false).any()


def test_it_is_not_its_first_weight_alone():
    net = SmallNet()
    images, labels = batch(net, size=24)
    attack = build_attack("RPPGD", eps=0.03, steps=12, optimiser="pgd", radius_reduction=False, keep="last")

    class Forgetful(type(attack)):
        def begin(self, problem):
            return super(type(attack), self).begin(problem)

    found, other = (one(net, images, labels) for one in (attack, Forgetful(**without_type(attack))))
    assert not torch.equal(found.images, other.images)


def without_type(attack):
    return {key: value for key, value in attack.fields().items() if key != "type"}


def test_the_prototypes_are_not_there_and_no_targeted_form():
    assert build_attack("RPPGD:published").steps == 100
    with pytest.raises(UserError, match="no targeted form"):
        build_attack("RPPGD", targeted=True)
