"""Nothing in a steady step of an attack waits for the device: host synchronisations, counted on a CPU.

A run of twice the steps less one of the steps: what a call costs once falls out.
"""

from __future__ import annotations

import operator
from dataclasses import fields
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from segrobust.attacks import ATTACKS, build_attack
from segrobust.attacks.alma_prox import ProximalSplitting
from segrobust.attacks.ball import BallSearch
from segrobust.attacks.base import Problem
from segrobust.attacks.gradient import Engine
from segrobust.attacks.margins import Margins
from segrobust.attacks.minimum_norm import Closest
from segrobust.attacks.primal_dual import Adam, DualWeights
from segrobust.attacks.prox import PROXES
from segrobust.attacks.segmentation import Goal, Segmentation
from segrobust.core.draws import Draws
from segrobust.core.threats import THREATS
from tests.attacks.test_table import call, make
from tests.attacks.toys import SmallNet, batch
from tests.attacks.waiting import counted

STEPS = 20  # enough for every phase of every attack
SIZE = 40  # 4800 values of an image, more than few
LEAVING = "an image that is done costs no further pass: every step asks which images go on"
PER_STEP = {"DAG": (1, LEAVING), "Square": (1, LEAVING)}  # what is left, and why; 0 for every other attack

MODEL = SmallNet().eval()
IMAGES, LABELS = batch(MODEL, count=2, size=8)
STEPPING = [name for name, cls in ATTACKS.items() if "steps" in {field.name for field in fields(cls)}]
PUBLISHED = [name for name in STEPPING if ATTACKS[name].published is not None]


def case(name, label, preset="", **more):
    return pytest.param(name, preset, more, id=f"{name}-{label}")


CASES = [case(name, norm, norm=norm) for name in STEPPING for norm in ATTACKS[name].norms]
CASES += [case(name, "targeted", targeted=True) for name in STEPPING if ATTACKS[name].can_target]
CASES += [case(name, "published", "published") for name in PUBLISHED]
CASES += [
    case("CEPGD", "pgd", norm="L1", optimiser="pgd", step_schedule="cosine"),
    case("SharpPGD", "restarts", norm="L2", restarts=3, track="ce", handover="ce", keep="last"),
    case("BalancedPGD", "counts of a data set", class_counts=(5, 1, 2, 3)),
    case("MIFGSMBisection", "cosine", step_schedule="cosine", loss="dlr"),
    case("DDN", "levels", levels=256),
    case("ALMAProx", "cap", eps_max=0.1),
]


def waits(attack, **more):
    with counted() as seen:
        call(attack, MODEL, IMAGES, LABELS, **more)
    return seen


def per_step(build, **more):
    waits(build(1), **more)  # what is kept between calls is there
    few, many = (waits(build(steps), **more) for steps in (STEPS, 2 * STEPS))
    many.subtract(few)
    return {name: count / STEPS for name, count in many.items() if count}


def built(name, preset, steps, **more):
    if not preset:
        hard = {"apsr": 1.0} if ATTACKS[name].minimum_norm else {}
        hard |= {"gamma": 1e-4} if name == "DAG" else {}  # no image is done
        return make(name, steps=steps, **{"norm": None, **more, **hard})
    return build_attack(name, preset=preset, steps=steps, targeted=ATTACKS[name].targeted)


@pytest.mark.parametrize(("name", "preset", "more"), CASES)
def test_no_step_waits(name, preset, more):
    found = per_step(lambda steps: built(name, preset, steps, **more))
    assert sum(found.values()) == PER_STEP.get(name, (0,))[0], found


def test_nor_does_a_draw_of_noise_or_a_step_inside_a_mask_with_budgets():
    assert not per_step(lambda samples: make("UniformNoise", norm="L2", samples=samples))
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[2:6] = True
    assert not per_step(lambda steps: make("FMN", steps=steps), mask=mask, budgets=(0.01, 0.1))
    assert not per_step(lambda steps: make("SegPGD", norm="L1", steps=steps), mask=mask)


@pytest.mark.parametrize("norm", list(THREATS))
def test_nor_does_the_repair_on_the_8_bit_grid(norm):
    assert not per_step(lambda steps: make("FMN", norm=norm, quantise=True, quantise_steps=2 * steps))


@pytest.mark.parametrize("norm", list(THREATS))
def test_nor_does_the_ball_search_of_alma_prox(norm):
    attack = make("ALMAProx", norm=norm)
    goal = Segmentation().goal(IMAGES, LABELS, None, False)
    problem = Problem(Engine(MODEL, goal), IMAGES, Draws.of((1, 2)))
    ball = BallSearch(attack, problem, Closest(attack, problem), 2 * STEPS)
    ball.run(1)  # the first gradient is looked at
    with counted() as seen:
        ball.run(2 * STEPS - 1)
    assert not seen


