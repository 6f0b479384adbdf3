"""Every pass of a run is made in the one context in which a GPU repeats itself: attacked path = reported path.

A stand-in for a GPU: the context is entered as it would be there.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from segrobust.commands.evaluation import evaluate
from segrobust.models.deterministic import deterministic
from segrobust.models.segmenter import Segmenter
from segrobust.runs.folder import RunFolder
from segrobust.runs.identity import identity_of
from segrobust.runs.settings import Settings
from segrobust.studies.bench import Bench
from tests.attacks.toys import SmallNet
from tests.models.test_deterministic import GPU
from tests.runs.toy_run import RUN, K, ToySource, flat_rows, lines

OWN = F.interpolate


class Coarse(nn.Module):
    """A network whose logits are resized, and who notes by what."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.exchanged = SmallNet(K), []

    def forward(self, images):
        self.exchanged.append(F.interpolate is not OWN)
        return F.avg_pool2d(self.net(images), 2)


@pytest.fixture
def asked(monkeypatch):
    """What the context was entered with."""
    asked = []

    def entered(device, enabled):
        asked.append((device.type, enabled))
        return deterministic(GPU, enabled)

    monkeypatch.setattr("segrobust.studies.bench.deterministic", entered)
    return asked


def model():
    return Segmenter.wrap(Coarse(), num_classes=K, name="coarse").eval()


@pytest.mark.parametrize("enabled", [True, False])
def test_attacks_and_reported_predictions_share_it(asked, enabled, monkeypatch):
    source = ToySource(2)
    source.original_label = lambda place: torch.zeros(9, 7, dtype=torch.long)
    source.file_size = lambda place: (9, 7)
    bench = Bench(model(), source, deterministic=enabled, metric_size="original")
    (group, *_) = bench.groups({0: source[0]})
    resizes = []
    own = torch.cat
    monkeypatch.setattr(torch, "cat", lambda *given: resizes.append(F.interpolate is not OWN) or own(*given))
    assert bench.measured(group.images, group).shape == (1, 9, 7)
    with bench.attacking(bench.seeds(group)):
        attacked = bench.model(group.images)
    assert bench.model.net.exchanged == [enabled] * 2 and resizes == [enabled]
    assert torch.equal(attacked, bench.logits(group.images))
    assert asked and {*asked} == {("cpu", enabled)} and F.interpolate is OWN


def test_a_whole_run_is_made_in_it_and_two_starts_agree(asked, tmp_path):
    """Checks and pictures too, which ask the model themselves."""
    run = {**RUN, "attacks": ["CEPGD"], "eps": "2/255", "steps": 3, "checks": True}
    used = [model() for _ in range(3)]
    for name, made in zip("ab", used, strict=False):
        evaluate(made, ToySource(3), work_dir=tmp_path / name, **run)
        assert made.net.exchanged and all(made.net.exchanged)
    assert lines(tmp_path / "a") == lines(tmp_path / "b")
    evaluate(used[2], ToySource(3), work_dir=tmp_path / "off", deterministic=False, **run)
    assert not any(used[2].net.exchanged)
    identities = [RunFolder(tmp_path / name).identity() for name in ("a", "off")]
    assert [one.get("deterministic") for one in identities] == [None, False]
    pairs = zip(flat_rows(tmp_path / "a"), flat_rows(tmp_path / "off"), strict=True)
    assert all(abs(sum(one["tp"]) - sum(other["tp"])) <= 3 for one, other in pairs)  # the same within rounding


def test_on_a_gpu_the_identity_says_so(monkeypatch):
    """On a CPU nothing, which repeats in any case."""
    bench = Bench(model(), ToySource(1))
    assert "deterministic" not in identity_of(bench, [], Settings())
    monkeypatch.setattr(Bench, "device", GPU)
    monkeypatch.setattr("segrobust.runs.identity.environment_of", lambda device: {})
    found = [identity_of(bench, [], Settings(deterministic=one))["deterministic"] for one in (True, False)]
    assert found == [True, False]
