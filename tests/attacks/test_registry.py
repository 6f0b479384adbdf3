"""Attacks of a user's own: one decorator, and what can be wrong with it."""

from __future__ import annotations

from dataclasses import dataclass, fields

import pytest
import torch

import segrobust
from segrobust.attacks import ATTACKS, build_attack
from segrobust.attacks.bounded import CEPGD
from segrobust.attacks.gradient_attack import GradientAttack
from segrobust.attacks.registry import find_attack, is_attack, register_attack
from segrobust.core.errors import UserError
from tests.attacks.toys import SmallNet, batch


@pytest.fixture(autouse=True)
def registry_as_before():
    before = dict(ATTACKS)
    yield
    ATTACKS.clear()
    ATTACKS.update(before)


def focal(power: float = 2.0) -> type:
    class FocalPGD(GradientAttack):
        power: float = 2.0

        def weight(self, pixels):
            return pixels.log_p.exp() ** self.power

    FocalPGD.power = power
    return FocalPGD


def test_the_decorator_makes_it_an_attack_like_ours():
    cls = segrobust.register_attack(focal())
    assert is_attack("focal-pgd") and find_attack("focal-pgd") is cls is ATTACKS["FocalPGD"]
    attack = build_attack("focal-pgd", power=0.0, steps=3, eps="8/255")
    assert attack.fields()["power"] == 0 and attack == build_attack(
        dict(type="FocalPGD", power=0.0, steps=3, eps="8/255")
    )
    with pytest.raises(AttributeError):
        attack.power = 1.0
    net = SmallNet().eval()
    images, labels = batch(net)
    plain, found = (build_attack(one, steps=3, eps="8/255")(net, images, labels) for one in ("CEPGD", "FocalPGD"))
    assert torch.equal(attack(net, images, labels).images, plain.images)  # power 0 is cross-entropy
    assert not torch.equal(found.images, plain.images)
    members = build_attack("SEA", losses=("FocalPGD", "CEPGD"), steps=3, eps="8/255")(net, images, labels).candidates
    assert torch.equal(members[0].images, found.images)


def test_its_own_dataclass_stays_as_it_is():
    @register_attack
    @dataclass(frozen=True, kw_only=True)
    class Mine(CEPGD):
        more: int = 3

    assert [field.name for field in fields(Mine)][-1] == "more" and build_attack("mine", more=4).more == 4


def test_the_same_class_may_come_again_and_another_of_its_name_may_not():
    register_attack(focal())
    again = register_attack(focal(3.0))  # a notebook's cell, run once more
    assert find_attack("FocalPGD") is again and build_attack("FocalPGD").power == 3
    for name in ("CEPGD", "CE_PGD"):
        with pytest.raises(UserError, match="there is an attack CEPGD already"):
            register_attack(type(name, (GradientAttack,), {}))
    assert find_attack("cepgd") is CEPGD


@pytest.mark.parametrize("given", [dict, CEPGD(), lambda: 0, torch.nn.Module])
def test_what_is_no_attack_class_is_refused(given):
    with pytest.raises(UserError, match="register_attack: expected a subclass of"):
        register_attack(given)


def test_an_attack_is_built_from_its_class_too():
    assert build_attack(CEPGD, steps=3) == CEPGD(steps=3)
    assert build_attack(CEPGD, preset="published") == build_attack("cepgd:published")
    for wrong in (3, None, dict, ["CEPGD"]):
        with pytest.raises(UserError, match=r"attack: expected a name or a config with type="):
            build_attack(wrong)
