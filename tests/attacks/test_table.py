"""What every attack promises; an attack enters this table by being registered."""

from __future__ import annotations

import json
import math
from dataclasses import fields

import pytest
import torch

from segrobust.attacks import ATTACKS, build_attack
from segrobust.core.errors import UserError
from segrobust.core.threats import THREATS
from tests.attacks.toys import PixelLinear, SmallNet, batch, share_wrong

RADII = {"Linf": 0.08, "L2": 1.5, "L1": 12.0}
APSR = 0.9
SETTINGS = {  # what shows within few steps on small images that an attack works
    "DAG": {"Linf": {"gamma": 0.02}},
    "MinNormEnsemble": {norm: {"attacks": ("FMN", "CosPGD")} for norm in THREATS},
    "PDPGD": {norm: {"steps": 100, "lr": 0.1, "dual_lr": 1.0} for norm in ("L2", "L1")},
    "PDGD": {"L2": {"lr": 0.1}},
    "ASMA": {"L2": {"first_change": 0.01}},
    "Square": {"Linf": {"steps": 300}},
}
TIMID = ("ASMA",)  # its published steps do next to nothing to an image of 36 pixels
BOUNDED = [name for name, cls in ATTACKS.items() if not cls.minimum_norm]
MINIMUM = [name for name, cls in ATTACKS.items() if cls.minimum_norm]
TARGETING = [name for name, cls in ATTACKS.items() if cls.can_target]
GRADIENT = [name for name in BOUNDED if not ATTACKS[name].control]


def in_every_norm(names):
    return pytest.mark.parametrize(("name", "norm"), [(name, norm) for name in names for norm in ATTACKS[name].norms])


def make(name, norm=None, **more):
    cls = ATTACKS[name]
    known = {field.name for field in fields(cls)}
    norm = norm or ("Linf" if "Linf" in cls.norms else cls.norms[0])
    defaults = {"steps": 12, "apsr": APSR, "eps": RADII[norm], "targeted": needs_targets(name)}
    if cls.minimum_norm:
        defaults |= {"steps": 40}
    more = {**defaults, **SETTINGS.get(name, {}).get(norm, {}), **more}
    return build_attack(name, norm=norm, **{k: v for k, v in more.items() if k in known})


def needs_targets(name):
    return ATTACKS[name].targeted


def runner_up(model, images):
    with torch.no_grad():
        return model.eval()(images).topk(2, dim=1).indices[:, 1]


def call(attack, model, images, labels, **more):
    """The attack, with targets where it wants some."""
    training = [(module, module.training) for module in model.modules()]
    targets = runner_up(model, images) if attack.targeted else None
    for module, mode in training:
        module.training = mode
    return attack(model, images, labels, targets=targets, **more)


def share_reached(attack, model, images, labels, clean):
    """Share of valid pixels at the goal of ``call``, measured without the package."""
    if not attack.targeted:
        return share_wrong(model, images, labels)
    targets, valid = runner_up(model, clean), labels != 255
    with torch.no_grad():
        hit = (model.eval()(images).argmax(1) == targets) & valid
    return hit.flatten(1).sum(1) / valid.flatten(1).sum(1)


@in_every_norm(BOUNDED)
def test_budget_box_and_books(name, norm):
    model = SmallNet()
    images, labels = batch(model)
    attack = make(name, norm)
    before = images.clone(), labels.clone()
    result = call(attack, model, images, labels)
    assert result.images.dtype == torch.float32 and torch.isfinite(result.images).all()
    assert result.images.min() >= 0 and result.images.max() <= 1
    distance = THREATS[norm].distance(result.images - images)
    assert (distance <= RADII[norm] * (1 + 1e-5) + 1e-6).all() and (distance > 0).all()
    assert torch.equal(distance, result.distance)
    torch.testing.assert_close(result.pixel_error, share_wrong(model, result.images, labels))
    assert torch.equal(result.found, result.pixel_error >= 0.99)
    assert (result.forwards[0], result.backwards[0]) == attack.passes()
    assert torch.equal(images, before[0]) and torch.equal(labels, before[1])


