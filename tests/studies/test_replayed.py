"""Who is attacked by replayed passes: one model, kept for the run, where it is of use and nothing else counts calls."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from segrobust import Segmenter
from segrobust.attacks import build_attack
from segrobust.core.errors import UserError
from segrobust.models import replayed
from segrobust.models.replayed import Replayed
from segrobust.runs import batch_size
from segrobust.runs.executor import Executor
from segrobust.runs.settings import Settings
from segrobust.studies.attack import AttackStudy
from segrobust.studies.bench import Bench
from tests.models.replaying import stand_in
from tests.runs.toy_run import K, ToySource, toy_model


@pytest.fixture
def capture(monkeypatch):
    """In place of CUDA graphs, for a bench that believes to be on a GPU."""
    capture = stand_in()
    monkeypatch.setattr(replayed, "CudaCapture", capture)
    monkeypatch.setattr(Bench, "_on_cuda", property(lambda bench: True))
    return capture


def test_one_replayed_model_for_the_whole_run(capture):
    bench, surrogate = Bench(toy_model(), ToySource()), toy_model()
    assert isinstance(bench.attacked([0]), Replayed) and bench.attacked([0]) is bench.attacked([1])
    other = bench.attacked([0], surrogate)
    assert isinstance(other, Replayed) and other is bench.attacked([1], surrogate) is not bench.attacked([0])
    assert dict(other.named_modules())[""] is surrogate


def test_where_it_is_of_no_use_it_is_the_model(capture):
    model = toy_model()
    assert Bench(model, ToySource(), cuda_graphs=False).attacked([0]) is model
    assert not isinstance(Bench(model, ToySource(), eot=2).attacked([0]), Replayed)
    model.checkpointing = True
    assert Bench(model, ToySource()).attacked([0]) is model


def test_on_a_cpu_it_is_the_model():
    model = toy_model()
    assert Bench(model, ToySource()).attacked([0]) is model


def study():
    return AttackStudy("PGD", build_attack("CEPGD", eps="4/255", steps=12), (4 / 255,))


def test_rows_are_the_same_and_no_identity_knows(capture):
    found = []
    for on in (True, False):
        bench = Bench(toy_model(), ToySource(), cuda_graphs=on)
        group = bench.groups({i: bench.source[i] for i in range(2)})[0]
        found.append([one.images for one in study().perturbed(bench, group)])
        assert ("backward" in capture.told) == on
        capture.told.clear()
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert Settings.of(cuda_graphs=False).identity() == Settings.of().identity()


def test_trials_of_memory_are_eager(capture):
    bench = Bench(toy_model(), ToySource())
    assert batch_size._fits(bench, study(), 0, 2)
    assert capture.told == []


class Full(torch.nn.Module):
    """Has no memory for a forward that is reported while a graph is there."""

    def __init__(self, told):
        super().__init__()
        self.net, self.told = toy_model().net, told

    def forward(self, images):
        graphs = self.told.count("captured") - self.told.count("released")
        if graphs and not torch.is_grad_enabled():
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.net(images)


def test_graphs_make_room_where_memory_is_full(capture, caplog):
    caplog.set_level("INFO")
    rows, batch = {}, range(1, 3)
    for on in (False, True):
        model = Segmenter.wrap(Full(capture.told), num_classes=K).eval()
        bench = Bench(model, ToySource(), cuda_graphs=on)
        rows[on], *_ = Executor(bench, [study()], None, 2)._measured(study(), batch)
        assert bench.cuda_graphs is False
    assert rows[True] == rows[False]
    assert capture.told.count("captured") == capture.told.count("released") == 1
    assert caplog.text.count("attacks do without CUDA graphs") == 1


def test_without_graphs_full_memory_is_told(capture):
    capture.told.append("captured")
    bench = Bench(Segmenter.wrap(Full(capture.told), num_classes=K).eval(), ToySource())
    with pytest.raises(UserError, match="out of memory with batches of 2"):
        Executor(bench, [study()], None, 2)._measured(study(), range(1, 3))


def test_what_graphs_hold_counts_as_memory(capture):
    bench = Bench(toy_model(), ToySource())
    assert bench.held_by_graphs == 0 and not bench.give_graphs_up()
    bench = Bench(toy_model(), ToySource())
    bench.attacked([0])
    (replayed_model,) = bench._replayed.values()
    replayed_model._graphs = {n: SimpleNamespace(passes=SimpleNamespace(held=n)) for n in (3, 4)}
    assert bench.held_by_graphs == 7
