"""PDPGD with the exact prox: every point that it measures against arXiv 2106.01538 in float64."""

from __future__ import annotations

import math

import torch

from segrobust.attacks import build_attack
from tests.attacks.test_prox import sorted_linf
from tests.attacks.toys import SmallNet, batch
from tests.known_answer.trace import Recorder, assert_same, column, gaps_of, gradient_of, in_float64

STEPS = 12


class Multipliers:
    """One logit per pixel beside a 0 for the norm; their softmax, averaged over the steps."""

    def __init__(self, valid):
        self.valid = valid
        count = valid.flatten(1).sum(1).view(-1, 1, 1).double()
        self.logits = (-count.log()).expand(valid.shape).masked_fill(~valid, -math.inf)
        self.shares = self.softmax()

    def softmax(self):
        flat = self.logits.flatten(1)
        return torch.cat([torch.zeros_like(flat[:, :1]), flat], 1).softmax(1)[:, 1:].view_as(self.logits)

    def ascend(self, gaps, rate):
        self.logits = (self.logits + rate * gaps.sign()).clamp(math.log(1e-12), -math.log(1e-12))
        self.logits = self.logits.masked_fill(~self.valid, -math.inf)
        self.shares = 0.9 * self.shares + 0.1 * self.softmax()

    @property
    def total(self):
        return self.shares.flatten(1).sum(1)


def trajectory(net, images, labels):
    exact, clean = in_float64(net), images.double()
    valid, wanted = labels != 255, labels.masked_fill(labels == 255, 0)
    multipliers, delta = Multipliers(valid), torch.zeros_like(clean)
    first, second, path = torch.zeros_like(clean), torch.zeros_like(clean), []
    for step in range(STEPS):
        path.append(clean + delta)
        shares = multipliers.shares

        def loss(logits, shares=shares):
            return (shares * torch.nn.functional.softplus(gaps_of(logits, wanted)) * valid).sum()

        gradient, logits = gradient_of(loss, exact, path[-1])
        of_norm = 1 - multipliers.total
        gradient = gradient / column(multipliers.total)
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        root = (second / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8
        rate = 0.01 * 0.01 ** (step / STEPS)
        delta = delta - rate * first / (1 - 0.9 ** (step + 1)) / root
        low, high = -clean, 1 - clean
        largest = root.flatten(1).amax(1)
        strength = of_norm / multipliers.total * rate / largest
        delta = torch.stack(
            [sorted_linf(delta[n], root[n] / largest[n], strength[n], low[n], high[n]) for n in range(len(delta))]
        )
        delta = delta.clamp(low, high)
        multipliers.ascend(gaps_of(logits, wanted), 0.1 + (0.01 - 0.1) * step / (STEPS - 1))
    return path


def test_every_point_is_that_of_the_formulas():
    net = SmallNet().eval()
    images, labels = batch(net, size=6)
    path = trajectory(net, images, labels)
    recorder = Recorder(net)
    build_attack("PDPGD", steps=STEPS)(recorder, images, labels)
    assert_same(recorder.points[:STEPS], path, atol=2e-5)
    assert (path[-1] - path[0]).abs().amax() > 0.005