@in_every_norm(MINIMUM)
class TestEveryMinimumNormAttackInEveryNorm:
    def test_box_and_books(self, name, norm):
        model = SmallNet()
        images, labels = batch(model)
        attack = make(name, norm)
        before = images.clone(), labels.clone()
        result = call(attack, model, images, labels)
        assert result.images.dtype == torch.float32 and torch.isfinite(result.images).all()
        assert result.images.min() >= 0 and result.images.max() <= 1
        distance = THREATS[norm].distance(result.images - images)
        assert torch.equal(distance, result.distance) and (distance > 0).all()
        error = share_reached(attack, model, result.images, labels, images)
        torch.testing.assert_close(result.pixel_error, error)
        assert torch.equal(result.found, error >= APSR)
        assert (error > share_reached(attack, model, images, labels, images)).all()
        rounded = (result.images * 255).round() / 255
        kept = share_reached(attack, model, rounded, labels, images) >= APSR
        expected = THREATS[norm].distance(rounded - images).masked_fill(~kept, math.inf)
        torch.testing.assert_close(result.distance_8bit, expected)
        assert torch.equal(images, before[0]) and torch.equal(labels, before[1])

    def test_passes_are_those_announced_and_only_a_success_ends_early(self, name, norm):
        model = SmallNet()
        images, labels = batch(model)
        attack = make(name, norm)
        result = call(attack, model, images, labels)
        forwards, backwards = attack.passes()
        assert (result.forwards <= forwards).all() and (result.backwards <= backwards).all()
        assert (result.forwards[~result.found] == forwards).all()
        assert (result.backwards[~result.found] == backwards).all()
        hopeless = call(make(name, norm, steps=1, apsr=1.0), model, images, labels)
        assert not hopeless.found.any()
        assert (hopeless.forwards[0], hopeless.backwards[0]) == make(name, norm, steps=1, apsr=1.0).passes()

    def test_worst_images_per_budget(self, name, norm):
        model = SmallNet()
        images, labels = batch(model)
        attack = make(name, norm)
        budgets = tuple(RADII[norm] * factor for factor in (0.25, 1, 2, 8))
        result = call(attack, model, images, labels, budgets=budgets)
        assert tuple(candidate.eps for candidate in result.candidates) == budgets
        least = share_reached(attack, model, images, labels, images)
        for candidate in result.candidates:
            assert (THREATS[norm].distance(candidate.images - images) <= candidate.eps * (1 + 1e-5) + 1e-6).all()
            error = share_reached(attack, model, candidate.images, labels, images)
            assert (error >= least).all()
            least = torch.where(result.distance <= candidate.eps, result.pixel_error, error)
            assert (error >= least).all()
            least = error
        assert (least > share_reached(attack, model, images, labels, images)).all()

    def test_batch_equals_singles(self, name, norm):
        model = PixelLinear(num_classes=3)
        images, labels = batch(model)
        budgets = (RADII[norm],)
        together = call(make(name, norm), model, images, labels, seeds=[5, 6, 7], budgets=budgets)
        for n in range(3):
            one = slice(n, n + 1)
            alone = call(make(name, norm), model, images[one], labels[one], seeds=[5 + n], budgets=budgets)
            assert torch.equal(alone.images[0], together.images[n])
            assert torch.equal(alone.candidates[0].images[0], together.candidates[0].images[n])
            assert alone.pixel_error[0] == together.pixel_error[n] and alone.found[0] == together.found[n]
            assert alone.forwards[0] == together.forwards[n] and alone.backwards[0] == together.backwards[n]

    def test_beats_noise_of_the_same_size(self, name, norm):
        model = SmallNet()
        images, labels = batch(model, size=24)
        attack = make(name, norm)
        result = call(attack, model, images, labels)
        for n in range(len(images)):
            one = slice(n, n + 1)
            noise = make("UniformNoise", norm, eps=result.distance[n].item())(model, images[one], labels[one])
            reached = share_reached(attack, model, noise.images, labels[one], images[one])
            assert result.pixel_error[n] > reached + 0.1


@in_every_norm(BOUNDED)
def test_batch_equals_singles(name, norm):
    model = PixelLinear(num_classes=3)
    images, labels = batch(model)
    together = call(make(name, norm), model, images, labels, seeds=[5, 6, 7])
    for n in range(3):
        alone = call(make(name, norm), model, images[n : n + 1], labels[n : n + 1], seeds=[5 + n])
        assert torch.equal(alone.images[0], together.images[n])
        assert alone.pixel_error[0] == together.pixel_error[n]


