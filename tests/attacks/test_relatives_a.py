"""DAG, FMN, DDN and the bisections against optima that are known exactly, and what each of them promises alone."""

from __future__ import annotations

import pytest
import torch

from segrobust.attacks import build_attack
from segrobust.core.errors import UserError
from tests.attacks.toys import PixelLinear, SmallNet, batch

APSR = 0.9
DUAL_ORDER = {"Linf": 1, "L2": 2}


def linear_problem(count=3, size=16, classes=4):
    """A pixel model and images so close to its boundaries that the box has no say."""
    model = PixelLinear(num_classes=classes)
    generator = torch.Generator().manual_seed(3)
    images = 0.5 + 0.06 * (torch.rand(count, 3, size, size, generator=generator) - 0.5)
    with torch.no_grad():
        labels = model(images).argmax(1)
    return model, images, labels


def pixel_distances(model, images, labels, norm):
    """Distance of every pixel from its nearest boundary: the least over k of gap / dual norm of w_y - w_k."""
    weight = model.weight.detach().flatten(1)
    with torch.no_grad():
        logits = model(images)
    gap = logits.gather(1, labels.unsqueeze(1)) - logits
    size = (weight.unsqueeze(1) - weight.unsqueeze(0)).norm(p=DUAL_ORDER[norm], dim=2)[labels].movedim(3, 1)
    return torch.where(size > 0, gap / size, torch.inf).amin(1)


