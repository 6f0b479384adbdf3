"""ALMA-prox and ALMA as published: iterates, multipliers, penalty parameters and step sizes against references."""

from __future__ import annotations

import pytest
import torch

from segrobust.attacks import build_attack
from segrobust.attacks.alma_cls import DECAY, MULTIPLIER, PENALTY, STEP_DECAY, ALMACls, ClsLagrangian
from segrobust.attacks.alma_prox import ALMAProx, ProximalSplitting
from segrobust.attacks.margins import Margins
from segrobust.attacks.penalty import ProxLagrangian
from segrobust.attacks.segmentation import Goal
from tests.parity import reference_lagrangian as reference
from tests.parity.problem import FixedNet, record, scene, singles
from tests.parity.test_min_norm import goal_of


def follow(monkeypatch, owner, name, states):
    """Let the method leave what ``states`` reads from its object, after every call."""
    kept, own = [], getattr(owner, name)

    def method(self, *args, **more):
        found = own(self, *args, **more)
        kept.append([getattr(self, state).clone() for state in states] or [found.clone()])
        return found

    monkeypatch.setattr(owner, name, method)
    return kept


def close(ours, expected, valid=None, **tolerance):
    """Values of all steps, at the valid pixels."""
    expected = torch.stack([torch.as_tensor(one, dtype=torch.float64) for one in expected])
    ours = torch.stack(ours).double()
    if valid is not None:
        ours, expected = ours[:, valid], expected[:, valid]
    torch.testing.assert_close(ours.view_as(expected), expected, **tolerance)


@pytest.mark.parametrize(
    ("targeted", "steps", "required", "lr"),
    [
        (False, 40, 0.99, 3e-3),
        (False, 45, 0.3, 0.012),
        (False, 36, 0.42, 0.012),  # the first image succeeds after half of the steps
        (True, 40, 0.15, 5e-3),
    ],
)
def test_alma_prox(monkeypatch, targeted, steps, required, lr):
    network = FixedNet()
    images, labels = scene(network)
    goal = goal_of(labels, targeted)
    attack = build_attack("ALMAProx:published", steps=steps, apsr=required, step_size=lr, targeted=targeted)
    for n, (clean, label, valid) in enumerate(singles(images, goal.get("targets", labels))):
        run, best = reference.alma_prox(network, clean, label, valid, steps, required, lr, targeted=targeted)
        part = slice(n, n + 1)
        with monkeypatch.context() as patch:
            duals = follow(patch, ProxLagrangian, "derivative", ("multiplier", "penalty", "scale"))
            sizes = follow(patch, ProximalSplitting, "step_size", ())
            given = {name: value[part] for name, value in goal.items()}
            result, seen = record(attack, network, images[part], labels[part], **given)
        close(seen[:steps], run.points, rtol=0, atol=2e-5)
        multipliers, penalties, scales = zip(*duals, strict=True)
        close(list(multipliers), run.multipliers, valid, rtol=1e-3, atol=1e-7)
        close(list(penalties), run.penalties, valid, rtol=1e-6, atol=0)
        close(list(scales), run.scales, rtol=1e-5, atol=0)
        close([one for (one,) in sizes], run.sizes, rtol=1e-5, atol=0)
        assert run.dropped[0] == 0 and run.dropped[-1] == max(0, int((1 - required) * valid.sum() + 1e-9) - 1)
        assert max(run.penalties[-1][valid]) > 0.01 == min(run.penalties[-1][valid])
        assert best.found == (required in (0.3, 0.42)) and min(run.multipliers[-1][valid]) < 1e-3
        if not torch.equal(result.images.double(), seen[steps]):  # the points after the last step are not better
            torch.testing.assert_close(result.images.double(), best.points, rtol=0, atol=1e-5)


