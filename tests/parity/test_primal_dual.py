"""PDGD and PDPGD as published: iterates and dual weights against references."""

from __future__ import annotations

import math

import pytest
import torch

from segrobust.attacks import build_attack
from segrobust.attacks.primal_dual import AVERAGE, DUAL_LR_DECAY, LR_DECAY, PDPGD, DualWeights
from tests.parity import reference_primal_dual as reference
from tests.parity.problem import FixedNet, record, scene, singles
from tests.parity.test_lagrangian import close, follow
from tests.parity.test_min_norm import goal_of

CASES = [
    ("PDGD", "L2", 2, reference.descend_both, 1e-6),
    ("PDPGD", "Linf", math.inf, reference.descend_and_prox(math.inf), 1e-12),
    ("PDPGD", "L2", 2, reference.descend_and_prox(2), 1e-12),
    ("PDPGD", "L1", 1, reference.descend_and_prox(1), 1e-12),
]


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize(("name", "norm", "order", "move", "least_ratio"), CASES, ids=["PDGD", "Linf", "L2", "L1"])
def test_iterates_and_weights(monkeypatch, name, norm, order, move, least_ratio, targeted):
    steps, required, lr, dual_lr = 40, 0.15 if targeted else 0.4, 0.02, 1.0 if norm == "L1" else 0.1
    network = FixedNet()
    images, labels = scene(network)
    goal = goal_of(labels, targeted)
    fields = {"norm": norm, "steps": steps, "apsr": required, "lr": lr, "dual_lr": dual_lr, "targeted": targeted}
    attack = build_attack(f"{name}:published", **fields)
    for n, (clean, label, valid) in enumerate(singles(images, goal.get("targets", labels))):
        part = slice(n, n + 1)
        problem = (network, clean, label, valid, steps, required, move, order, lr, dual_lr, least_ratio)
        run, best = reference.primal_dual(*problem, targeted=targeted)
        with monkeypatch.context() as patch:
            weights = follow(patch, DualWeights, "ascend", ("pixels",))
            given = {key: value[part] for key, value in goal.items()}
            result, seen = record(attack, network, images[part], labels[part], **given)
        close(seen[:steps], run.points, rtol=0, atol=3e-5)
        close([one for (one,) in weights[:-1]], run.weights[1:], valid, rtol=1e-4, atol=1e-8)
        assert max(run.norms) > 3 * lr and run.weights[-1].sum() > 0.3
        if not torch.equal(result.images.double(), seen[steps]):  # the points after the last step are not better
            torch.testing.assert_close(result.images.double(), best.points, rtol=0, atol=3e-5)


@pytest.mark.parametrize(("name", "bound"), [("PDGD", 1e-6), ("PDPGD", 1e-12)])
def test_the_weights_stay_within_their_ratio(monkeypatch, name, bound):
    network = FixedNet()
    images, labels = scene(network)
    logits = follow(monkeypatch, DualWeights, "ascend", ("logits",))
    attack = build_attack(f"{name}:published", steps=8, dual_lr=20.0)
    attack(network, images, labels)
    finite = torch.stack([one for (one,) in logits])
    finite = finite[finite.isfinite()]
    assert finite.max().item() == pytest.approx(-math.log(bound), rel=1e-6) and -finite.min() == finite.max()


def test_presets():
    for name in ("PDGD", "PDPGD"):
        attack = build_attack(f"{name}:published")
        assert (attack.steps, attack.lr, LR_DECAY) == (500, 0.01, 0.01)
        assert (attack.dual_lr, DUAL_LR_DECAY, AVERAGE) == (0.1, 0.1, 0.9)
    assert build_attack("PDPGD:published") == PDPGD(reference=True) != PDPGD()
