"""The best image that an 8-bit file can hold, against optima that are known exactly."""

from __future__ import annotations

import json
import math

import pytest
import torch

from segrobust.attacks.alma_cls import ALMACls
from segrobust.attacks.minimum_norm import MinNormAttack
from segrobust.attacks.primal_dual import PDPGD
from segrobust.attacks.registry import ATTACKS, build_attack
from segrobust.core.errors import UserError
from segrobust.core.threats import THREATS
from tests.attacks.toys import PixelLinear, SmallNet, batch, share_wrong


def on_grid(images):
    return torch.equal(images, (images * 255).round() / 255)


def scene(model, count=3, size=12):
    """8-bit images, away from the ends of the range, that the model gets right."""
    images, labels = batch(model, count=count, size=size)
    images = (64 + images * 127).round() / 255
    with torch.no_grad():
        return images, model(images).argmax(1).where(labels != 255, 255)


def best_level(model, images, labels, apsr):
    """Of two classes: the smallest radius, in levels, in which enough pixels have a grid point on the other side.

    Found by trying, pixel by pixel, all radii at which the farthest grid point of a channel changes.
    """
    weight, bias = (model.weight[0] - model.weight[1]).detach().double().view(3, 1), model.bias[0] - model.bias[1]
    levels = []
    for image, classes in zip(images, labels, strict=True):
        radii = []
        for colour, label in zip(image.double()[:, classes != 255].T, classes[classes != 255], strict=True):
            radii.append(smallest_flip(255 * colour.view(3, 1), weight * (1 - 2 * label), bias * (1 - 2 * label)))
        levels.append(sorted(radii)[math.ceil(apsr * len(radii)) - 1])
    return torch.tensor(levels)


def smallest_flip(colour, weight, bias):
    """For one pixel that is right where ``weight colour / 255 + bias`` is positive."""
    part = colour - colour.floor()
    radius = (torch.cat([part, 1 - part]) + torch.arange(64.0)).flatten().sort().values
    moved = torch.where(weight < 0, (colour + radius + 1e-6).floor(), (colour - radius - 1e-6).ceil())
    allowed = ((moved - colour).abs() <= radius + 1e-5).all(0)
    flips = (weight * moved / 255).sum(0) + bias < 0
    return radius[allowed & flips].min().item()


@pytest.mark.parametrize("apsr", [0.99, 0.8])
def test_linf_reaches_the_smallest_level_there_is(apsr):
    model = PixelLinear()
    images, labels = scene(model)
    result = PDPGD(apsr=apsr, steps=300, quantise=True)(model, images, labels)
    assert result.found.all() and on_grid(result.images)
    levels = result.distance * 255
    torch.testing.assert_close(levels, best_level(model, images, labels, apsr), atol=1e-3, rtol=0)


@pytest.mark.parametrize("steps", [3, 60])
def test_norms_below_one_level_are_repaired_where_rounding_loses_all(steps):
    model = PixelLinear()
    images, labels = scene(model)
    with torch.no_grad():  # to 0.05 .. 0.4 levels from the boundary: not on the grid
        logits = model(images)
        direction = (model.weight[0] - model.weight[1]).view(1, 3, 1, 1)
        gap = logits[:, :1] - logits[:, 1:]
        images = images - direction.sign() * gap / direction.abs().sum()
        aside = torch.rand(gap.shape, generator=torch.Generator().manual_seed(3)) * 0.35 + 0.05
        images = images + direction.sign() * gap.sign() * aside / 255
        labels = model(images).argmax(1).where(labels != 255, 255)
    loose = PDPGD(steps=steps, lr=1 / 255)(model, images, labels)
    tight = PDPGD(steps=steps, lr=1 / 255, quantise=True)(model, images, labels)
    assert tight.found.all() and on_grid(tight.images)
    best = best_level(model, images, labels, 0.99)
    assert (tight.distance * 255 <= best + 0.1).all() and (tight.distance * 255 >= best - 1e-3).all()
    assert not torch.equal(loose.images, tight.images)
    assert torch.equal(tight.distance, tight.distance_8bit)
    assert torch.equal(tight.distance, THREATS["Linf"].distance(tight.images - images))


