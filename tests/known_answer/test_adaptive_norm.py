"""FMN, DDN and DAG with our own settings: every point that they measure against their formulas in float64."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from segrobust.attacks import build_attack
from segrobust.core.threats import THREATS
from tests.attacks.toys import SmallNet, batch
from tests.known_answer.trace import Recorder, assert_same, column, cosine, gaps_of, gradient_of, in_float64

STEPS = 14
SIZE = 8
EVEN = {"Linf": 1.0, "L2": math.sqrt(3 * SIZE * SIZE), "L1": 3.0 * SIZE * SIZE}  # norm of a change of 1 in every value


def scene():
    """Void pixels, wrong ones, and images so close to the boundaries that the goal is reached and lost again."""
    net = SmallNet().eval()
    images, labels = batch(net, size=SIZE, void=0.2)
    return net, 0.25 + 0.5 * images, labels


def compare(attack, net, images, labels, expected):
    recorder = Recorder(net)
    result = attack(recorder, images, labels)
    assert len(expected) == STEPS
    assert_same(recorder.points[:STEPS], expected, atol=3e-5)
    return result


def norms(delta, norm):
    flat = delta.flatten(1).abs()
    return {"Linf": flat.amax(1), "L1": flat.sum(1), "L2": flat.square().sum(1).sqrt()}[norm]


DUAL = {"Linf": "L1", "L2": "L2", "L1": "Linf"}


def fmn(net, images, labels, norm, apsr, first_length):
    """arXiv 2102.12827, algorithm 1: gamma from 0.05 to 0.001 and the step to a hundredth, by cosines that would end
    one step later. Its projections are tested elsewhere."""
    net, clean, points = in_float64(net), images.double(), images.double()
    valid, labels = labels != 255, labels.masked_fill(labels == 255, 0)
    widest = norms(torch.maximum(clean, 1 - clean), norm)
    eps = best = torch.full_like(widest, math.inf)
    path, hits = [], []
    for step in range(STEPS):
        path.append(points)

        def loss(logits):
            return (gaps_of(logits, labels) * valid).clamp(min=0).sum()

        gradient, logits = gradient_of(loss, net, points)
        gaps = gaps_of(logits, labels)
        succeeds = ((gaps < 0) & valid).flatten(1).sum(1) / valid.flatten(1).sum(1) >= apsr
        hits.append(succeeds)
        distance = norms(points - clean, norm)
        best = torch.where(succeeds, torch.minimum(best, distance), best)
        total = (gaps.clamp(min=0) * valid).flatten(1).sum(1)
        estimate = distance + total / norms(gradient, DUAL[norm]).clamp(min=1e-30)
        gamma = cosine(0.05, 0.001, step / STEPS)
        changed = torch.where(succeeds, torch.minimum(eps * (1 - gamma), best), eps * (1 + gamma))
        eps = torch.minimum(torch.where(best.isfinite(), changed, estimate), widest)
        length = first_length(eps) * cosine(1, 0.01, step / STEPS)
        moved = points - gradient / column(norms(gradient, "L2").clamp(min=1e-30)) * column(length)
        points = THREATS[norm].project(moved, clean, eps)
    return path, torch.stack(hits)


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_fmn(norm):
    net, images, labels = scene()
    share = {"Linf": 0.3, "L2": 0.3, "L1": 1.0}[norm]
    attack = build_attack("FMN", norm=norm, steps=STEPS, apsr=0.55)
    path, hits = fmn(net, images, labels, norm, 0.55, lambda eps: eps * share * EVEN["L2"] / EVEN[norm])
    compare(attack, net, images, labels, path)
    after = hits.cummax(0).values
    assert (hits & after).any() and (~hits & after).any()  # the radius has shrunk and grown


def test_ddn():
    """arXiv 1811.09600, algorithm 1: the norm changes by 5 % from 1, the step from 1 to 0.01 by a cosine."""
    net, images, labels = scene()
    exact, clean, points = in_float64(net), images.double(), images.double()
    valid, wanted = labels != 255, labels.masked_fill(labels == 255, 0)
    eps, path, hits = torch.ones(3, dtype=torch.float64), [], []
    for step in range(STEPS):
        path.append(points)

        def loss(logits):
            right = (logits.argmax(1) == wanted) & valid
            return (F.cross_entropy(logits, wanted, reduction="none") * right).sum()

        gradient, logits = gradient_of(loss, exact, points)
        wrong = (logits.argmax(1) != wanted) & valid
        hits.append(wrong.flatten(1).sum(1) / valid.flatten(1).sum(1) >= 0.6)
        eps = torch.where(hits[-1], 0.95 * eps, 1.05 * eps)
        delta = points - clean + column(cosine(1, 0.01, step / STEPS) / norms(gradient, "L2")) * gradient
        points = (clean + delta * column(eps / norms(delta, "L2"))).clamp(0, 1)
    compare(build_attack("DDN", steps=STEPS, apsr=0.6), net, images, labels, path)
    hits = torch.stack(hits)
    assert hits[1:].any() and (~hits[1:]).any()


@pytest.mark.parametrize(
    ("spec", "norm", "gamma"), [("DAG", "Linf", 0.003), ("DAG", "L2", 0.1), ("DAG:published", "Linf", 0.001)]
)
def test_dag(spec, norm, gamma):
    """arXiv 1703.08603: steps of one length along the margins of the pixels that are still right."""
    net, images, labels = scene()
    exact, points = in_float64(net), images.double()
    valid, wanted = labels != 255, labels.masked_fill(labels == 255, 0)
    path = []
    for _ in range(STEPS):
        path.append(points)
        gradient, _ = gradient_of(lambda logits: (gaps_of(logits, wanted) * valid).clamp(min=0).sum(), exact, points)
        points = (points - gamma * gradient / column(norms(gradient, norm))).clamp(0, 1)
    attack = build_attack(spec, norm=norm, steps=STEPS, apsr=1.0)
    assert not compare(attack, net, images, labels, path).found.any()
