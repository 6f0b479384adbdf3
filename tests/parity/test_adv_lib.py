"""The published presets beside the code they were published with (adv-lib), iterate by iterate, where it is installed.

    pip install --no-deps adv-lib

The references of this folder say the same without it, and are what always runs.
"""

from __future__ import annotations

import importlib
import math
import sys
from importlib.util import find_spec
from types import ModuleType

import pytest
import torch

from segrobust.attacks import build_attack
from tests.parity.problem import Classifier, Everywhere, FixedNet, Recorder, record, scene

STEPS = 40
pytestmark = pytest.mark.skipif(find_spec("adv_lib") is None, reason="adv-lib is not installed")


@pytest.fixture
def adv_lib(monkeypatch):
    """Imports a module of adv-lib; an empty one stands in for visdom, which it imports to draw curves."""
    if find_spec("visdom") is None:
        monkeypatch.setitem(sys.modules, "visdom", ModuleType("visdom"))
    return lambda name: importlib.import_module(f"adv_lib.attacks.{name}")


def theirs(attack, network, image, label, **fields):
    recorder = Recorder(network)
    attack(recorder, image, label, **fields)
    return recorder.seen


def compare(ours, attack, atol, targeted=False, **fields):
    """The points that the network sees, for one image after the other."""
    network = FixedNet()
    images, labels = scene(network)
    targets = ((labels + 1) % network.num_classes).where(labels != 255, labels) if targeted else None
    for n in range(len(images)):
        part = slice(n, n + 1)
        goal = (labels if targets is None else targets)[part]
        expected = theirs(attack, network, images[part], goal, masks=goal != 255, targeted=targeted, **fields)
        given = {} if targets is None else {"targets": targets[part]}
        _, seen = record(ours, network, images[part], labels[part], **given)
        assert len(expected) > 5
        torch.testing.assert_close(torch.cat(seen[: len(expected)]), torch.cat(expected), rtol=0, atol=atol)


@pytest.mark.parametrize("targeted", [False, True])
def test_alma_prox(adv_lib, monkeypatch, targeted):
    module = adv_lib("segmentation.alma_prox")
    plain = getattr(module.prox_linf_indicator, "_torchdynamo_orig_callable", module.prox_linf_indicator)
    monkeypatch.setattr(module, "prox_linf_indicator", plain)
    share, size = (0.15, 0.005) if targeted else (0.3, 0.012)
    ours = build_attack("ALMAProx:published", steps=STEPS, apsr=share, step_size=size, targeted=targeted)
    # their ternary search leaves an error of some 1e-5 in the prox, which the next steps carry on
    fields = {"num_steps": STEPS, "adv_threshold": share, "lr_init": size}
    compare(ours, module.alma_prox, 5e-4, targeted, **fields)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize(("norm", "order", "gamma"), [("Linf", math.inf, 0.01), ("L2", 2, 0.15)])
def test_dag(adv_lib, norm, order, gamma, targeted):
    module = adv_lib("segmentation.dense_adversary")
    ours = build_attack("DAG:published", norm=norm, steps=STEPS, gamma=gamma, apsr=0.9, targeted=targeted)
    compare(ours, module.dag, 1e-5, targeted, max_iter=STEPS, adv_threshold=0.9, γ=gamma, p=order)


@pytest.mark.parametrize("targeted", [False, True])
def test_pdgd(adv_lib, targeted):
    module = adv_lib("segmentation.primal_dual_gradient_descent")
    ours = build_attack("PDGD:published", steps=STEPS, apsr=0.4, lr=0.02, targeted=targeted)
    compare(ours, module.pdgd, 3e-5, targeted, num_steps=STEPS, adv_threshold=0.4, primal_lr=0.02)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize(("norm", "order"), [("Linf", math.inf), ("L2", 2), ("L1", 1)])
def test_pdpgd(adv_lib, norm, order, targeted):
    module = adv_lib("segmentation.primal_dual_gradient_descent")
    rate = 1.0 if norm == "L1" else 0.1
    fields = {"steps": STEPS, "apsr": 0.4, "lr": 0.02, "dual_lr": rate}
    ours = build_attack("PDPGD:published", norm=norm, targeted=targeted, **fields)
    fields = {"num_steps": STEPS, "adv_threshold": 0.4, "primal_lr": 0.02, "dual_lr": rate}
    compare(ours, module.pdpgd, 3e-5, targeted, norm=order, **fields)


def test_asma(adv_lib):
    module = adv_lib("segmentation.asma")
    ours = build_attack("ASMA:published", steps=STEPS, apsr=0.9, step_size=1e-3, iou_step=1e-2)
    compare(ours, module.asma, 1e-5, True, num_steps=STEPS, adv_threshold=0.9, τ=1e-3, β=1e-2)


def classified(count=3):
    """Images with one class each: attacks on classifiers have nothing else to look at."""
    network = Everywhere()
    images, _ = scene(network, count)
    with torch.no_grad():
        classes = Classifier()(images).argmax(1)
    return network, images, classes, classes.view(-1, 1, 1).expand(-1, *images.shape[2:])


@pytest.mark.parametrize(("first_step", "steps"), [(10.0, 10), (0.5, STEPS)])
def test_fmn_of_a_classifier(adv_lib, first_step, steps):
    network, images, classes, labels = classified()
    attack = adv_lib("fast_minimum_norm").fmn
    expected = theirs(attack, Classifier(), images, classes, norm=math.inf, steps=steps, α_init=first_step)
    _, seen = record(build_attack("FMN:published", steps=steps, step_size=first_step), network, images, labels)
    torch.testing.assert_close(torch.stack(seen[:steps]), torch.stack(expected), rtol=0, atol=1e-4)


def test_ddn_of_a_classifier(adv_lib):
    network, images, classes, labels = classified()
    expected = theirs(adv_lib("decoupled_direction_norm").ddn, Classifier(), images, classes, steps=STEPS)
    _, seen = record(build_attack("DDN:published", steps=STEPS), network, images, labels)
    torch.testing.assert_close(torch.stack(seen[:STEPS]), torch.stack(expected), rtol=0, atol=1e-5)


def test_apgd_of_a_classifier(adv_lib):
    network, images, classes, labels = classified()
    attack = build_attack("CEPGD", eps=0.05, steps=STEPS, radius_reduction=False)
    _, seen = record(attack, network, images, labels)
    radii = torch.full((len(images),), 0.05)
    start = {"x_init": seen[0].float(), "norm": math.inf, "n_iter": STEPS, "loss_function": "ce"}
    expected = theirs(adv_lib("auto_pgd")._apgd, Classifier(), images, classes, eps=radii, **start)
    # it keeps losses in float32: in the end its increases are rounding
    torch.testing.assert_close(torch.stack(seen[:30]), torch.stack(expected[:30]), rtol=0, atol=1e-5)