def draw(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def box(size=SIZE):
    clean = draw(2, 3, size, size).sigmoid()
    return -clean, 1 - clean


@pytest.mark.parametrize("size", [4, SIZE])
@pytest.mark.parametrize("capped", [False, True])
@pytest.mark.parametrize("norm", sorted(PROXES))
def test_a_proximal_step_waits_for_nothing(norm, capped, size):
    delta, metric = draw(2, 3, size, size), draw(2, 3, size, size).exp()
    strength, cap = torch.tensor([0.5, 0.0]), torch.full((2,), 0.1) if capped else None
    with counted() as seen:
        PROXES[norm](delta, metric, strength, *box(size), cap)
    assert not seen


class Scripted:
    """An engine that answers with a made-up gradient, after the derivative in made-up margins."""

    def __init__(self):
        valid = draw(2, SIZE, SIZE) > -1
        self.goal = Goal(torch.zeros(valid.shape, dtype=torch.long), valid)
        self.goal.pixels  # noqa: B018 - counted once, at the start

    def gradient(self, engine, points, derivative, *_):
        margin = draw(2, SIZE, SIZE) + points.mean(1) - 0.5
        slope = derivative(Margins(margin, (margin < 0) & self.goal.valid, margin.square() + 0.5))
        gradient = draw(2, 3, SIZE, SIZE) * slope.float().unsqueeze(1)
        return gradient, Margins(margin, margin < 0, margin)


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("ALMAProx", {}),
        ("ALMAProx", {"norm": "L2"}),
        ("ALMAProx", {"norm": "L1"}),
        ("ALMAProx", {"eps_max": 0.05, "target_apsr": 0.5}),
        ("ALMAProx:published", {}),
    ],
)
def test_iterations_of_alma_prox_wait_for_nothing(monkeypatch, name, own):
    engine, (low, _) = Scripted(), box()
    monkeypatch.setattr("segrobust.attacks.alma_prox.margin_gradient", engine.gradient)
    monkeypatch.setattr("segrobust.attacks.alma_prox.published_gradient", lambda *a: engine.gradient(*a)[0])
    attack = build_attack(name, steps=40, apsr=0.4, **own)
    problem = SimpleNamespace(clean=-low, engine=engine, budgets=())
    search = ProximalSplitting(attack, problem, Closest(attack, problem), 40, warm=False)
    search.iterate(0)
    with counted() as seen:
        for step in range(1, 40):
            search.iterate(step)
    assert not seen
    assert search.closest.found.any() or "eps_max" in own


@pytest.mark.parametrize(
    ("name", "norm"), [("PDPGD", "Linf"), ("PDPGD", "L2"), ("PDPGD:published", "Linf"), ("PDGD", "L2")]
)
def test_primal_dual_moves_wait_for_nothing(name, norm):
    engine, (low, _) = Scripted(), box()
    attack = build_attack(name, norm=norm)
    duals, adam = DualWeights(SimpleNamespace(engine=engine), attack.least_ratio), Adam(low)
    margin = draw(2, SIZE, SIZE)

    delta = torch.zeros_like(low)
    with counted() as seen:
        for _ in range(3):
            margins = Margins(margin, margin < 0, margin)
            gradient = draw(2, 3, SIZE, SIZE) * duals.slope(margins).unsqueeze(1)
            delta = attack.move(delta, gradient, duals, adam, 0.01, -low)
            duals.ascend(margins, 0.1)
    assert not seen


WAYS = {
    "item": lambda x: x.sum().item(),
    "bool": lambda x: bool(x.sum() > 0),
    "float": lambda x: float(x[0]),
    "int": lambda x: int(x[0]),
    "index": lambda x: operator.index(x.long()[0]),
    "tolist": lambda x: x.tolist(),
    "numpy": lambda x: x.numpy(),
    "array": lambda x: np.asarray(x),
    "cpu": lambda x: x.cpu(),
    "tensor": lambda x: torch.tensor([0.5], device=x.device),
    "as_tensor": lambda x: torch.as_tensor([0.5], device=x.device),
    "new_tensor": lambda x: x.new_tensor([0.5]),
    "mask": lambda x: x[x > 0],
    "masked write": lambda x: x.clone().__setitem__(x > 0, 0),
    "masked_select": lambda x: x.masked_select(x > 0),
    "list": lambda x: x[[0, 1]],
    "nonzero": lambda x: (x > 0).nonzero(),
    "where": lambda x: torch.where(x > 0),
    "equal": lambda x: torch.equal(x, x),
    "allclose": lambda x: torch.allclose(x, x),
    "unique": lambda x: x.unique(),
    "bincount": lambda x: x.long().bincount(),
    "repeats": lambda x: x.repeat_interleave(x.long()),
    "device": lambda x: x.to("meta"),
    "copy": lambda x: torch.ones(3, device="meta").copy_(x),
}


@pytest.mark.parametrize("way", WAYS)
def test_what_waits_is_seen(way):
    x = torch.tensor([0.5, 1.0, 2.0])
    with counted() as seen:
        WAYS[way](x)
    assert seen


def test_what_does_not_wait_is_not():
    with counted() as seen:
        x = torch.linspace(0, 1, 5)
        x = torch.where(x > 0.5, x, 2.0).clamp_(0, 1)[torch.arange(2)] + x.new_full((2,), 3.0)
        x[:1].fill_(0.25).add_(torch.full_like(x[:1], 2.0)).double().cumsum(0)
    assert not seen