@pytest.mark.parametrize("norm", ["L2", "L1"])
def test_l2_and_l1_stay_near_the_float_norm(norm):
    model = PixelLinear(num_classes=4)
    images, labels = scene(model)
    attack = ALMACls(norm=norm, steps=300)
    loose = attack(model, images, labels)
    tight = build_attack(attack, quantise=True)(model, images, labels)
    assert torch.isinf(loose.distance_8bit).any()  # what there is to repair
    assert tight.found.all() and on_grid(tight.images)
    assert (share_wrong(model, tight.images, labels) >= 0.99).all()
    assert (tight.distance <= 1.1 * loose.distance).all()
    assert torch.equal(tight.distance, tight.distance_8bit)


@pytest.mark.parametrize("norm", THREATS)
def test_no_8_bit_image_means_not_found(norm):
    class Constant(PixelLinear):
        def forward(self, images):
            return 1e-3 * super().forward(images) + torch.tensor([5.0, 0.0]).view(1, 2, 1, 1)

    model = Constant()
    images, labels = scene(model)
    result = PDPGD(norm=norm, steps=5, quantise=True, quantise_steps=4)(model, images, labels)
    assert not result.found.any() and torch.isinf(result.distance_8bit).all() and on_grid(result.images)


@pytest.mark.parametrize("norm", THREATS)
def test_neighbours_void_and_images_without_valid_pixels(norm):
    model = PixelLinear(num_classes=3)
    images, labels = batch(model, size=8)  # not on the grid
    labels[1] = 255
    attack = PDPGD(norm=norm, steps=20, quantise=True, quantise_steps=10)
    together = attack(model, images, labels)
    assert torch.equal(together.images[1], images[1]) and not together.found[1]
    assert on_grid(together.images[[0, 2]])
    for n in range(3):
        assert torch.equal(attack(model, images[n : n + 1], labels[n : n + 1]).images[0], together.images[n])
    void = attack(model, images, labels.where(labels != 255, -1), ignore_index=-1)
    assert torch.equal(void.images, together.images)


MINIMUM_NORM = [name for name, cls in ATTACKS.items() if cls.minimum_norm]


@pytest.mark.parametrize("norm", THREATS)
@pytest.mark.parametrize("name", MINIMUM_NORM)
def test_every_minimum_norm_attack_returns_8_bit_images_and_counts_them(name, norm):
    cls = ATTACKS[name]
    if norm not in cls.norms:
        return
    targeted = cls.targeted
    attack = build_attack(name, norm=norm, steps=6, targeted=targeted, quantise_steps=7)
    model = SmallNet()
    images, labels = batch(model, count=2, size=8)
    targets = (labels + 1).remainder(4).where(labels != 255, 255) if targeted else None
    plain = attack.passes()
    attack = build_attack(attack, quantise=True)
    result = attack(model, images, labels, targets=targets)
    assert on_grid(result.images)
    more = (9, 7 if norm == "Linf" else 4)
    assert attack.passes() == (plain[0] + more[0], plain[1] + more[1])
    assert (result.forwards <= attack.passes()[0]).all() and (result.backwards <= attack.passes()[1]).all()
    spec = json.loads(json.dumps(attack.fields()))
    assert build_attack(spec) == attack


def test_passes_are_exact():
    model = SmallNet()
    images, labels = batch(model, count=2, size=8)
    for norm in THREATS:
        attack = PDPGD(norm=norm, steps=5, quantise=True, quantise_steps=7)
        result = attack(model, images, labels)
        assert (result.forwards[1], result.backwards[1]) == attack.passes()


def test_wrong_values_are_named():
    assert issubclass(PDPGD, MinNormAttack)
    with pytest.raises(UserError, match="quantise_steps >= 1, got 0"):
        PDPGD(quantise_steps=0)
    with pytest.raises(UserError, match="quantise to be True or False, got 'yes'"):
        PDPGD(quantise="yes")
