"""The closed-form logit gradient against autograd of each published loss, written out here on its own."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from segrobust.attacks import build_attack
from segrobust.attacks.gradient import Engine
from segrobust.attacks.segmentation import Goal
from segrobust.attacks.weights import peak_to_q
from segrobust.core.errors import UserError

K = 3  # the identity model: three colour channels are three logits


def logits_and_goal(targeted=False, spread=3.0):
    generator = torch.Generator().manual_seed(3)
    logits = spread * torch.randn(2, K, 5, 6, dtype=torch.float64, generator=generator)
    labels = torch.randint(0, K, (2, 5, 6), generator=generator)
    valid = torch.rand(2, 5, 6, generator=generator) > 0.2
    return logits, Goal(labels.masked_fill(~valid, 0), valid, targeted)


def closed_form(attack, logits, goal, progress):
    engine = Engine(torch.nn.Identity(), goal)
    return engine.gradient(logits, attack.weight, progress, attack.sharpness(progress)).gradient


def p_of(logits, goal):
    return logits.softmax(1).gather(1, goal.labels.unsqueeze(1)).squeeze(1)


def reached(logits, goal):
    hit = logits.argmax(1) == goal.labels
    return hit if goal.targeted else ~hit


def cross_entropy(logits, goal):
    return F.cross_entropy(logits, goal.labels, reduction="none")


def segpgd_loss(logits, goal, progress):
    late = progress / 2
    return torch.where(reached(logits, goal), late, 1 - late) * cross_entropy(logits, goal)


def cospgd_loss(logits, goal, progress):
    onehot = F.one_hot(goal.labels, K).movedim(-1, 1).double()
    cosine = F.cosine_similarity(logits.softmax(1), onehot, dim=1).detach()
    return (1 - cosine if goal.targeted else cosine) * cross_entropy(logits, goal)


def js_loss(logits, goal, progress):
    p, onehot = logits.softmax(1), F.one_hot(goal.labels, K).movedim(-1, 1).double()
    middle = (p + onehot) / 2
    of_onehot = -middle.gather(1, goal.labels.unsqueeze(1)).squeeze(1).log()
    return 0.5 * ((p * (p / middle).log()).sum(1) + of_onehot)


def balanced_loss(logits, goal, progress, counts=(10.0, 200.0, 50.0)):
    inverse = 1 / torch.tensor(counts, dtype=torch.float64)
    return (inverse / inverse.sum())[goal.labels] * ~reached(logits, goal) * cross_entropy(logits, goal)


def tsallis_loss(q):
    return lambda logits, goal, progress: (1 - p_of(logits, goal) ** (1 - q)) / (1 - q)


def sharp_loss(logits, goal, progress):
    beta = 1 + 2 * progress
    return (1 - p_of(beta * logits, goal)) / beta


def balanced_sharp_loss(logits, goal, progress, counts=(10.0, 200.0, 50.0)):
    inverse = 1 / torch.tensor(counts, dtype=torch.float64)
    return (inverse / inverse.sum()).sqrt()[goal.labels] * sharp_loss(logits, goal, progress)


def region_loss(logits, goal, progress, steps=300):
    """At the first point of a search: true and false pixels alone."""
    false = reached(logits, goal)
    weights = torch.zeros_like(logits[:, 0])
    for n, valid in enumerate(goal.valid):
        for region, factor in ((~false[n] & valid, 1 - progress / 2), (false[n] & valid, 1 / (2 * steps))):
            weights[n][region] = factor / region.sum() * valid.sum()
    return weights * cross_entropy(logits, goal)


LOSSES = {
    "CEPGD": ({}, lambda logits, goal, progress: cross_entropy(logits, goal)),
    "SegPGD": ({}, segpgd_loss),
    "CosPGD": ({}, cospgd_loss),
    "JSPGD": ({}, js_loss),
    "MaskedPGD": ({}, lambda logits, goal, progress: ~reached(logits, goal) * cross_entropy(logits, goal)),
    "BalancedPGD": ({"class_counts": (10, 200, 50)}, balanced_loss),
    "TsallisPGD": ({}, lambda logits, goal, progress: tsallis_loss(-2 + 3 * progress)(logits, goal, progress)),
    "RPPGD": ({}, region_loss),
    "SharpPGD": ({}, sharp_loss),
    "BalancedSharpPGD": ({"class_counts": (10, 200, 50)}, balanced_sharp_loss),
}
FIXED_Q = {
    f"TsallisPGD q={q}": ({"schedule": "fixed", "q_start": q}, tsallis_loss(q)) for q in (-8.0, -2.0, 0.0, 0.5, 0.95)
}


@pytest.mark.parametrize("progress", [0.0, 0.4, 0.99])
@pytest.mark.parametrize("name", [*LOSSES, *FIXED_Q])
@pytest.mark.parametrize("targeted", [False, True])
def test_closed_form_is_the_gradient_of_the_published_loss(name, progress, targeted):
    fields, loss = {**LOSSES, **FIXED_Q}[name]
    attack = build_attack(name.split()[0], **fields)
    if targeted and not attack.can_target:
        pytest.skip(f"{name} has no targeted form")
    logits, goal = logits_and_goal(targeted)
    logits.requires_grad_()
    total = loss(logits, goal, progress)[goal.valid].sum()
    (expected,) = torch.autograd.grad(-total if targeted else total, logits)
    found = closed_form(attack, logits, goal, progress)
    assert expected.abs().max() > 1e-6
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


def test_cross_entropy_is_the_mean_over_valid_pixels():
    logits, goal = logits_and_goal()
    engine = Engine(torch.nn.Identity(), goal)
    expected = torch.stack([cross_entropy(logits, goal)[n][goal.valid[n]].mean() for n in range(2)])
    wrong = torch.stack([reached(logits, goal)[n][goal.valid[n]].double().mean() for n in range(2)])
    for measured in (engine.measure(logits), engine.gradient(logits, build_attack("CEPGD").weight, 0.0)):
        torch.testing.assert_close(measured.ce, expected)
        torch.testing.assert_close(measured.error.double(), wrong, rtol=1e-6, atol=0)


def test_q_of_one_is_cross_entropy_exactly():
    logits, goal = logits_and_goal()
    tsallis = closed_form(build_attack("TsallisPGD", schedule="fixed", q_start=1.0), logits, goal, 0.3)
    assert torch.equal(tsallis, closed_form(build_attack("CEPGD"), logits, goal, 0.3))


def test_balanced_without_counts_uses_those_of_the_image():
    logits, goal = logits_and_goal()
    found = closed_form(build_attack("BalancedPGD"), logits, goal, 0.0)
    for n in range(2):
        counts = [max(int((goal.labels[n][goal.valid[n]] == k).sum()), 1) for k in range(K)]
        one = Goal(goal.labels[n : n + 1], goal.valid[n : n + 1])
        single = closed_form(build_attack("BalancedPGD", class_counts=counts), logits[n : n + 1], one, 0.0)
        share = sum(1 / count for count in counts)
        torch.testing.assert_close(found[n : n + 1], single * share, rtol=1e-5, atol=1e-9)


def test_no_balance_is_plain_sharp_and_full_balance_counts_classes_alike():
    logits, goal = logits_and_goal()
    plain = closed_form(build_attack("SharpPGD"), logits, goal, 0.3)
    assert torch.equal(closed_form(build_attack("BalancedSharpPGD", balance=0), logits, goal, 0.3), plain)
    full = closed_form(build_attack("BalancedSharpPGD", balance=1), logits, goal, 0.3)
    for n in range(2):
        for k in range(K):
            mine = (goal.labels[n] == k) & goal.valid[n]
            torch.testing.assert_close(full[n][:, mine] * mine.sum(), plain[n][:, mine], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("name", list(LOSSES))
@pytest.mark.parametrize("scale", [1e2, 1e4, 1e30])
def test_any_finite_logits_give_a_finite_gradient(name, scale):
    logits, goal = logits_and_goal(spread=scale)
    attack = build_attack(name, **LOSSES[name][0])
    for at in (logits.float(), torch.zeros_like(logits).float()):
        assert torch.isfinite(closed_form(attack, at, goal, 0.5)).all()


def test_schedules_of_q():
    def q(schedule, progress, **fields):
        return build_attack("TsallisPGD", schedule=schedule, **fields).q(progress)

    assert [q("q_linear", i / 90) for i in (0, 45, 89)] == pytest.approx([-2, -0.5, 0.9666666])
    assert [q("q_cosine", s) for s in (0, 0.5, 1)] == pytest.approx([-2, -0.5, 1])
    assert [q("p_linear", s) for s in (0, 0.5, 1)] == pytest.approx([-8, 0, 8 / 9])
    assert q("p_cosine", 0.5) == pytest.approx(0)
    assert q("p_cosine", 0.25) == pytest.approx(peak_to_q(0.1 + 0.8 * (1 + math.cos(math.pi / 4)) / 2))
    assert [q("q_linear", s, end_fraction=0.4) for s in (0.5, 0.6, 0.8)] == pytest.approx([-2, -2, -0.5])


def test_q_above_one_is_refused():
    with pytest.raises(UserError, match="q <= 1"):
        build_attack("TsallisPGD", q_end=1.5)


def test_class_counts_must_fit_the_classes():
    logits, goal = logits_and_goal()
    with pytest.raises(UserError, match=r"one count per class \(3\), got 2"):
        closed_form(build_attack("BalancedPGD", class_counts=(1, 2)), logits, goal, 0.0)
