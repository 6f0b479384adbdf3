"""Proximal steps, masks and multipliers never wait for the device: nothing of a tensor is read on the host."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from segrobust.attacks import build_attack
from segrobust.attacks.alma_prox import ProximalSplitting
from segrobust.attacks.margins import Margins
from segrobust.attacks.minimum_norm import Closest
from segrobust.attacks.primal_dual import Adam, DualWeights
from segrobust.attacks.prox import PROXES
from segrobust.attacks.segmentation import Goal

SIZE = 40  # 4800 values of an image, more than few
READS = ("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "unique", "allclose")
ON_THE_HOST = {"__bool__", "__float__", "__int__", "__index__", "item", "tolist", "numpy", "cpu"}


class Reads(TorchDispatchMode):
    """The operations that read a value of a tensor, or need to know how many there are."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if name in READS or by_mask:
            self.seen.append(name)
        return function(*args, **(kwargs or {}))


class Conversions(TorchFunctionMode):
    """The methods by which Python takes a value."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if getattr(function, "__name__", "") in ON_THE_HOST:
            self.seen.append(function.__name__)
        return function(*args, **(kwargs or {}))


def reads(run):
    with Reads() as operations, Conversions() as conversions:
        run()
    return operations.seen + conversions.seen


def draw(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def box(size=SIZE):
    clean = draw(2, 3, size, size).sigmoid()
    return -clean, 1 - clean


def test_what_waits_is_seen():
    values = draw(2, 3)
    for waits in (
        lambda: bool((values > 0).any()),
        lambda: values[0, 0].item(),
        lambda: values.tolist(),
        lambda: float(values.sum()),
        lambda: values[values > 0],
        lambda: torch.equal(values, values),
        lambda: values.nonzero(),
        lambda: int(values.argmax()),
    ):
        assert reads(waits)
    assert not reads(lambda: torch.where(values > 0, values, 0).sum(1))


@pytest.mark.parametrize("size", [4, SIZE])
@pytest.mark.parametrize("capped", [False, True])
@pytest.mark.parametrize("norm", sorted(PROXES))
def test_a_proximal_step_waits_for_nothing(norm, capped, size):
    delta, metric = draw(2, 3, size, size), draw(2, 3, size, size).exp()
    strength, cap = torch.tensor([0.5, 0.0]), torch.full((2,), 0.1) if capped else None
    assert reads(lambda: PROXES[norm](delta, metric, strength, *box(size), cap)) == []


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
    assert reads(lambda: [search.iterate(step) for step in range(1, 40)]) == []
    assert search.closest.found.any() or "eps_max" in own


@pytest.mark.parametrize(
    ("name", "norm"), [("PDPGD", "Linf"), ("PDPGD", "L2"), ("PDPGD:published", "Linf"), ("PDGD", "L2")]
)
def test_primal_dual_moves_wait_for_nothing(name, norm):
    engine, (low, _) = Scripted(), box()
    attack = build_attack(name, norm=norm)
    duals, adam = DualWeights(SimpleNamespace(engine=engine), attack.least_ratio), Adam(low)
    margin = draw(2, SIZE, SIZE)

    def steps():
        delta = torch.zeros_like(low)
        for _ in range(3):
            margins = Margins(margin, margin < 0, margin)
            gradient = draw(2, 3, SIZE, SIZE) * duals.slope(margins).unsqueeze(1)
            delta = attack.move(delta, gradient, duals, adam, 0.01, -low)
            duals.ascend(margins, 0.1)

    assert reads(steps) == []
