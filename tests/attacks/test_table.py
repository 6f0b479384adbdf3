"""What every attack promises; an attack enters this table by being registered."""

from __future__ import annotations

import json
from dataclasses import fields

import pytest
import torch

from segrobust.attacks import ATTACKS, build_attack
from segrobust.errors import UserError
from segrobust.threats import THREATS
from tests.attacks.toys import PixelLinear, SmallNet, batch, share_wrong

RADII = {"Linf": 0.08, "L2": 1.5, "L1": 12.0}
TARGETING = [name for name, cls in ATTACKS.items() if cls.can_target]
GRADIENT = [name for name, cls in ATTACKS.items() if not cls.control]


def make(name, norm="Linf", **more):
    known = {field.name for field in fields(ATTACKS[name])}
    more = {"steps": 12, **more}
    return build_attack(name, eps=RADII[norm], norm=norm, **{k: v for k, v in more.items() if k in known})


@pytest.mark.parametrize("norm", THREATS)
@pytest.mark.parametrize("name", ATTACKS)
class TestEveryAttackInEveryNorm:
    def test_budget_box_and_books(self, name, norm):
        model = SmallNet()
        images, labels = batch(model)
        attack = make(name, norm)
        before = images.clone(), labels.clone()
        result = attack(model, images, labels)
        assert result.images.dtype == torch.float32 and torch.isfinite(result.images).all()
        assert result.images.min() >= 0 and result.images.max() <= 1
        distance = THREATS[norm].distance(result.images - images)
        assert (distance <= RADII[norm] * (1 + 1e-5) + 1e-6).all() and (distance > 0).all()
        assert torch.equal(distance, result.distance)
        torch.testing.assert_close(result.pixel_error, share_wrong(model, result.images, labels))
        assert torch.equal(result.found, result.pixel_error >= 0.99)
        assert (result.forwards[0], result.backwards[0]) == attack.passes()
        assert torch.equal(images, before[0]) and torch.equal(labels, before[1])

    def test_batch_equals_singles(self, name, norm):
        model = PixelLinear(num_classes=3)
        images, labels = batch(model)
        together = make(name, norm)(model, images, labels, seeds=[5, 6, 7])
        for n in range(3):
            alone = make(name, norm)(model, images[n : n + 1], labels[n : n + 1], seeds=[5 + n])
            assert torch.equal(alone.images[0], together.images[n])
            assert alone.pixel_error[0] == together.pixel_error[n]


@pytest.mark.parametrize("name", ATTACKS)
class TestEveryAttack:
    def test_void_may_hold_anything_to_the_same_effect(self, name):
        model = SmallNet()
        images, labels = batch(model)
        results = [make(name)(model, images, labels.where(labels != 255, v), ignore_index=v) for v in (255, -1, 99)]
        for other in results[1:]:
            assert torch.equal(results[0].images, other.images)
            assert torch.equal(results[0].pixel_error, other.pixel_error)

    def test_an_image_without_valid_pixels_comes_back_unchanged(self, name):
        model = SmallNet()
        images, labels = batch(model)
        labels[1] = 255
        result = make(name)(model, images, labels)
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
        make(name)(model, *batch(SmallNet()))
        assert flags == [module.training for module in model.modules()]
        assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
        assert [p.requires_grad for p in model.parameters()] == [True] * 5 + [False]
        assert torch.equal(model.first.weight.grad, torch.ones_like(model.first.weight))
        assert all(p.grad is None for p in list(model.parameters())[1:])

    def test_same_seed_same_result_and_works_under_no_grad(self, name):
        model = SmallNet()
        images, labels = batch(model)
        first = make(name)(model, images, labels, seeds=[1, 2, 3])
        with torch.no_grad():
            second = make(name)(model, images, labels, seeds=[1, 2, 3])
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
            make(name)(model, images, labels)

    def test_negative_labels_and_wrong_images_are_refused(self, name):
        model = SmallNet()
        images, labels = batch(model)
        with pytest.raises(UserError, match="got -3"):
            make(name)(model, images, labels.where(labels != 255, -3))
        with pytest.raises(UserError, match=r"values in \[0, 1\]"):
            make(name)(model, images * 255, labels)
        with pytest.raises(UserError, match="expected integers"):
            make(name)(model, images, labels[:, :-1])

    def test_published_settings_run(self, name):
        if ATTACKS[name].published is None:
            with pytest.raises(UserError, match="no published settings"):
                build_attack(name, preset="published")
            return
        attack = build_attack(f"{name}:published", eps=0.05)
        model = PixelLinear(num_classes=3)
        images, labels = batch(model, count=1, size=6)
        assert attack(model, images, labels).pixel_error > share_wrong(model, images, labels)


@pytest.mark.parametrize("name", GRADIENT)
def test_beats_noise_of_the_same_size(name):
    model = SmallNet()
    images, labels = batch(model, size=24)
    noise = make("UniformNoise")(model, images, labels)
    assert (make(name)(model, images, labels).pixel_error > noise.pixel_error + 0.1).all()


@pytest.mark.parametrize("norm", THREATS)
@pytest.mark.parametrize("name", TARGETING)
def test_targeted_pixels_reach_their_targets(name, norm):
    model = SmallNet()
    images, labels = batch(model, void=0.0)
    with torch.no_grad():
        targets = model.eval()(images).topk(2, dim=1).indices[:, 1]  # the runner-up
    targets[:, :3] = 255  # any class will do there
    attack = make(name, norm, targeted=True, steps=30)
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
