"""Attacks on some pixels of an image: exact optima over these alone, and what the others are to keep."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from segrobust.attacks import build_attack
from segrobust.attacks.base import Problem
from segrobust.attacks.gradient import Engine
from segrobust.attacks.margins import Margins
from segrobust.attacks.penalty import ProxLagrangian
from segrobust.attacks.primal_dual import DualWeights
from segrobust.attacks.segmentation import Goal, Segmentation
from segrobust.attacks.weights import ce
from segrobust.core.draws import Draws
from segrobust.core.errors import UserError
from tests.attacks.test_alma_prox import inner_batch
from tests.attacks.test_table import TARGETING, TIMID, make
from tests.attacks.toys import PixelLinear, SmallNet, batch

V = 255


def few_pixels(labels, count):
    """Targets 1 at the first pixels of class 0 and nowhere else; the last image has none."""
    targets = torch.full_like(labels, V)
    for n in range(len(labels) - 1):
        targets[n].view(-1)[(labels[n].flatten() == 0).nonzero().flatten()[:count]] = 1
    return targets


@pytest.mark.parametrize("rest", ["free", "kept"])
@pytest.mark.parametrize(("name", "norm", "slack"), [("ALMAProx", "Linf", 1.05), ("ALMAProx", "L2", 1.05),
                                                      ("PGDBisection", "Linf", 1.05), ("FMN", "L2", 1.1)])  # fmt: skip
def test_the_exact_optimum_over_the_selected_pixels(name, norm, slack, rest):
    """Pixels are apart from each other, so the others decide nothing here and need not move."""
    model = PixelLinear(2, scale=1.0)
    images, labels = inner_batch(model)
    targets = few_pixels(labels, 5)
    kept = labels.masked_fill(targets != V, V) if rest == "kept" else None
    result = build_attack(name, norm=norm, steps=300, targeted=True)(model, images, labels, targets=targets, kept=kept)
    apart = (model.weight[0] - model.weight[1]).flatten().detach()
    with torch.no_grad():
        logits = model(images)
    away = (logits[:, 0] - logits[:, 1]) / (apart.abs().sum() if norm == "Linf" else apart.norm())
    for n in range(3):
        each = away[n][targets[n] == 1]
        exact = each.max() if norm == "Linf" else each.square().sum().sqrt()
        assert exact * (1 - 1e-4) <= result.distance[n] <= slack * exact
    assert result.found.tolist() == [True] * 3 + [False]
    assert result.pixel_error.tolist() == [1, 1, 1, 0] and torch.equal(result.images[3], images[3])
    if kept is not None:
        with torch.no_grad():
            assert (model(result.images).argmax(1) == labels)[kept != V].all()


def test_without_the_selection_a_small_class_is_found_at_distance_0():
    model = PixelLinear(2, scale=1.0)
    images, labels = inner_batch(model, count=2)
    labels = torch.ones_like(labels)
    few = torch.zeros_like(labels, dtype=torch.bool)
    with torch.no_grad():
        at_0 = model(images).argmax(1) == 0
    few.view(2, -1)[0, at_0[0].flatten().nonzero().flatten()[:3]] = True
    labels[at_0 & ~few] = V
    attack = build_attack("ALMAProx", steps=60, targeted=True)
    everywhere = attack(model, images, labels, targets=torch.ones_like(labels))
    assert everywhere.found.tolist() == [True, True] and everywhere.distance.tolist() == [0, 0]
    selected = attack(model, images, labels, targets=torch.ones_like(labels).masked_fill(~few, V))
    assert selected.found.tolist() == [True, False] and selected.distance[0] > 1e-3 and selected.distance[1] == 0


def test_the_gradient_is_that_of_both_and_success_counts_the_targets_alone():
    model = SmallNet().eval()
    images, labels = batch(model)
    generator = torch.Generator().manual_seed(3)
    targets = torch.randint(4, labels.shape, generator=generator)
    targets = targets.masked_fill(torch.rand(labels.shape, generator=generator) < 0.7, V)
    kept = torch.randint(4, labels.shape, generator=generator)
    goal = Segmentation(4).goal(images, labels, targets, True, kept=kept)
    measured = Engine(model, goal).gradient(images, ce, 0.0)
    points = images.clone().requires_grad_()
    logits = model(points)
    of_all = torch.where(targets != V, targets, kept).masked_fill(labels == V, V)
    selected = (targets != V) & (labels != V)
    rest = ~selected & (labels != V)
    alike = selected.flatten(1).sum(1) / rest.flatten(1).sum(1)  # both parts together weigh the same
    weights = torch.where(rest, alike.view(-1, 1, 1), selected.float())
    loss = (weights * cross_entropy(logits, of_all, ignore_index=V, reduction="none")).flatten(1).sum(1)
    (exact,) = torch.autograd.grad(-loss.sum(), points)
    torch.testing.assert_close(measured.gradient, exact, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(measured.ce, (loss / weights.flatten(1).sum(1)).detach())
    hit = ((logits.argmax(1) == targets) & selected).flatten(1).sum(1) / selected.flatten(1).sum(1)
    assert torch.equal(measured.error, hit) and torch.equal(goal.subset(torch.tensor([2])).judged, selected[2:])


@pytest.mark.parametrize("step", [0, 50, 100])
def test_pixels_that_may_miss_are_the_hardest_of_the_judged_ones(step):
    """Of 20 judged pixels four may miss, those above the fourth hardest; the rest stays bound, however hard."""
    rest = torch.arange(40).view(1, 1, 40) >= 20
    goal = Goal(torch.zeros(1, 1, 40, dtype=torch.long), torch.ones_like(rest), True, rest=rest)
    lagrangian = ProxLagrangian(goal, 101, reference=False, capped=False, least_required=0.8)
    margin = torch.arange(40).view(1, 1, 40) / 10 + 0.1
    slopes = lagrangian.derivative(
        Margins(margin, margin < 0, torch.ones_like(margin)), torch.zeros(1) > 0, torch.tensor([0.8]), step
    )
    assert (slopes.flatten() == 0).nonzero().flatten().tolist() == [[], [19], [17, 18, 19]][step // 50]


def test_dual_weights_begin_equal_for_norm_and_pixels_and_for_judged_ones_and_the_rest():
    rest = torch.arange(40).view(1, 1, 40) >= 4
    goal = Goal(torch.zeros(1, 1, 40, dtype=torch.long), torch.ones_like(rest), True, rest=rest)
    clean = torch.zeros(1, 3, 1, 40)
    duals = DualWeights(Problem(Engine(PixelLinear(), goal), clean, Draws.of((0,), clean.device)), 1e-6)
    assert duals.norm.item() == pytest.approx(0.5) and duals.total.item() == pytest.approx(0.5)
    assert duals.pixels[~rest].sum().item() == pytest.approx(0.25)


@pytest.mark.parametrize("name", TARGETING)
def test_every_attack_counts_the_selected_pixels_and_leaves_other_images_alone(name):
    model = SmallNet().eval()
    images, labels = batch(model)
    with torch.no_grad():
        clean = model(images).argmax(1)
    targets = torch.full_like(labels, V)
    targets[:, 3:6, 3:6] = 2
    targets[1] = V
    kept = clean.masked_fill(targets != V, V)
    result = make(name, targeted=True)(model, images, labels, targets=targets, kept=kept)
    with torch.no_grad():
        prediction = model(result.images).argmax(1)
    selected = (targets != V) & (labels != V)
    share = ((prediction == targets) & selected).flatten(1).sum(1) / selected.flatten(1).sum(1).clamp_min(1)
    torch.testing.assert_close(result.pixel_error, share)
    assert torch.equal(result.images[1], images[1]) and not result.found[1] and result.distance[1] == 0
    before = ((clean == targets) & selected)[0].sum() / selected[0].sum()
    assert share[0] > before or name in TIMID


def test_the_share_of_the_pixels_not_yet_at_their_target_leaves_the_rest_out():
    model = SmallNet().eval()
    images, labels = batch(model)
    targets = torch.full_like(labels, V)
    targets[:, 3:6, 3:6] = 2
    kept = torch.ones_like(labels)  # not what is predicted
    result = make("PGDBisection", targeted=True)(model, images, labels, targets=targets, kept=kept)
    with torch.no_grad():
        clean, prediction = model(images).argmax(1), model(result.images).argmax(1)
    missing = (targets != V) & (labels != V) & (clean != 2)
    share = ((prediction == 2) & missing).flatten(1).sum(1) / missing.flatten(1).sum(1)
    torch.testing.assert_close(result.error_of_correct, share)


def test_kept_pixels_need_targets():
    model = PixelLinear()
    images, labels = batch(model)
    with pytest.raises(UserError, match="kept: expected targets beside it"):
        build_attack("FGSM")(model, images, labels, kept=labels)
    with pytest.raises(UserError, match=r"labels: expected classes 0\.\.1 or void, got 7"):
        kept = torch.full_like(labels, 7)
        targets = torch.full_like(labels, V)
        build_attack("FGSM", targeted=True)(model, images, labels, targets=targets, kept=kept)
