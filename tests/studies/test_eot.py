"""EOT: the mean over known draws shows an attack what a single draw hides."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segrobust.attacks import build_attack
from segrobust.cli import main
from segrobust.commands.evaluation import evaluate
from segrobust.core.errors import UserError
from segrobust.models.expectation import Expectation
from segrobust.models.segmenter import Segmenter
from segrobust.runs.executor import Executor
from tests.attacks.toys import PixelLinear
from tests.runs.toy_run import K, ToySource, flat_rows, lines

PLAIN = {"attacks": ["CosPGD"], "eps": ["8/255"], "steps": 5, "checks": False}
EPS = 4 / 255


class Shaken(nn.Module):
    """A linear pixel model plus a random linear term that is five times as steep and zero on average."""

    def __init__(self, num_classes: int = K, steepness: float = 5.0) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.still, self.random = PixelLinear(num_classes), PixelLinear(num_classes, seed=3)
        self.steepness = steepness

    def forward(self, images: Tensor) -> Tensor:
        sign = 1 - 2 * torch.randint(2, (len(images), 1, *images.shape[2:]), device=images.device)
        return self.still(images) + self.steepness * sign * self.random(images)


def shaken() -> Segmenter:
    return Segmenter.wrap(Shaken(), num_classes=K, name="shaken").eval()


def test_the_mean_gradient_is_that_of_the_expectation():
    net = Shaken(2)
    images = 0.4 + 0.2 * torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    labels = net.still(images).argmax(1)
    weight = net.still.weight.detach()[:, :, 0, 0]
    best = images + EPS * (weight[1 - labels] - weight[labels]).sign().permute(0, 3, 1, 2)
    exact = {}
    for samples in (1, 256):
        result = build_attack("FGSM", eps=EPS)(Expectation(net, samples), images, labels)
        exact[samples] = float(((result.images - best).abs() < 1e-6).float().mean())
        passes = build_attack("FGSM", eps=EPS).passes()
        assert result.forwards.tolist() == [samples * passes[0]] * 2
        assert result.backwards.tolist() == [samples * passes[1]] * 2
    assert exact[1] < 0.75 and exact[256] > 0.95


def test_draws_depend_on_seed_call_and_sample_alone():
    images, net = torch.rand(1, 3, 4, 4), Expectation(Shaken(), 2)
    state = torch.random.get_rng_state()
    first, second = net(images), net(images)
    assert not torch.equal(first, second)
    assert torch.equal(state, torch.random.get_rng_state())
    torch.manual_seed(99)
    net.begin(0)
    assert torch.equal(net(images), first) and torch.equal(net(images), second)
    net.begin(1)
    assert not torch.equal(net(images), first)


class Switched(nn.Module):
    """One of two opposite rules for the whole batch, by numpy's draw, and an offset by Python's."""

    num_classes = K

    def __init__(self) -> None:
        super().__init__()
        self.rule = PixelLinear(K)

    def forward(self, images: Tensor) -> Tensor:
        return self.rule(images) * (1 if np.random.rand() < 0.5 else -1) + random.random()


def test_generators_of_numpy_and_python_are_known_too():
    images, net = torch.rand(1, 3, 4, 4), Expectation(Switched(), 4)
    state = np.random.get_state()[1].tolist(), random.getstate()
    first = [net(images) for _ in range(3)]
    assert state == (np.random.get_state()[1].tolist(), random.getstate())
    assert len({float(one.detach().sum()) for one in first}) == 3
    np.random.seed(99)
    random.seed(99)
    net.begin(0)
    assert all(torch.equal(net(images), one) for one in first)


def test_batches_are_reported_under_draws_of_their_own(tmp_path):
    model = Segmenter.wrap(Switched(), num_classes=K, name="switched").eval()
    source = ToySource(12)
    for sample in source.samples:
        sample.label.copy_(model.net.rule(sample.image[None]).argmax(1)[0])
    evaluate(model, source, eot=2, work_dir=tmp_path, batch_size=1, **PLAIN)
    rows = [row for row in flat_rows(tmp_path) if row["name"] == "clean"]
    right = [sum(row["tp"]) for row in rows if not sum(row["fn"])]
    assert len(rows) == 12 and 0 < len(right) < 12


def test_rows_of_a_randomised_model_are_the_same_in_every_start(tmp_path):
    for name in ("one", "two"):
        torch.manual_seed(len(lines(tmp_path / "one")))
        evaluate(shaken(), ToySource(), eot=4, work_dir=tmp_path / name, batch_size=3, **PLAIN)
    assert lines(tmp_path / "one") == lines(tmp_path / "two") != []
    assert json.loads((tmp_path / "one" / "run.json").read_text())["identity"]["eot"] == 4
    rows = flat_rows(tmp_path / "one")
    steps = build_attack("CosPGD", eps="8/255", steps=5).passes()
    assert {row["backwards"] for row in rows if row["name"] == "CosPGD"} == {4 * steps[1]}
    with pytest.raises(UserError, match="eot"):
        evaluate(shaken(), ToySource(), eot=1, work_dir=tmp_path / "one", batch_size=3, **PLAIN)


class Dropped(nn.Module):
    """Draws in every forward, in whatever mode."""

    num_classes = K

    def __init__(self) -> None:
        super().__init__()
        self.rule = PixelLinear(K)

    def forward(self, images: Tensor) -> Tensor:
        shift = 0.1 * np.random.rand() + 0.1 * random.random()
        return self.rule(F.dropout(images, 0.3, training=True) + shift * torch.rand_like(images))


def generators() -> tuple:
    return torch.random.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()


def seed_all(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


@pytest.mark.parametrize("attacks", [["CosPGD"], ["FMN", "FGSM"]])
def test_without_eot_too_every_start_draws_the_same_and_leaves_the_generators_alone(tmp_path, attacks, monkeypatch):
    settings = {**PLAIN, "attacks": attacks, "batch_size": 3, "pictures": False}

    def start(name: str, seed: int) -> None:
        model, source = Segmenter.wrap(Dropped(), num_classes=K), ToySource()
        seed_all(seed)
        before = generators()
        evaluate(model, source, work_dir=tmp_path / name, **settings)
        assert generators() == before

    start("one", 1)
    start("two", 2)
    plain, begun = Executor.rows, []

    def stopping(self, study, batch):
        begun.append(study)
        if len(begun) == 5:
            raise KeyboardInterrupt
        return plain(self, study, batch)

    monkeypatch.setattr(Executor, "rows", stopping)
    with pytest.raises(KeyboardInterrupt):
        start("resumed", 3)
    start("resumed", 4)
    assert lines(tmp_path / "one") == lines(tmp_path / "two") == lines(tmp_path / "resumed") != []
    clean = [row for row in flat_rows(tmp_path / "one") if row["name"] == "clean"]
    seed_all(0)
    evaluate(Segmenter.wrap(Dropped(), num_classes=K), ToySource(), work_dir=tmp_path / "other", seed=1, **settings)
    other = [row for row in flat_rows(tmp_path / "other") if row["name"] == "clean"]
    assert [row["tp"] for row in clean] != [row["tp"] for row in other]  # the seed decides, and the model does draw


def test_a_wrong_number_of_draws(tmp_path, capsys):
    with pytest.raises(UserError, match="eot"):
        evaluate(shaken(), ToySource(), eot=0, work_dir=tmp_path, **PLAIN)
    assert main(["evaluate", "x", "--eot", "0"]) == 2
    assert "--eot" in capsys.readouterr().err
