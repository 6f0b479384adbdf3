"""A printable patch: where it lies, what it changes, what counts, and the best one of a linear model."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from segrobust.attacks.patch import UniversalPatch
from segrobust.core.errors import UserError
from tests.attacks.toys import SmallNet, batch


class Wide(nn.Module):
    """Class 1 minus class 0 is the mean over 5x5 pixels of a linear rule, less an offset."""

    def __init__(self, rule=(1.0, -2.0, 0.5)):
        super().__init__()
        self.rule = torch.tensor(rule).view(1, 3, 1, 1).expand(1, 3, 5, 5) / 25

    def forward(self, images):
        return torch.cat([torch.zeros_like(images[:, :1]), nn.functional.conv2d(images, self.rule, padding=2) - 1], 1)


@pytest.mark.parametrize("place", ["centre", "random", (3, 1)])
def test_the_best_patch_of_a_linear_model(place):
    images = torch.rand(3, 3, 16, 17, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(3, 16, 17, dtype=torch.long)
    fitted = UniversalPatch(patch=(7, 6), place=place, epochs=3).fit(Wide(), [(images, labels)])
    best = torch.tensor([1.0, 0.0, 1.0]).view(3, 1, 1).expand(3, 7, 6).clone()
    best[:, 2:-2, 2:-2] = 128 / 255  # no pixel that counts sees the middle: it stays grey
    torch.testing.assert_close(fitted, best, atol=1e-6, rtol=0)


def test_only_pixels_under_it_change_and_they_are_covered():
    images = torch.rand(4, 3, 20, 30)
    patch = torch.full((3, 5, 8), 2.0)
    places = {"centre": (7, 11), (0, 22): (0, 22), (15, 0): (15, 0)}
    for place, (y, x) in places.items():
        attacked, covered = UniversalPatch(patch=(5, 8), place=place).apply(patch, images, [0] * 4)
        wanted = torch.zeros(20, 30, dtype=torch.bool)
        wanted[y : y + 5, x : x + 8] = True
        assert torch.equal(covered, wanted.expand(4, 20, 30))
        assert torch.equal(attacked == 2, wanted.expand(4, 3, 20, 30))
        assert torch.equal(attacked.movedim(1, -1)[~covered], images.movedim(1, -1)[~covered])


def test_random_places_lie_inside_and_everywhere_and_follow_the_image_seed():
    attack = UniversalPatch(patch=(3, 4), place="random")
    images, patch = torch.zeros(300, 3, 6, 8), torch.rand(3, 3, 4)
    attacked, covered = attack.apply(patch, images, range(300))
    assert (covered.flatten(1).sum(1) == 12).all()
    rows, columns = covered.any(2).float().argmax(1), covered.any(1).float().argmax(1)
    assert set(zip(rows.tolist(), columns.tolist(), strict=True)) == {(y, x) for y in range(4) for x in range(5)}
    alone, _ = attack.apply(patch, images[:1], [217])
    assert torch.equal(alone[0], attacked[217])
    for image, y, x in zip(attacked, rows, columns, strict=True):
        assert torch.equal(image[:, y : y + 3, x : x + 4], patch)


def test_what_lies_under_it_has_no_influence_on_the_fit():
    model = SmallNet()
    images, labels = batch(model)
    attack = UniversalPatch(patch=(4, 4), place=(2, 3), epochs=3)
    fitted = attack.fit(model, [(images, labels)])
    hidden, other = images.clone(), labels.clone()
    hidden[:, :, 2:6, 3:7] = 0.25
    other[:, 2:6, 3:7] = (labels[:, 2:6, 3:7] + 1) % 4
    assert torch.equal(fitted, attack.fit(model, [(hidden, other)]))
    other[:, 2, 7] = (labels[:, 2, 7] + 1) % 4
    assert not torch.equal(fitted, attack.fit(model, [(images, other)]))


def test_it_is_printable_and_of_the_seed():
    model = SmallNet()
    batches = [batch(model, size=size) for size in (12, 9)]  # images of several sizes
    attack = UniversalPatch(patch=(5, 4), place="random", epochs=3)
    first, again, other = (attack.fit(model, batches, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert first.shape == (3, 5, 4) and first.min() >= 0 and first.max() <= 1
    torch.testing.assert_close(first * 255, (first * 255).round(), atol=1e-4, rtol=0)
    control = attack.control(batches[0][0])
    assert set(control.unique().tolist()) == {0.0, 1.0} and control.shape == first.shape


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"patch": (4, 13)}, "inside the images of 12x12, got one of 4x13 at centre; make it smaller"),
        ({"patch": (4, 4), "place": (9, 0)}, r"got one of 4x4 at \(y, x\) = \(9, 0\)"),
        ({"patch": (0, 4)}, "patch to be two whole numbers >= 1"),
        ({"patch": 4}, "patch to be two whole numbers >= 1, got 4"),
        ({"place": (-1, 4)}, "place to be two whole numbers >= 0"),
        ({"place": "center"}, "centre"),
    ],
)
def test_patches_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        UniversalPatch(**fields).fit(None, [batch(SmallNet())])
