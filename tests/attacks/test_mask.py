"""A mask says where the attacker may write; every pixel still counts."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch

from segrobust.attacks import ATTACKS, build_attack
from segrobust.core.errors import UserError
from segrobust.core.threats import THREATS
from tests.attacks.test_table import BOUNDED, MINIMUM, RADII, call, in_every_norm, make, share_reached
from tests.attacks.toys import PixelLinear, SmallNet, batch


def half(images):
    """The left half of every image."""
    mask = torch.zeros(len(images), *images.shape[2:], dtype=torch.bool)
    mask[..., : images.shape[3] // 2] = True
    return mask


@in_every_norm([*BOUNDED, *MINIMUM])
def test_nothing_changes_outside_the_mask_and_the_books_are_right(name, norm):
    model = SmallNet()
    images, labels = batch(model)
    attack = make(name, norm)
    result = call(attack, model, images, labels, mask=half(images))
    outside = ~half(images).unsqueeze(1).expand_as(images)
    assert torch.equal(result.images[outside], images[outside])
    assert (THREATS[norm].distance(result.images - images) > 0).all()
    torch.testing.assert_close(result.pixel_error, share_reached(attack, model, result.images, labels, images))


@pytest.mark.parametrize("name", [name for name, cls in ATTACKS.items() if cls.published is not None])
def test_published_presets_leave_what_is_outside_as_it_is(name):
    """Images off the 8-bit grid: rounding would change them everywhere."""
    model = SmallNet()
    images, labels = batch(model)
    cls = ATTACKS[name]
    few = {"steps": 12} if "steps" in {field.name for field in fields(cls)} else {}
    attack = build_attack(f"{name}:published", **few)
    result = call(attack, model, images, labels, mask=half(images))
    outside = ~half(images).unsqueeze(1).expand_as(images)
    assert torch.equal(result.images[outside], images[outside])


@pytest.mark.parametrize("name", ["CEPGD", "FMN"])
def test_the_radius_and_the_8_bit_grid_hold_inside_the_mask(name):
    """The mask comes before the norm: an L2 step is as long inside the mask as it would be without one."""
    model = PixelLinear()
    images, labels = batch(model, wrong=0, void=0)
    if name == "CEPGD":
        result = build_attack(name, norm="L2", eps=0.5, steps=20)(model, images, labels, mask=half(images))
        torch.testing.assert_close(result.distance, torch.full((3,), 0.5), atol=1e-3, rtol=0)
    else:
        whole = build_attack(name, apsr=0.3, steps=60, quantise=True)
        result = whole(model, images, labels, mask=half(images))
        inside = (result.images * 255)[half(images).unsqueeze(1).expand_as(images)]
        torch.testing.assert_close(inside, inside.round(), atol=1e-4, rtol=0)


def test_pixels_outside_count_all_the_same():
    """A model that sees each pixel alone: what cannot be changed stays right."""
    model = PixelLinear()
    images, labels = batch(model, wrong=0, void=0)
    result = build_attack("CEPGD", eps=1.0, steps=20)(model, images, labels, mask=half(images))
    torch.testing.assert_close(result.pixel_error, torch.full((3,), 0.5))


def test_an_empty_mask_leaves_the_image_and_a_full_one_is_no_mask():
    model = SmallNet()
    images, labels = batch(model)
    attack = build_attack("CosPGD", eps=RADII["Linf"], steps=10)
    some = half(images)
    some[0] = False
    assert torch.equal(attack(model, images, labels, mask=some).images[0], images[0])
    everywhere = attack(model, images, labels, mask=torch.ones(images.shape[2:]))
    assert torch.equal(everywhere.images, attack(model, images, labels).images)


def test_an_images_mask_is_its_own_in_ensembles_that_drop_images():
    """Standard goes on without the first image, which is wrong from the start; the others keep their masks."""
    model = SmallNet()
    images, labels = batch(model)
    labels[0] = torch.where(labels[0] == 255, 255, (labels[0] + 1) % model.num_classes)
    masks = torch.stack([half(images)[0], ~half(images)[0], torch.ones_like(half(images)[0])])
    attack = build_attack("Standard", eps=RADII["Linf"], steps=20)
    together = attack(model, images, labels, mask=masks, seeds=[4, 5, 6])
    assert together.backwards[0] < together.backwards[1:].min()
    for n in range(3):
        alone = attack(model, images[n : n + 1], labels[n : n + 1], mask=masks[n], seeds=[4 + n])
        torch.testing.assert_close(together.images[n], alone.images[0])


@pytest.mark.parametrize(
    "mask", [torch.ones(5, 5), torch.full((12, 12), 2), torch.full((12, 12), 0.5), torch.ones(3, 3, 12, 12)]
)
def test_what_is_no_mask_is_refused(mask):
    model = SmallNet()
    images, labels = batch(model)
    with pytest.raises(UserError, match="mask: expected 0 or 1"):
        build_attack("CEPGD")(model, images, labels, mask=mask)


@pytest.mark.parametrize("value", [-3e-8, 1.0000001])
def test_rounding_outside_the_box_is_clipped(value):
    model = SmallNet()
    images, labels = batch(model)
    images[0, 0, 0, 0] = value
    attack = build_attack("CEPGD", steps=3)
    clipped = attack(model, images.clamp(0, 1), labels)
    assert torch.equal(attack(model, images, labels).images, clipped.images)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        *((value, r"clamp them to \[0, 1\]") for value in (-1e-4, 1.001, 1.04)),
        *((value, "divide 8-bit") for value in (1.1, 255.0)),
        (-0.1, "leave normalisation"),
        (float("nan"), "got NaN; look at how"),
        (float("inf"), "to inf; look at how"),
    ],
)
def test_other_values_are_refused_by_their_kind(value, told):
    model = SmallNet()
    images, labels = batch(model)
    images[0, 0, 0, 0] = value
    with pytest.raises(UserError, match=told):
        build_attack("CEPGD", steps=3)(model, images, labels)


def test_normalised_images_of_little_contrast_are_not_to_be_clamped():
    model = SmallNet()
    images, labels = batch(model)
    with pytest.raises(UserError, match="leave normalisation"):
        build_attack("CEPGD", steps=3)(model, (images - 0.5) / 100, labels)


def test_a_mask_among_the_settings_is_sent_to_the_call():
    with pytest.raises(UserError, match=r"mask: .* give it in the call: attack\(model, images, labels, mask=mask\)"):
        build_attack("CEPGD", mask=torch.ones(4, 4))
