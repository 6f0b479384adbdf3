"""ASMA and ALMA for classification: every point that they measure against their formulas in float64."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from segrobust.attacks import build_attack
from segrobust.attacks.alma_cls import ALMACls, ClsLagrangian
from segrobust.attacks.margins import Margins
from segrobust.attacks.segmentation import Goal
from tests.attacks.toys import PixelLinear, SmallNet, batch
from tests.known_answer.trace import Recorder, assert_same, column, gaps_of, gradient_of, in_float64


def iou_of(prediction, targets, valid):
    """Mean over the classes that are wanted or predicted, of one image."""
    ious = []
    for k in set(targets[valid].tolist()) | set(prediction[valid].tolist()):
        both, either = (op(prediction[valid] == k, targets[valid] == k) for op in (torch.logical_and, torch.logical_or))
        ious.append((both.sum() / either.sum()).item())
    return sum(ious) / len(ious)


@pytest.mark.parametrize(("spec", "scale"), [("ASMA:published", 3e4), ("ASMA", None)])
def test_asma(spec, scale):
    """delta <- delta + (1e-6 IoU + 1e-7) grad(sum of the missing targets' logits - |delta|^2); 1e-7 at first. The net
    has large logits where the published steps are taken as they are; ours are scaled to a first change of 3e-4."""
    net = SmallNet().eval()
    if scale:
        with torch.no_grad():
            net.last.weight *= scale
            net.last.bias *= scale
    images, labels = batch(net, size=6)
    targets = (labels + 1).remainder(4).where(labels != 255, 255)
    targets[:, :2] = labels[:, :2]  # some are there from the beginning, which the first step does not count
    valid, wanted = labels != 255, targets.masked_fill(targets == 255, 0)
    exact, clean, points, path = in_float64(net), images.double(), images.double(), []
    factor = torch.ones(3, dtype=torch.float64)
    for step in range(12):
        path.append(points)

        def loss(logits):
            missing = (logits.argmax(1) != wanted) & valid
            return (logits.gather(1, wanted.unsqueeze(1)).squeeze(1) * missing).sum()

        gradient, logits = gradient_of(loss, exact, points)
        if step == 0 and not scale:
            factor = 3e-4 * math.sqrt(108) / (1e-7 * gradient.flatten(1).norm(dim=1))
        iou = torch.tensor([iou_of(*one) for one in zip(logits.argmax(1), wanted, valid, strict=True)])
        size = 1e-7 + (1e-6 * iou if step else 0)
        points = (points + column(size * factor) * (gradient - 2 * (points - clean))).clamp(0, 1)
    recorder = Recorder(net)
    build_attack(spec, steps=12)(recorder, images, labels, targets=targets)
    assert_same(recorder.points[:12], path, atol=2e-6)
    assert (path[-1] - path[0]).abs().max() > 0.002


def test_asma_pulls_back_by_the_squared_norm():
    """On a net without a gradient to the targets' logits that is all there is: delta <- delta (1 - 2 size)."""
    attack = build_attack("ASMA", step_size=0.1, iou_step=0.0, first_change=None, steps=2)

    class OneStep(PixelLinear):
        def forward(self, images):
            level = (images.sum((1, 2, 3), keepdim=True) - 54).expand(-1, 1, *images.shape[2:])  # 0 on the image
            return torch.cat([torch.full_like(level, 0.01), level], 1)

    images, targets = torch.full((1, 3, 6, 6), 0.5), torch.ones(1, 6, 6, dtype=torch.long)
    targets[0, 1:] = 255
    targets[0, 0, 1:] = 255  # one pixel: its logit rises by 0.1 * 108 in the first step, and it is there
    recorder = Recorder(OneStep())
    attack(recorder, images, 1 - targets.clamp(max=1), targets=targets)
    changes = [(points - images).mean().item() for points in recorder.points[:3]]
    assert changes == pytest.approx([0, 0.1, 0.1 * (1 - 2 * 0.1)], abs=1e-6)


STEPS = 26


def alma(net, images, labels, norm, first_length, tolerance, apsr):
    """arXiv 2011.11857 with a constraint per pixel: momentum on the norm plus penalties, whose multipliers follow."""
    exact, clean, points, path = in_float64(net), images.double(), images.double(), []
    valid, wanted = labels != 255, labels.masked_fill(labels == 255, 0)
    multiplier, penalty = torch.full(labels.shape, 1e-4, dtype=torch.float64), torch.ones(labels.shape).double()
    scale, beyond = torch.ones(len(images)).double(), torch.full((len(images),), 1e-4).double()
    square, momentum, found_at = torch.zeros(len(images)).double(), 0, torch.full((len(images),), STEPS // 2)
    found, lately, before, hits = torch.zeros(len(images)) > 1, torch.zeros_like(valid), None, []
    for step in range(STEPS):
        path.append(points)
        with torch.no_grad():
            logits = exact(points)
        top = logits.topk(3, dim=1).values
        spread, gap = top[:, 0] - top[:, 2], gaps_of(logits, wanted)
        succeeds = ((gap < 0) & valid).flatten(1).sum(1) / valid.flatten(1).sum(1) >= apsr
        hits.append(succeeds)
        found_at = torch.where(succeeds & ~found, found_at.clamp(max=step), found_at)
        found = found | succeeds
        factor = torch.where(succeeds, 1 / 1.02, 1 / 0.98).double()
        scale = (scale * factor).clamp(0.1, 1)
        if step:
            beyond = (beyond * factor).clamp(1e-4, tolerance)
        constraint = (gap / spread + beyond.view(-1, 1, 1)) * scale.view(-1, 1, 1)
        before = constraint if step == 0 else before
        lately = lately | ((gap < 0) & valid)
        if (step + 1) % 10 == 0:
            improves = (constraint <= 0.95 * before) | lately
            penalty, before, lately = (
                torch.where(improves, penalty, 1.2 * penalty),
                constraint,
                torch.zeros_like(lately),
            )

        def slope(multiplier, constraint=constraint, penalty=penalty):
            above = multiplier * (1 + 2 * penalty * constraint) + (penalty * constraint) ** 2 / 2
            below = multiplier / (1 - penalty.clamp(min=1) * constraint.clamp(max=0)) ** 2
            return torch.where(constraint >= 0, above, below) * valid

        if step:
            multiplier = (0.8 * multiplier + 0.2 * slope(multiplier)).clamp(1e-12, 1e12)
        weight = slope(multiplier) * scale.view(-1, 1, 1) / spread
        gradient, _ = gradient_of(lambda logits, weight=weight: (gaps_of(logits, wanted) * weight).sum(), exact, points)
        delta = points - clean
        length = delta.flatten(1).norm(dim=1).clamp(min=1e-12)
        gradient = gradient + (delta.sign() if norm == "L1" else delta / column(length))
        square = 0.8 * square + 0.2 * gradient.flatten(1).square().sum(1)
        momentum = 0.8 * momentum + gradient / column((square / (1 - 0.8 ** (step + 1))).sqrt())
        if step == 0:
            size = first_length / momentum.flatten(1).norm(p={"L1": 1, "L2": 2}[norm], dim=1)  # inside the box
        decay = (step - found_at).clamp(min=0) / (STEPS - found_at)
        points = (points - momentum * column(size * 0.1**decay)).clamp(0, 1)
    return path, torch.stack(hits)


@pytest.mark.parametrize("norm", ["L2", "L1"])
def test_alma_for_classification(norm):
    net = SmallNet().eval()
    images, labels = batch(net, size=6)
    images = 0.25 + images / 2
    values = 3 * 6 * 6
    first = 3 * 0.3 / 255 * (values if norm == "L1" else math.sqrt(values))
    attack = build_attack("ALMACls", norm=norm, steps=STEPS, apsr=0.5, masking=False, init_lr_distance=first)
    path, hits = alma(net, images, labels, norm, first, 0.1, 0.5)
    recorder = Recorder(net)
    attack(recorder, images, labels)
    assert_same(recorder.points[:STEPS], path, atol=2e-4)
    assert hits.any() and not hits[:3].any()


def test_the_tolerance_of_alma_grows_to_a_tenth_of_the_normaliser_where_the_goal_is_missed():
    goal = Goal(torch.zeros(2, 1, 4, dtype=torch.long), torch.ones(2, 1, 4, dtype=torch.bool))
    succeeds = torch.tensor([False, True])
    closest = SimpleNamespace(update=lambda points, reached: succeeds, required=torch.full((2,), 0.99))
    lagrangian = ClsLagrangian(ALMACls(steps=400), SimpleNamespace(engine=SimpleNamespace(goal=goal)), closest)
    margin = torch.full((2, 1, 4), 0.5)
    for step in range(400):
        lagrangian.derivative_at(margin, step)(Margins(margin, margin < 0, torch.ones_like(margin)))
        if step == 50:
            assert lagrangian.tolerance.tolist() == pytest.approx([1e-4 / 0.98**50, 1e-4], rel=1e-4)
    assert lagrangian.tolerance.tolist() == pytest.approx([0.1, 1e-4])