@pytest.mark.parametrize("name", ATTACKS)
class TestEveryAttack:
    def test_void_may_hold_anything_to_the_same_effect(self, name):
        model = SmallNet()
        images, labels = batch(model)
        results = [
            call(make(name), model, images, labels.where(labels != 255, v), ignore_index=v) for v in (255, -1, 99)
        ]
        for other in results[1:]:
            assert torch.equal(results[0].images, other.images)
            assert torch.equal(results[0].pixel_error, other.pixel_error)

    def test_an_image_without_valid_pixels_comes_back_unchanged(self, name):
        model = SmallNet()
        images, labels = batch(model)
        labels[1] = 255
        result = call(make(name), model, images, labels)
        assert torch.equal(result.images[1], images[1])
        assert result.pixel_error[1] == 0 and not result.found[1] and result.distance[1] == 0
        assert not torch.equal(result.images[0], images[0])

    def test_the_model_is_left_as_it_was(self, name):
        model = SmallNet().train()
        model.norm.eval()
        model.last.bias.requires_grad_(False)
        model.first.weight.grad = torch.ones_like(model.first.weight)
        state = {key: value.clone() for key, value in model.state_dict().items()}
        flags = [module.training for module in model.modules()]
        call(make(name), model, *batch(SmallNet()))
        assert flags == [module.training for module in model.modules()]
        assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
        assert [p.requires_grad for p in model.parameters()] == [True] * 5 + [False]
        assert torch.equal(model.first.weight.grad, torch.ones_like(model.first.weight))
        assert all(p.grad is None for p in list(model.parameters())[1:])

    def test_same_seed_same_result_and_works_under_no_grad(self, name):
        model = SmallNet()
        images, labels = batch(model)
        first = call(make(name), model, images, labels, seeds=[1, 2, 3])
        with torch.no_grad():
            second = call(make(name), model, images, labels, seeds=[1, 2, 3])
        assert torch.equal(first.images, second.images)

    def test_fields_rebuild_it(self, name):
        attack = make(name)
        spec = json.loads(json.dumps(attack.fields()))
        assert build_attack(spec) == attack and hash(build_attack(spec)) == hash(attack)

    def test_labels_outside_the_classes_are_named(self, name):
        model = SmallNet()
        images, labels = batch(model)
        labels[0, 0, 0] = 7
        with pytest.raises(UserError, match=r"classes 0\.\.3 or void, got 7"):
            call(make(name), model, images, labels)

    def test_negative_labels_and_wrong_images_are_refused(self, name):
        model = SmallNet()
        images, labels = batch(model)
        with pytest.raises(UserError, match="got -3"):
            call(make(name), model, images, labels.where(labels != 255, -3))
        with pytest.raises(UserError, match=r"values in \[0, 1\]"):
            call(make(name), model, images * 255, labels)
        with pytest.raises(UserError, match="expected integers"):
            call(make(name), model, images, labels[:, :-1])

    def test_published_settings_run(self, name):
        if ATTACKS[name].published is None:
            with pytest.raises(UserError, match="no published settings"):
                build_attack(name, preset="published")
            return
        more = {"targeted": needs_targets(name)} if name in MINIMUM else {"eps": 0.05}
        attack = build_attack(f"{name}:published", **more)
        model = PixelLinear(num_classes=3)
        images, labels = batch(model, count=1, size=6)
        before = share_reached(attack, model, images, labels, images)
        result = call(attack, model, images, labels)
        assert result.pixel_error > before or (name in TIMID and result.distance > 0)


@pytest.mark.parametrize("name", GRADIENT)
def test_beats_noise_of_the_same_size(name):
    model = SmallNet()
    images, labels = batch(model, size=24)
    noise = make("UniformNoise")(model, images, labels)
    assert (make(name)(model, images, labels).pixel_error > noise.pixel_error + 0.1).all()


@in_every_norm(TARGETING)
def test_targeted_pixels_reach_their_targets(name, norm):
    model = SmallNet()
    images, labels = batch(model, void=0.0)
    targets = runner_up(model, images)
    targets[:, :3] = 255  # any class will do there
    attack = make(name, norm, targeted=True, **({} if name in MINIMUM else {"steps": 30}))
    result = attack(model, images, labels, targets=targets)
    wanted = targets != 255

    def at_target(batch_images):
        with torch.no_grad():
            hit = model.eval()(batch_images).argmax(1) == targets
        return (hit & wanted).flatten(1).sum(1) / wanted.flatten(1).sum(1)

    torch.testing.assert_close(result.pixel_error, at_target(result.images))
    assert (result.pixel_error > at_target(images) + 0.02).all()


@pytest.mark.parametrize("name", [name for name in ATTACKS if name not in TARGETING])
def test_attacks_without_a_targeted_form_say_so(name):
    with pytest.raises(UserError, match="no targeted form"):
        build_attack(name, targeted=True)
