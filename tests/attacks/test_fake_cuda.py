"""Every attack on tensors that claim to be on a GPU: reading a value there raises, and so does mixing devices.

Such tensors have shapes and devices, no values. Autograd would want a real GPU; what it returns is replaced by
something of the right shape. What a call looks at once (values of images and labels, the first logits and gradient, the
bounds of what is returned) and which images go on are stepped over.
"""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from segrobust.attacks import ATTACKS, build_attack, gradient
from segrobust.attacks.base import Attack
from segrobust.attacks.gradient import Engine
from segrobust.attacks.segmentation import Goal
from segrobust.attacks.weights import _inverse
from segrobust.core.threats import THREATS
from tests.attacks.test_no_waiting import STEPPING
from tests.attacks.waiting import counted

STEPS = 12
CLASSES = 4
SETTINGS = {"MinNormEnsemble": {"attacks": ("FMN", "CosPGD"), "radii": (0.05,)}}
EVERY_NORM = ("CEPGD", "FMN", "ALMAProx")


class Model(nn.Module):
    def forward(self, images):
        return torch.cat([images, images.sum(1, keepdim=True)], 1)


class Unseen:
    """A task whose labels nobody looks at."""

    def goal(self, images, labels, targets, targeted, mask=None):
        return Goal(labels, labels != 255, targeted, CLASSES - 1, mask)


def left_by_one(chosen):
    """In place of ``selected``: the first images, one fewer than there are."""
    return torch.arange(max(len(chosen) - 1, 1), device=chosen.device)


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(torch.autograd, "grad", lambda logits, points, ascent: (torch.empty_like(points),))
    monkeypatch.setattr(gradient, "_share_memory", lambda *_: False)
    monkeypatch.setattr(Engine, "_check_first", lambda *_: None)
    monkeypatch.setattr(Engine, "check_finite", lambda *_: None)
    monkeypatch.setattr(Attack, "_check_images", lambda self, points, problem, _: points.flatten(1).sum(1))
    for name, module in sys.modules.items():
        if name.startswith("segrobust.attacks.") and hasattr(module, "selected"):
            monkeypatch.setattr(module, "selected", left_by_one)
    _inverse.cache_clear()
    with FakeTensorMode():
        yield torch.device("cuda")
    _inverse.cache_clear()


def case(name, label, preset="", **more):
    return pytest.param(name, preset, {**SETTINGS.get(name, {}), **more}, id=f"{name}-{label}")


CASES = [
    case(name, norm, norm=norm)
    for name, cls in ATTACKS.items()
    for norm in (cls.norms if cls.minimum_norm or name in EVERY_NORM else cls.norms[:1])
]
CASES += [case(name, "published", "published") for name, cls in ATTACKS.items() if cls.published is not None]
CASES += [
    case("CEPGD", "pgd", optimiser="pgd", step_schedule="linear", restarts=2),
    case("CosPGD", "targeted", targeted=True),
    case("BalancedPGD", "counts of a data set", class_counts=(5, 1, 2, 3)),
    case("MIFGSMBisection", "cosine", step_schedule="cosine", loss="dlr"),
    case("DDN", "levels", levels=256),
    *[case("FMN", f"quantised {norm}", norm=norm, quantise=True) for norm in THREATS],
]


@pytest.mark.parametrize(("name", "preset", "more"), CASES)
def test_runs_without_a_look_at_a_value_and_on_one_device(gpu, name, preset, more):
    steps = {"steps": STEPS} if name in STEPPING else {}
    attack = build_attack(name, **{**({"preset": preset} if preset else {}), **steps, **more})
    images = torch.empty(3, 3, 16, 16, device=gpu)
    labels = torch.empty(3, 16, 16, dtype=torch.long, device=gpu)
    more = {"budgets": (0.1,)} if attack.minimum_norm else {}
    if attack.targeted:
        more["targets"] = labels
    with counted() as seen:
        result = attack(Model(), images, labels, task=Unseen(), **more)
    assert result.images.device.type == result.distance.device.type == result.pixel_error.device.type == "cuda"
    assert all(one.images.device.type == "cuda" for one in result.candidates)
    assert result.forwards.device.type == result.backwards.device.type == "cpu"
    seen.pop("cpu", None)  # a copy that is counted as such
    assert sum(seen.values()) < STEPS, seen  # copies between devices: of a call, not of its steps


def test_a_look_at_a_value_and_a_second_device_are_refused(gpu):
    value = torch.ones(3, device=gpu)
    with pytest.raises(DataDependentOutputException):
        bool(value.any())
    with pytest.raises(DataDependentOutputException):
        value.tolist()
    with pytest.raises(RuntimeError, match="device"):
        value + torch.ones(3)
