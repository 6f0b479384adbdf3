"""``--dry-run``: the passes of a real run, its time and memory from a few of them, and nothing written."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import nn

from segrobust.cli import main
from segrobust.commands.evaluation import evaluate
from segrobust.core.errors import UserError
from segrobust.core.rows import Condition
from segrobust.models.segmenter import Segmenter
from segrobust.runs import memory, trial
from segrobust.runs.estimate import Part, seconds_on
from segrobust.runs.folder import RunFolder
from segrobust.studies.base import Perturbed, Study
from tests.commands.conftest import World
from tests.runs.toy_run import RUN, K, ToySource, toy_model


class Counting(nn.Module):
    """Counts its passes of images, and takes a second for each on a clock that stands still otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.passes, self.clock = toy_model().net, 0, [0.0]

    def _one(self, count: int) -> None:
        self.passes += count
        self.clock[0] += count

    def forward(self, images):
        logits = self.net(images)
        self._one(len(images))
        if logits.requires_grad:
            logits.register_hook(lambda *_: self._one(len(images)))
        return logits


@pytest.fixture
def model(monkeypatch) -> Segmenter:
    net = Counting()
    monkeypatch.setattr(trial.time, "perf_counter", lambda: net.clock[0])
    return Segmenter.wrap(net, num_classes=K, name="toy").eval()


def run(model, folder, source=None, **changes):
    settings = {**RUN, "pictures": False, **changes}
    return evaluate(model, source or ToySource(), work_dir=folder, quiet=True, **settings)


def spent(folder) -> Counter:
    """Passes of images, by what the rows say: those of an attack once, and a forward for every condition."""
    passes = Counter()
    for row in RunFolder(folder).rows():
        one, own = row.condition, row.extra["forwards"] + row.extra["backwards"]
        searched = one.name == "FMN"  # once for all radii
        title = one.name if one.eps is None or searched else f"{one.name} {round(255 * one.eps)}/255"
        again = one.study != "attack" or (searched and one.eps is not None)
        passes[title] += 1 if again else 1 + own
    return passes


ATTACKS = ["TsallisPGD", "SharpPGD(optimiser=pgd)", "FMN", "UniformNoise(samples=3)", "FGSM"]


def files(folder) -> dict:
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def of_one_size(count: int) -> ToySource:
    source = ToySource(2 * count)
    source.samples = [sample for sample in source.samples if len(sample.label) == 16][:count]
    return source


def test_passes_are_those_of_the_real_run_and_nothing_is_written(model, tmp_path):
    dry = run(model, tmp_path / "new", attacks=ATTACKS, steps=20, dry_run=True)
    assert not (tmp_path / "new").exists()
    run(model, tmp_path / "real", attacks=ATTACKS, steps=20)
    assert {one["name"]: one["passes"] for one in dry.table()} == spent(tmp_path / "real")
    assert dry.passes == sum(spent(tmp_path / "real").values())
    assert {one["images"] for one in dry.table()} == {7}


def test_the_time_is_that_of_the_real_run(model, tmp_path):
    """A second for every pass of an image; before its rows a run looks whether gradients repeat, on two images."""
    source, clock = of_one_size(6), model.net.clock
    dry = run(model, tmp_path, source, attacks=ATTACKS, steps=20, dry_run=True)
    began, passes = clock[0], model.net.passes
    run(model, tmp_path, source, attacks=ATTACKS, steps=20)
    took = clock[0] - began
    assert took == model.net.passes - passes == dry.passes + 2 * 2 * 2
    assert dry.seconds == pytest.approx(dry.passes, rel=1e-6)
    assert dry.on(2) == pytest.approx(dry.seconds / 2, rel=1e-6)  # of two batches


def test_a_dry_run_is_a_few_passes(model, tmp_path):
    run(model, tmp_path, attacks=["TsallisPGD"], eps=["1/255", "2/255", "4/255"], steps=300, dry_run=True)
    assert model.net.passes < 100


def test_smaller_images_take_less(model, tmp_path):
    """Of seven images three have 12x12 pixels; two of 16x16 are timed."""
    dry = run(model, tmp_path, attacks=["TsallisPGD"], eps=["1/255"], steps=20, dry_run=True)
    mean = (4 * 16 * 16 + 3 * 12 * 12) / 7
    assert dry.seconds == pytest.approx(dry.passes * mean / (16 * 16), rel=1e-6)


def test_a_resumed_run_counts_what_is_missing_alone(model, tmp_path, capsys):
    run(model, tmp_path, attacks=["UniformNoise"], eps=["2/255"])
    before = files(tmp_path)
    dry = run(model, tmp_path, attacks=["UniformNoise"], eps=["2/255", "8/255"], dry_run=True)
    assert [(one["name"], one["images"]) for one in dry.table()] == [("UniformNoise 8/255", 7)]
    same = {"attacks": ["UniformNoise"], "eps": ["2/255"], "dry_run": True}
    evaluate(model, ToySource(), work_dir=tmp_path, **{**RUN, "pictures": False, **same})
    assert capsys.readouterr().out == "dry run: nothing is missing, everything is computed already\n"
    grown = run(model, tmp_path, ToySource(9), **same)
    assert [(one["name"], one["images"], one["passes"]) for one in grown.table()] == [
        ("clean", 2, 2),
        ("UniformNoise 2/255", 2, 4),
    ]
    assert run(model, tmp_path, fresh=True, **same).passes == 7 + 7 * 2
    with pytest.raises(UserError, match="seed is 0 there and 6 here"):
        run(model, tmp_path, seed=6, **same)
    assert files(tmp_path) == before