@pytest.mark.parametrize("succeeds", [False, True])
@pytest.mark.parametrize(
    ("name", "own"),
    [("ALMAProx:published", {}), ("ALMAProx", {"slope": reference.slope_of_default, "largest_rho": 1e4})],
)
def test_the_multipliers_of_alma_prox_on_any_course_of_the_margins(name, own, succeeds):
    """Margins that are made up, for long enough to meet every bound."""
    steps, count = 250, 200
    generator = torch.Generator().manual_seed(1)
    valid = torch.rand(1, 1, count, generator=generator) > 0.2
    drift = torch.linspace(-0.02, 0.05, count)
    gaps = (0.03 * torch.randn(steps, count, generator=generator) + drift).cumsum(0).view(steps, 1, 1, count)
    spreads = 0.5 + torch.rand(gaps[:1].shape, generator=generator).expand_as(gaps)
    goal = Goal(torch.zeros(valid.shape, dtype=torch.long), valid)
    lagrangian = ProxLagrangian(goal, steps, build_attack(name).reference, capped=False, least_required=0.9)
    expected = reference.ProxDuals(valid, steps, 0.9, **own)
    spared = 0
    for i in range(steps):
        gap, spread = gaps[i], spreads[i]
        margins = Margins(gap, (gap < 0) & valid, spread)
        success = succeeds if i < 200 else not succeeds
        slope = lagrangian.derivative(margins, torch.tensor([success]), torch.tensor([0.9]), i)
        before = expected.rho
        wanted = expected.follow((gap.double() + 1e-4) / spread, gap < 0, success, i) / spread
        spared += int(((before == expected.rho) & valid & ~expected.mask).sum()) if i % 10 == 9 else 0
        torch.testing.assert_close(lagrangian.scale.item(), expected.w, rtol=1e-4, atol=0)
        for ours, theirs in ((lagrangian.multiplier, expected.mu), (lagrangian.penalty, expected.rho), (slope, wanted)):
            torch.testing.assert_close(ours[valid].double(), theirs[valid], rtol=1e-3, atol=1e-13)
    assert expected.rho[valid].max() >= 1e4 and spared > 50
    assert expected.mu[valid].min() < 2e-12 and expected.mu[valid].max() == 1


def test_alma_prox_presets():
    attack = build_attack("ALMAProx:published")
    assert (attack.steps, attack.step_size, attack.step_decay, attack.apsr) == (500, 1e-3, 0.1, 0.99)
    assert attack.phases() == (0, 500, 0) and attack.reference
    assert attack == ALMAProx(steps=500, reference=True, warm_share=0, repair_share=0, step_decay=0.1)


@pytest.mark.parametrize(
    ("norm", "order", "length", "steps", "targeted"),
    [("L2", 2, 0.05, 40, False), ("L2", 2, 1.0, 40, True), ("L1", 1, 3.0, 15, False)],  # L1's signs are soon chaotic
)
def test_alma_cls(monkeypatch, norm, order, length, steps, targeted):
    required = 0.25 if targeted else 0.4
    network = FixedNet()
    images, labels = scene(network)
    goal = goal_of(labels, targeted)
    fields = {"norm": norm, "init_lr_distance": length, "steps": steps, "apsr": required, "targeted": targeted}
    attack = build_attack("ALMACls:published", **fields)
    for n, (clean, label, valid) in enumerate(singles(images, goal.get("targets", labels))):
        run, best = reference.alma_cls(network, clean, label, valid, steps, required, order, length, targeted)
        part = slice(n, n + 1)
        with monkeypatch.context() as patch:
            states = follow(patch, ClsLagrangian, "update_penalty", ("penalty", "multiplier"))
            given = {name: value[part] for name, value in goal.items()}
            result, seen = record(attack, network, images[part], labels[part], **given)
        close(seen[:steps], run.points, rtol=0, atol=3e-5)
        close([penalty for penalty, _ in states], run.penalties, valid, rtol=1e-5, atol=0)
        close([multiplier for _, multiplier in states[1:]], run.multipliers[:-1], valid, rtol=1e-3, atol=1e-6)
        assert max(run.penalties[-1][valid]) > 1 and run.dropped[-1] > 0 and (best.found or norm == "L1")
        if not torch.equal(result.images.double(), seen[steps]):
            torch.testing.assert_close(result.images.double(), best.points, rtol=0, atol=3e-5)
    published = build_attack("ALMACls:published")
    assert (published.steps, DECAY, STEP_DECAY, MULTIPLIER, PENALTY) == (500, 0.8, 0.1, 1e-4, 1.0)
    assert published == ALMACls(init_lr_distance=1.0, reference=True, masking=True)
