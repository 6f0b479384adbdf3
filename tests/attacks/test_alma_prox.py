"""ALMAProx: exact optima on linear models, the penalty's derivative, the cap, the relative goal, the reference."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch

from segrobust.attacks import build_attack
from segrobust.attacks.alma_prox import ALMAProx
from segrobust.attacks.gradient import Engine
from segrobust.attacks.margins import margin_gradient
from segrobust.attacks.penalty import penalty_derivative
from segrobust.attacks.segmentation import Goal
from segrobust.core.errors import UserError
from tests.attacks.toys import PixelLinear, SmallNet, batch, share_wrong


def inner_batch(model, count=4, size=24):
    """Images far from the sides of the box, labelled by the model."""
    generator = torch.Generator().manual_seed(0)
    images = 0.4 + 0.2 * torch.rand(count, 3, size, size, generator=generator)
    with torch.no_grad():
        return images, model(images).argmax(1)


def optimum(model, images, labels, apsr, norm):
    """Pixels are apart from each other: each has its own distance to the nearest boundary, and the cheapest count."""
    weight = model.weight.detach()[:, :, 0, 0]
    with torch.no_grad():
        logits = model(images)
    own = logits.gather(1, labels.unsqueeze(1)).squeeze(1)
    distances = []
    for rival in range(model.num_classes):
        apart = weight[labels] - weight[rival]
        length = apart.abs().sum(-1) if norm == "Linf" else apart.norm(dim=-1)
        distance = (own - logits[:, rival]) / length.clamp_min(1e-9)
        distances.append(distance.masked_fill(labels == rival, math.inf))
    nearest = torch.stack(distances).amin(0).flatten(1).sort(1).values
    needed = math.ceil(apsr * nearest.shape[1] - 1e-6)
    return nearest[:, needed - 1] if norm == "Linf" else nearest[:, :needed].square().sum(1).sqrt()


@pytest.mark.parametrize(
    ("classes", "scale", "norm", "fields"),
    [
        (2, 1.0, "Linf", {}),
        (3, 4.0, "Linf", {}),
        (2, 1.0, "Linf", {"warm_share": 0.0, "repair_share": 0.0}),
        (3, 4.0, "Linf", {"warm_share": 0.0, "repair_share": 0.0}),
        (2, 1.0, "L2", {}),
    ],
)
def test_near_the_exact_optimum_of_a_linear_model(classes, scale, norm, fields):
    model = PixelLinear(classes, scale=scale)
    images, labels = inner_batch(model)
    exact = optimum(model, images, labels, 0.99, norm)
    result = ALMAProx(norm=norm, steps=400, **fields)(model, images, labels)
    ratio = result.distance / exact
    assert result.found.all() and (ratio > 1 - 1e-4).all()
    assert ratio.median() <= 1.05 and ratio.max() <= 1.10


def test_the_reference_is_worse_on_the_same_problem():
    model = PixelLinear(3, scale=4.0)
    images, labels = inner_batch(model)
    ours, published = (
        build_attack(spec, steps=400)(model, images, labels) for spec in ("ALMAProx", "ALMAProx:published")
    )
    distance = published.distance.masked_fill(~published.found, math.inf)
    assert (ours.distance < 0.9 * distance).all()


def test_penalty_derivative_is_that_of_the_penalty():
    def penalty(constraint, rho, mu):
        above = mu * constraint + mu * rho * constraint**2 + rho**2 * constraint**3 / 6
        return torch.where(constraint >= 0, above, mu * constraint / (1 - rho * constraint.clamp_max(0)))

    generator = torch.Generator().manual_seed(0)
    constraint = torch.randn(200, generator=generator, dtype=torch.float64).requires_grad_()
    rho = 1 + 3 * torch.rand(200, generator=generator, dtype=torch.float64)
    mu = torch.rand(200, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda c: penalty(c, rho, mu), constraint)
    (exact,) = torch.autograd.grad(penalty(constraint, rho, mu).sum(), constraint)
    factor, offset = penalty_derivative(constraint.detach(), rho)
    torch.testing.assert_close(factor * mu + offset, exact, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("classes", [2, 3, 4, 7])
def test_margins_and_their_gradient_equal_autograd(classes, targeted):
    model = SmallNet(classes).eval()
    images, labels = batch(model)
    valid = labels != 255
    goal = Goal(labels.masked_fill(~valid, 0), valid, targeted)
    slope = torch.rand(labels.shape, generator=torch.Generator().manual_seed(0))
    gradient, margins = margin_gradient(Engine(model, goal), images, lambda _: slope, normaliser=True)
    points = images.clone().requires_grad_()
    logits = model(points)
    own = logits.gather(1, goal.labels.unsqueeze(1)).squeeze(1)
    rival = logits.scatter(1, goal.labels.unsqueeze(1), -1e9).amax(1)
    margin = rival - own if targeted else own - rival
    (exact,) = torch.autograd.grad((slope * margin * valid).sum(), points)
    torch.testing.assert_close(gradient, exact)
    torch.testing.assert_close(margins.margin, margin.detach())
    top = logits.detach().topk(min(classes, 4), dim=1).values
    if classes >= (4 if targeted else 3):
        normaliser = top[:, 0] - (top[:, 2:].mean(1) if targeted else top[:, 2])
        torch.testing.assert_close(margins.normaliser, normaliser)
    else:
        assert (margins.normaliser == 1).all()


def test_the_cap_holds_and_the_passes_are_fixed():
    model = SmallNet()
    images, labels = batch(model, count=4, size=20)
    attack = ALMAProx(steps=5, eps_max="8/255", step_size="4/255", target_apsr=0.5)
    result = attack(model, images, labels)
    assert (result.distance <= 8 / 255 + 1e-6).all() and (result.distance > 0).all()
    assert result.backwards.tolist() == [5] * 4 and result.forwards.tolist() == [7] * 4
    assert attack.passes() == (7, 5) and result.distance_8bit is None
    assert (result.pixel_error > share_wrong(model, images, labels) + 0.1).all()


def test_a_relative_goal_counts_only_pixels_that_were_right():
    model = SmallNet()
    images, labels = batch(model, count=4, size=20, wrong=0.4)
    attack = ALMAProx(steps=60, target_apsr=0.5)
    result = attack(model, images, labels)
    clean = share_wrong(model, images, labels)
    assert (clean > 0.3).all() and result.found.all()
    assert (result.pixel_error >= clean + 0.5 * (1 - clean) - 1e-6).all()
    harder = replace(attack, target_apsr=0.9)(model, images, labels)
    assert (harder.distance > result.distance).all()


def test_images_with_different_numbers_of_valid_pixels_and_one_with_none():
    model = PixelLinear(3)
    images, labels = batch(model, count=4, size=16)
    labels[1, 2:] = 255
    labels[2, :, 1:] = 255
    labels[3] = 255
    attack = ALMAProx(steps=120)
    together = attack(model, images, labels)
    for n in range(4):
        alone = attack(model, images[n : n + 1], labels[n : n + 1])
        assert torch.equal(alone.images[0], together.images[n])
    assert together.found.tolist() == [True, True, True, False]
    assert torch.equal(together.images[3], images[3]) and together.distance_8bit[3] == math.inf


def test_worst_images_per_budget():
    model = SmallNet()
    images, labels = batch(model, size=20)
    budgets = (0.01, 0.03, 0.1)
    result = ALMAProx(steps=60)(model, images, labels, budgets=budgets)
    errors = [share_wrong(model, images, labels)]
    for budget, candidate in zip(budgets, result.candidates, strict=True):
        assert candidate.eps == budget and ((candidate.images - images).abs().amax() <= budget + 1e-6)
        errors.append(share_wrong(model, candidate.images, labels))
    assert all((later >= earlier).all() for earlier, later in itertools.pairwise(errors))
    assert (errors[-1] > errors[0] + 0.2).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"eps_max": "8"}, 'did you mean "8/255"'),
        ({"target_apsr": 1.5}, "0 < target_apsr <= 1"),
        ({"warm_share": 0.7, "repair_share": 0.7}, "sum of at most 1"),
        ({"step_decay": 0}, "0 < step_decay <= 1"),
        ({"apsr": 0}, "0 < apsr <= 1"),
        ({"steps": 0}, "whole number steps"),
    ],
)
def test_bad_fields_are_told_in_one_line(fields, message):
    with pytest.raises(UserError) as caught:
        build_attack("ALMAProx", **fields)
    assert message in str(caught.value) and "\n" not in str(caught.value)
