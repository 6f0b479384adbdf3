"""Square: known optima of a linear rule per pixel, and what gradients cannot see."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from segrobust.attacks import build_attack
from segrobust.attacks.square import Grid, Placed
from segrobust.core.draws import Draws
from segrobust.core.errors import UserError
from tests.attacks.toys import PixelLinear, SmallNet, batch, share_wrong

EPS = 0.08


def optimum(model, images, labels):
    """Share of pixels that some change within EPS makes wrong, for two classes: a linear margin of each pixel."""
    with torch.no_grad():
        sign = 1 - 2 * labels.clamp_max(1).unsqueeze(1)
        points = (images + EPS * sign * (model.weight[1] - model.weight[0]).sign()).clamp(0, 1)
    return share_wrong(model, points, labels)


@pytest.mark.parametrize(("spacing", "steps", "share"), [(2.0, 300, 0.9), (None, 600, 0.3)])
def test_comes_near_the_exact_optimum_of_a_linear_model_within_the_ball(spacing, steps, share):
    model = PixelLinear()
    images, labels = batch(model, size=16)
    clean, best = share_wrong(model, images, labels), optimum(model, images, labels)
    assert (best > clean + 0.2).all()
    result = build_attack("Square", eps=EPS, steps=steps, spacing=spacing, smallest_cell=2)(model, images, labels)
    gained = (share_wrong(model, result.images, labels) - clean) / (best - clean)
    assert (gained >= share).all() and (gained <= 1).all()
    assert (result.distance <= EPS + 1e-6).all()
    assert (result.forwards == steps).all() and (result.backwards == 0).all()


def test_more_queries_find_more_and_cells_more_than_one_square():
    model = SmallNet()
    images, labels = batch(model, size=24)
    found = [build_attack("Square", eps=EPS, steps=steps)(model, images, labels).pixel_error for steps in (5, 30, 200)]
    for fewer, more in itertools.pairwise(found):
        assert (more >= fewer).all()
    single = build_attack("Square", eps=EPS, steps=200, spacing=None)(model, images, labels).pixel_error
    assert (found[-1] > found[0] + 0.05).all() and (found[-1] > single + 0.02).all()


class Stairs(nn.Module):
    """A linear rule behind inputs that are rounded to coarse levels: no gradient but zero."""

    def __init__(self) -> None:
        super().__init__()
        self.rule = PixelLinear()

    def forward(self, images):
        return self.rule((images * 20).round() / 20)


def test_breaks_a_model_whose_gradient_is_masked():
    model = Stairs()
    images, labels = batch(model.rule, size=16)
    labels = torch.where(labels == 255, labels, model(images).argmax(1))
    blind = build_attack("CEPGD", eps=EPS, steps=50, random_start=False)(model, images, labels)
    assert (blind.pixel_error == 0).all()
    attack = build_attack("Square", eps=EPS, steps=200, smallest_cell=2)
    assert (attack(model, images, labels).pixel_error > 0.25).all()


@pytest.mark.parametrize("scale", [1e-6, 1e3])
def test_scale_of_the_logits_does_not_matter(scale):
    class Scaled(PixelLinear):
        def forward(self, images):
            return super().forward(images) * scale

    images, labels = batch(PixelLinear())
    attack = build_attack("Square", eps=EPS, steps=100)
    expected, found = (attack(model, images, labels).pixel_error for model in (PixelLinear(), Scaled()))
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0)


def test_an_image_that_is_broken_leaves_the_batch():
    model = PixelLinear()
    images, labels = batch(model)
    labels[1], labels[2], images[2] = 255, 1, 0.5  # nothing to do; at the rule's boundary
    attack = build_attack("Square", eps=0.2, steps=200, smallest_cell=2)
    result = attack(model, images, labels, seeds=[0, 1, 2])
    assert result.pixel_error[2] == 1 and result.forwards[2] < 200
    assert result.forwards[1] == 0 and result.pixel_error[0] < 1 and result.forwards[0] == 200
    alone = attack(model, images[2:], labels[2:], seeds=[2])
    assert torch.equal(result.images[2], alone.images[0]) and result.forwards[2] == alone.forwards[0]


def test_cells_cover_the_image_and_every_square_lies_in_its_own():
    images = torch.zeros(2, 3, 13, 17)
    draws = Draws.of((1, 2))
    placed = Placed(Grid(side=3, cell=(5, 5), count=(4, 4), moves=True), draws, images)
    assert torch.equal(placed.per_cell(torch.ones(2, 13, 17)).sum(1), torch.full((2,), 13.0 * 17))
    for n in range(2):
        for cell in range(16):
            square = placed.at_pixels(torch.eye(16)[cell].expand(2, -1))[n].bool() & placed.inside[n]
            assert square.sum() <= 9
            for channel in placed.sign[n][:, square]:
                assert len(channel.unique()) <= 1
    assert placed.inside.sum() > 2 * 9 * 4  # whole squares in the cells that lie inside
    whole = Placed(Grid(side=4, cell=(13, 17), count=(1, 1), moves=False), draws, images)
    assert torch.equal(whole.inside.flatten(1).sum(1), torch.tensor([16, 16]))


def test_wrong_settings_are_refused():
    for wrong in ({"first_share": 0}, {"first_share": 1.5}, {"spacing": 0.5}, {"steps": 0}):
        with pytest.raises(UserError, match="Square: expected"):
            build_attack("Square", **wrong)
    with pytest.raises(UserError, match="no L2 form; set norm to Linf"):
        build_attack("Square", norm="L2")