def test_checks_and_pictures_have_their_share(model, tmp_path):
    """The checks' passes are told before the run within a sixth of those that they take."""
    more = {"attacks": ["TsallisPGD", "CosPGD"], "eps": ["8/255"], "steps": 20, "checks": True}
    dry = run(model, tmp_path, of_one_size(16), pictures=True, dry_run=True, **more)
    parts = {one["name"]: one for one in dry.table()}
    run(model, tmp_path, of_one_size(16), **{**more, "checks": False})
    before = model.net.passes
    run(model, tmp_path, of_one_size(16), **more)
    checked = model.net.passes - before
    assert parts["trust checks"]["passes"] == pytest.approx(checked, rel=1 / 6)
    run(model, tmp_path, of_one_size(16), pictures=True, **more)
    assert parts["pictures"]["passes"] == model.net.passes - before - checked and parts["pictures"]["images"] == 3
    assert not run(model, tmp_path, of_one_size(16), pictures=True, dry_run=True, **more).parts


def test_every_draw_and_every_fit_counts(model, tmp_path):
    plain = run(model, tmp_path, attacks=["CEPGD"], eps=["1/255"], steps=20, dry_run=True)
    draws = run(model, tmp_path, attacks=["CEPGD"], eps=["1/255"], steps=20, eot=3, dry_run=True)
    reported = 2 * 7
    assert draws.passes - reported == 3 * (plain.passes - reported)
    assert draws.seconds / draws.passes == pytest.approx(plain.seconds / plain.passes)
    fit_on = of_one_size(4)
    fitted = {"attacks": [], "universal": ["perturbation(epochs=5)"], "fit_on": fit_on, "eps": ["8/255"]}
    dry = run(model, tmp_path, ToySource(9, salt=1), dry_run=True, **fitted)
    assert [(one["images"], one["passes"]) for one in dry.table()] == [(9, 9), (0, 2 * 5 * 4), (9, 2 * 9)]
    assert dry.table()[1]["seconds"] == pytest.approx(2 * 5 * 4)


class OwnStudy(Study):
    """Shows the images at a brightness that it must know before."""

    conditions, passes = (Condition("brightness", "half"),), 1

    def __init__(self, clock) -> None:
        self.clock, self.factor = clock, None

    def fit(self, bench) -> None:
        self.clock[0] += 50
        self.factor = 0.5

    def perturbed(self, bench, group):
        yield Perturbed(self.conditions[0], group.images * self.factor, [{}] * len(group.ids))


def test_studies_that_ask_the_model_nothing_else(model, tmp_path):
    own = OwnStudy(model.net.clock)
    dry = run(model, tmp_path, of_one_size(4), attacks=[], studies=[own], checks=True, dry_run=True)
    parts = [(one["name"], one["passes"], one["seconds"]) for one in dry.table()]
    checks = 6 * 4 + 4 + 6 * 4 + 10
    assert parts == [("clean", 4, 4), ("fit of half", 0, 50), ("half", 4, 4), ("trust checks", checks, checks)]


def test_processes_take_every_so_manieth_batch_and_all_fit():
    shared = Part("CEPGD", 10, 100, 30.0, batches=(0, 1, 2))
    parts = [shared, Part("clean", 4, 4, 4.0, batches=(2,)), Part("fit", 0, 5, 1.0), Part("trust checks", 3, 9, 2.0)]
    assert [seconds_on(parts, count) for count in (1, 2, 3, 8)] == [37, 27, 17, 17]


def test_memory_is_the_most_since_it_was_forgotten():
    cpu = torch.device("cpu")
    torch.ones(64 * 2**20)  # 256 MiB, given back
    memory.reset_peak(cpu)
    low = memory.peak_bytes(cpu)
    torch.ones(32 * 2**20)
    assert 100 * 2**20 < memory.peak_bytes(cpu) - low < 200 * 2**20


def test_what_does_not_fit_is_told_before(model, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1000)
    with pytest.raises(UserError, match="clean: the logits of 2 images of 16x16 with 4 classes take"):
        run(model, tmp_path / "new", dry_run=True)
    assert not (tmp_path / "new").exists()


def test_from_the_command_line(world: World, finished, tmp_path, capsys):
    before = files(finished)
    assert main(world.evaluate(finished, "--eps", "1/255", "2/255", "--dry-run")) == 0
    told, progress = capsys.readouterr()
    assert progress.startswith("dry run: 0/1 studies\n")
    assert "CEPGD 2/255" in told and "CEPGD 1/255" not in told and "8 processes" in told and "GiB" in told
    assert files(finished) == before
    assert main(world.evaluate(tmp_path / "new", "--dry-run", checks=True)) == 0
    told = [" ".join(line.split()[:4]) for line in capsys.readouterr().out.splitlines()]
    assert "clean 4 4" in [line.rpartition(" ")[0] for line in told] and any(
        one.startswith("pictures 3 ") for one in told
    )
    assert not (tmp_path / "new").exists()
