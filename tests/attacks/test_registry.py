"""Attacks of a user's own: one decorator, and what can be wrong with it."""

from __future__ import annotations

from dataclasses import dataclass, fields

import pytest
import torch

import segrobust
from segrobust.attacks import ATTACKS, build_attack
from segrobust.attacks.bounded import CEPGD, JSPGD, BalancedPGD, CosPGD
from segrobust.attacks.gradient_attack import GradientAttack
from segrobust.attacks.min_norm_ensemble import MinNormEnsemble
from segrobust.attacks.registry import register_attack
from segrobust.attacks.sea import SEA
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
    assert ATTACKS.find("focal-pgd") is cls is ATTACKS["FocalPGD"]
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


def test_a_default_without_its_type_is_refused_and_not_ignored():
    with pytest.raises(UserError, match=r"Fewer sets steps without a type.*; write steps: int = \.\.\."):

        @register_attack
        class Fewer(CEPGD):
            steps = 5

    assert "Fewer" not in ATTACKS

    @register_attack
    class FewerSteps(CEPGD):
        steps: int = 5

    assert build_attack("fewer-steps").steps == 5


def test_the_same_class_may_come_again_and_another_of_its_name_may_not():
    register_attack(focal())
    again = register_attack(focal(3.0))  # a notebook's cell, run once more
    assert ATTACKS.find("FocalPGD") is again and build_attack("FocalPGD").power == 3
    for name in ("CEPGD", "CE_PGD"):
        with pytest.raises(UserError, match="there is an attack CEPGD already"):
            register_attack(type(name, (GradientAttack,), {}))
    assert ATTACKS.find("cepgd") is CEPGD


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


def test_an_attack_is_built_from_text():
    assert build_attack("tsallis-pgd(norm=L2, q_start=-3)") == build_attack("TsallisPGD", norm="L2", q_start=-3)
    assert build_attack("cospgd:published(steps=50)") == build_attack("CosPGD", preset="published", steps=50)
    assert build_attack("cepgd(eps=8/255, steps=9)", steps=3) == CEPGD(eps="8/255", steps=3)
    assert build_attack({"type": "cepgd(steps=9)", "steps": 3}) == CEPGD(steps=3)
    ensemble = build_attack("sea(losses=[cospgd(track=error), jspgd], class_counts=[1, 2], steps=7)")
    assert [(one.name, one.track, one.steps) for one in ensemble.losses] == [("CosPGD", "error", 7), ("JSPGD", "ce", 7)]
    assert build_attack("fmn(apsr=0.5)").apsr == 0.5
    nested = build_attack("min-norm-ensemble(attacks=[fmn(steps=5), min-norm-ensemble(attacks=[ddn])], norm=L2)")
    assert [one.norm for one in (*nested.attacks, *nested.attacks[1].attacks)] == ["L2"] * 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cepgd(stepz=3)", "unknown field of CEPGD 'stepz'; did you mean steps"),
        ("cepgd(norm=[1])", r"unknown norm '\(1,\)'"),
        ("cepgd(norm={1})", "expected norm to be a number, a text or a list of them"),
        ("cepgd(steps={'a': 1})", "expected steps to be a number, a text or a list of them"),
        ("cepgd(steps=9/255)", "whole number steps"),
        ("cepgd(first_step=1e999)", "expected first_step to be a number"),
        ("cepgd(eps=__import__('os'))", "eps: expected a number or a fraction"),
        ("cepgd(step_schedule=[1])", "unknown CEPGD step_schedule"),
        ("cepgd:official", "unknown preset 'official'"),
        ("standard(attacks=[tsalis])", "unknown attack 'tsalis'"),
        ("standard(attacks=tsallis-pgd)", r"expected attacks=\[attacks\]"),
        ("standard(attacks=[standard])", "follow a gradient within a radius, got Standard"),
        ("sea(losses=[cepgd, ce-pgd])", "expected different losses"),
        ("sea(losses=[cepgd(steps=3)])", "the ensemble sets steps of its members itself"),
        ("min-norm-ensemble(attacks=[{1}])", "expected attacks to be a number, a text or a list"),
        ("min-norm-ensemble(radii=[a])", "radii: expected a number or a fraction"),
    ],
)
def test_what_is_wrong_with_a_text_is_said_in_one_line(text, message):
    with pytest.raises(UserError, match=message) as error:
        build_attack(text)
    assert "\n" not in str(error.value)


def test_an_ensembles_members_are_attacks_whoever_builds_it():
    losses = (JSPGD(track="error"), CEPGD(eps=0.5, steps=1, restarts=3, seed=7, norm="L2"))
    direct = SEA(eps="4/255", steps=9, losses=losses)
    named = build_attack("SEA", eps="4/255", steps=9, losses=[{"type": "JSPGD", "track": "error"}, "cepgd"])
    assert direct == named and hash(direct) == hash(named) and direct.fields() == named.fields()
    assert [(one.norm, one.eps, one.steps, one.restarts, one.seed) for one in direct.members()] == [
        ("Linf", 4 / 255, 9, 1, 0)
    ] * 2
    assert build_attack(direct, eps="8/255", norm="L2").losses[1] == CEPGD(eps="8/255", steps=9, norm="L2")
    for wrong in (lambda: SEA(losses=("JSPGD",)), lambda: MinNormEnsemble(attacks=("FMN",))):
        with pytest.raises(UserError, match=r"got 'JSPGD'|got 'FMN'"):
            wrong()


@pytest.mark.parametrize("member", [CosPGD(optimiser="pgd", radius_reduction=False, track="error"), BalancedPGD()])
def test_every_field_of_a_member_is_part_of_the_identity(member):
    (listed,) = SEA(losses=(member,)).fields()["losses"]
    assert listed.keys() == member.fields().keys() - set(SEA.sets)
    assert all(listed[name] == value for name, value in member.fields().items() if name in listed)