def optimum(model, images, labels, norm):
    """Exact: the cheapest ceil(apsr * M) pixels, in Linf all at the price of the dearest, in L2 by root of squares."""
    cheapest = pixel_distances(model, images, labels, norm).flatten(1).sort(1).values
    needed = -int(-APSR * cheapest.shape[1] // 1)
    kept = cheapest[:, :needed]
    return kept[:, -1] if norm == "Linf" else kept.norm(dim=1)


def test_the_optimum_is_one():
    """Moving every pixel that far, and a little less far, along its own normal."""
    model, images, labels = linear_problem()
    weight = model.weight.detach().flatten(1)
    for norm in DUAL_ORDER:
        reach = pixel_distances(model, images, labels, norm)
        with torch.no_grad():
            logits = model(images)
        wrong = []
        for factor in (0.99, 1.01):
            flipped = torch.zeros_like(labels, dtype=torch.bool)
            for k in range(model.num_classes):
                direction = weight[k] - weight[labels]  # [N, H, W, 3]
                step = direction.sign() if norm == "Linf" else direction / direction.norm(dim=3, keepdim=True)
                step = step.nan_to_num(0).movedim(3, 1)
                with torch.no_grad():
                    moved = model(images + factor * reach.unsqueeze(1) * step)
                flipped |= (moved.argmax(1) != labels) & (labels != k)
            wrong.append(flipped.float().mean())
        assert logits.isfinite().all() and wrong[0] == 0 and wrong[1] == 1


@pytest.mark.parametrize(
    ("name", "fields", "ratio"),
    [
        # of one step for all pixels alike, no more can be asked in L2: the optimum gives every pixel its own
        ("FMN", {"norm": "Linf", "steps": 20}, 1.05),
        ("FMN", {"norm": "L2", "steps": 200}, 1.5),
        ("DDN", {"steps": 200}, 2.0),
        ("PGDBisection", {"steps": 200, "loss": "hinge"}, 1.05),
        ("PGDBisection", {"steps": 200, "loss": "dlr"}, 1.05),
        ("PGDBisection", {"steps": 200}, 1.35),  # cross-entropy bends towards all rivals at once
        ("PGDBisection", {"steps": 200, "loss": "hinge", "norm": "L2"}, 1.5),
        ("MIFGSMBisection", {"steps": 200, "loss": "hinge"}, 1.05),
        ("DAG", {"gamma": 0.001}, 1.7),
        ("DAG", {"gamma": 0.005, "norm": "L2"}, 1.5),
    ],
)
def test_comes_close_to_the_exact_optimum(name, fields, ratio):
    model, images, labels = linear_problem()
    attack = build_attack(name, apsr=APSR, **fields)
    result = attack(model, images, labels)
    best = optimum(model, images, labels, attack.norm)
    assert result.found.all()
    assert (result.distance >= best * 0.999).all()
    assert (result.distance <= best * ratio).all()


def test_the_hinge_is_what_brings_it_close_in_l2():
    model, images, labels = linear_problem()
    ours, published = (
        build_attack("FMN", norm="L2", steps=100, apsr=APSR, loss=loss)(model, images, labels).distance
        for loss in ("hinge", "margin")
    )
    assert (published > 1.5 * ours).all()


@pytest.mark.parametrize("name", ["DAG", "FMN", "DDN", "PGDBisection", "MIFGSMBisection"])
def test_an_image_at_its_goal_from_the_beginning_costs_no_change(name):
    model, images, labels = linear_problem()
    labels[1] = (labels[1] + 1) % model.num_classes
    result = build_attack(name, apsr=APSR, steps=30)(model, images, labels)
    assert result.found[1] and result.distance[1] == 0 and torch.equal(result.images[1], images[1])
    assert (result.distance[[0, 2]] > 0).all()


def test_dag_stops_at_the_first_success_and_spends_no_more():
    model, images, labels = linear_problem()
    images[2] = 0.5 + 3 * (images[2] - 0.5)  # farther from the boundaries
    with torch.no_grad():
        labels = model(images).argmax(1)
    labels[1] = 255
    attack = build_attack("DAG", apsr=APSR, gamma=0.001, steps=200)
    result = attack(model, images, labels)
    used = result.backwards.tolist()
    assert result.found.tolist() == [True, False, True]
    assert used[1] == 1 and 1 < used[0] < used[2] < 200
    assert torch.equal(result.forwards, result.backwards + 2)
    shorter = build_attack(attack, steps=used[0] - 2)(model, images, labels)  # the step that succeeded is not taken
    assert not shorter.found.any()
    assert (shorter.forwards[0], shorter.backwards[0]) == build_attack(attack, steps=used[0] - 2).passes()


def test_one_step_of_dag_is_its_formula():
    model, images, labels = linear_problem(count=1)
    result = build_attack("DAG", apsr=1.0, gamma=0.01, steps=1)(model, images, labels)
    points = images.clone().requires_grad_()
    logits = model(points)
    best = logits.gather(1, labels.unsqueeze(1)).squeeze(1)
    rival = logits.scatter(1, labels.unsqueeze(1), -torch.inf).amax(1)
    (gradient,) = torch.autograd.grad((best - rival).clamp_min(0).sum(), points)
    torch.testing.assert_close(result.images, (images - 0.01 * gradient / gradient.abs().max()).clamp(0, 1))


def test_first_steps_of_ddn_are_its_formula():
    model = SmallNet().eval()
    images, labels = batch(model, count=1, void=0.0)
    points, eps = images, 0.4
    errors, iterates = [], []
    for step in range(3):
        points = points.detach().requires_grad_()
        loss = torch.nn.functional.cross_entropy(model(points), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, points)
        eps = eps * 1.05  # nothing is found
        size = 1.0 * (0.01 + 0.99 * (1 + torch.cos(torch.tensor(torch.pi * step / 3))) / 2)
        delta = points + size * gradient / gradient.norm() - images
        points = (images + eps * delta / delta.norm()).clamp(0, 1).detach()
        with torch.no_grad():
            errors.append((model(points).argmax(1) != labels).float().mean())
        iterates.append(points)
    most = max(range(3), key=lambda step: (errors[step], step))
    attack = build_attack("DDN", steps=3, apsr=1.0, first_eps=0.4, loss="ce")
    torch.testing.assert_close(attack(model, images, labels).images, iterates[most], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("norm", "share"), [("Linf", 0.3), ("L2", 0.3), ("L1", 1.0)])
def test_first_step_of_fmn_is_a_share_of_the_estimated_distance(norm, share):
    model, images, labels = linear_problem(count=1)
    points = images.clone().requires_grad_()
    logits = model(points)
    own = logits.gather(1, labels.unsqueeze(1)).squeeze(1)
    gap = own - logits.scatter(1, labels.unsqueeze(1), -torch.inf).amax(1)
    (gradient,) = torch.autograd.grad(gap.sum(), points)
    order = {"Linf": 1, "L2": 2, "L1": torch.inf}[norm]
    radius = gap.sum() / gradient.flatten().norm(p=order)
    even = torch.ones_like(images).flatten()
    size = share * radius * even.norm() / even.norm(p={"Linf": torch.inf, "L2": 2, "L1": 1}[norm])
    ideal = -(size * gradient / gradient.norm()).detach()
    attack = build_attack("FMN", norm=norm, steps=1, apsr=1.0)
    expected = attack.threat.project(images + ideal, images, radius.detach().view(1))
    torch.testing.assert_close(attack(model, images, labels).images, expected.detach(), rtol=0, atol=1e-5)
    assert norm != "L2" or attack.threat.distance(ideal) < radius


@pytest.mark.parametrize("name", ["PGDBisection", "MIFGSMBisection"])
def test_published_bisection_halves_from_eps_one(name):
    model, images, labels = linear_problem(count=1)
    best = optimum(model, images, labels, "Linf")
    result = build_attack(f"{name}:published", apsr=APSR)(model, images, labels)
    assert result.found.all() and (result.distance >= best * 0.999).all()
    assert (result.distance <= best * 1.35).all()
    few = build_attack(f"{name}:published", apsr=APSR, steps=2)(model, images, labels)
    # one step of a share of eps = 1, the half of it; never beyond
    assert few.distance <= build_attack(f"{name}:published").relative_step + 1e-6


def test_a_warm_start_ends_closer_than_a_cold_one():
    model = SmallNet().eval()
    images, labels = batch(model, size=24)
    warm, cold = (
        build_attack("PGDBisection", steps=100, apsr=APSR, **fields)(model, images, labels)
        for fields in ({}, {"warm_start": False, "start_eps": 1.0})
    )
    assert warm.found.all() and cold.found.all()
    assert (warm.distance < 0.97 * cold.distance).all()


@pytest.mark.parametrize("name", ["DAG", "FMN", "DDN", "PGDBisection", "MIFGSMBisection"])
def test_steps_without_a_gradient_lead_nowhere_and_harm_nothing(name):
    """A model whose logits ignore the image but for a factor of 0."""
    model = PixelLinear()
    with torch.no_grad():
        model.weight.zero_()
        model.bias.copy_(torch.tensor([1.0, 0.0]))
    images, labels = torch.rand(2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.long)
    more = {"norm": "L2", "gamma": 50.0} if name == "DAG" else {}
    result = build_attack(name, steps=80, **more)(model, images, labels)
    assert torch.equal(result.images, images) and not result.found.any()


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("DAG", {"gamma": 0}, "gamma > 0"),
        ("DAG", {"gamma": 3}, "at most 1"),
        ("DAG", {"steps": 0}, "steps >= 1"),
        ("DAG", {"norm": "L1"}, "no L1 form"),
        ("FMN", {"gamma": 1.0}, "0 < gamma < 1"),
        ("FMN", {"last_gamma": 0}, "0 < last_gamma < 1"),
        ("FMN", {"loss": "ce"}, "FMN loss"),
        ("FMN", {"step_size": "big"}, "step_size to be a number"),
        ("DDN", {"norm": "Linf"}, "no Linf form"),
        ("DDN", {"step_size": None}, "step_size to be a number"),
        ("DDN", {"first_eps": 0}, "first_eps > 0"),
        ("PGDBisection", {"inner_steps": 0}, "inner_steps >= 1"),
        ("PGDBisection", {"start_eps": 2}, '"2/255"'),
        ("PGDBisection", {"loss": "l2"}, "PGDBisection loss"),
        ("MIFGSMBisection", {"momentum": -1}, "momentum >= 0"),
        ("MIFGSMBisection", {"warm_start": "no"}, "warm_start"),
    ],
)
def test_bad_fields_are_named_in_one_line(name, fields, message):
    with pytest.raises(UserError, match=message) as caught:
        build_attack(name, **fields)
    assert "\n" not in str(caught.value)
