"""Steps on a GPU: replayed as CUDA graphs they give the same rows, and inside a step nothing waits for the device."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from segrobust import build_attack, load_segmenter
from segrobust.models.deterministic import deterministic
from segrobust.models.replayed import Replayed
from tests.gpu.runs import identity
from tests.runs.toy_run import lines

STEPS, WARM = 40, 10  # passes; a graph is captured among the first
WAITED = "called a synchronizing CUDA operation"
PHASES = 8  # of ALMA-prox and of the search before it: where one begins, it may ask what was found
BOUNDED = ("TsallisPGD", "SharpPGD", "CEPGD", "CosPGD", "SegPGD", "JSPGD", "MaskedPGD")
PARTS = {"radius_reduction": False}  # one stage: the next one would begin with an eager look at its first point


def problem(device, count=2, size=(96, 128)):
    """The shipped robust model, with images of noise and labels of its own."""
    model = load_segmenter("camvid-fpn-r18w24-pgdat-linf4-180x240", device=device)
    images = torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(0)).to(device)
    with torch.no_grad():
        labels = model(images).argmax(1)
    labels[:, :3] = 255
    return model, images, labels


@pytest.mark.parametrize("attacks", [("tsallis-pgd", "sharp-pgd", "alma-prox"), ("fmn", "Standard")])
def test_graphs_change_no_row(scenes, tmp_path, attacks):
    plain = scenes.evaluate(tmp_path / "plain", "--no-cuda-graphs", attacks=attacks, steps=16)
    replayed = scenes.evaluate(tmp_path / "replayed", attacks=attacks, steps=16)
    assert lines(replayed) == lines(plain)
    assert identity(replayed) == identity(plain)  # a run may go on with the other


def test_passes_are_replayed_and_faster(device):
    if device.type == "cpu":
        pytest.skip("there are no graphs on a CPU")
    model, images, labels = problem(device)
    attack = build_attack("TsallisPGD", eps="4/255", steps=60, **PARTS)
    took, results = {}, {}
    with deterministic(device):
        for name, attacked in {"eager": model, "replayed": Replayed(model)}.items():
            results[name] = attack(attacked, images, labels)  # also captures
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            attack(attacked, images, labels)
            end.record()
            torch.cuda.synchronize()
            took[name] = begin.elapsed_time(end)
    assert torch.equal(results["eager"].images, results["replayed"].images)
    assert took["replayed"] < 0.8 * took["eager"], took


class Watched(nn.Module):
    """A model whose calls are counted; of those in the middle of an attack, each notes what waited since the last."""

    def __init__(self, model: nn.Module, last: int) -> None:
        super().__init__()
        self.model, self.last, self.calls = model, last, 0
        self.said: list[warnings.WarningMessage] = []
        self.waits: list[int] = []

    def forward(self, images):
        self.calls += 1
        if WARM < self.calls <= self.last:
            self.waits.append(sum(WAITED in str(one.message) for one in self.said))
        if WARM <= self.calls <= self.last:
            self.said.clear()
            torch.cuda.set_sync_debug_mode("warn" if self.calls < self.last else "default")
        return self.model(images)


def waits_of(device, model, images, labels, attack):
    """How often each steady step of an attack waited for the device."""
    watched = Watched(model, last=STEPS - 2)
    try:
        with deterministic(device), warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            watched.said = said
            attack(watched, images, labels)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(watched.waits) == STEPS - 2 - WARM
    return watched.waits


@pytest.fixture
def cuda_only(device):
    if device.type == "cpu":
        pytest.skip("a CPU has nobody to wait for")


@pytest.mark.usefixtures("cuda_only")
class TestNothingWaits:
    @pytest.mark.parametrize("graphs", [False, True])
    @pytest.mark.parametrize("name", BOUNDED)
    @pytest.mark.parametrize("optimiser", ["apgd", "pgd"])
    def test_in_steps_of_bounded_attacks(self, device, name, optimiser, graphs):
        model, images, labels = problem(device)
        attack = build_attack(name, eps="4/255", steps=STEPS, optimiser=optimiser, **PARTS)
        waits = waits_of(device, Replayed(model) if graphs else model, images, labels, attack)
        assert sum(waits) == 0, waits

    @pytest.mark.parametrize("graphs", [False, True])
    def test_in_steps_of_fmn(self, device, graphs):
        model, images, labels = problem(device)
        attack = build_attack("FMN", steps=STEPS)
        assert sum(waits_of(device, Replayed(model) if graphs else model, images, labels, attack)) == 0

    @pytest.mark.parametrize("name", ["ALMAProx", "ALMAProx:published"])
    def test_in_nearly_all_steps_of_alma_prox(self, device, name):
        """Some hundred waits in each step of the published one, before the prox was batched."""
        model, images, labels = problem(device)
        waits = waits_of(device, Replayed(model), images, labels, build_attack(name, steps=STEPS))
        assert sum(wait > 0 for wait in waits) <= PHASES, waits

    def test_the_test_would_notice(self, device):
        class Asks(nn.Module):
            def __init__(self, model):
                super().__init__()
                self.model = model

            def forward(self, images):
                logits = self.model(images)
                return logits if float(logits.detach().sum()) < float("inf") else logits * 0

        model, images, labels = problem(device)
        attack = build_attack("TsallisPGD", eps="4/255", steps=STEPS, **PARTS)
        assert min(waits_of(device, Asks(model), images, labels, attack)) >= 1
