"""Training and its validation with replayed passes: the same numbers, and when there is a graph."""

from __future__ import annotations

import pytest

from segrobust.commands.training import train
from segrobust.models import replayed
from segrobust.models.replayed import EAGER_CALLS
from tests.hooks.toys import PGD, history, same, state_of, toy_config, with_validation
from tests.models.replaying import stand_in


@pytest.fixture
def capture(monkeypatch):
    """In place of CUDA graphs, on any device."""
    capture = stand_in()
    monkeypatch.setattr(replayed, "CudaCapture", capture)
    return capture


def trained(folder, attack, cuda_graphs=True, iters=4, **changes):
    hook = dict(type="AdversarialTrainingHook", attack=attack, cuda_graphs=cuda_graphs)
    return train(toy_config(hook, attack=None, iters=iters, **changes), work_dir=folder)


ALMA = dict(type="ALMAProx", steps=4, eps_max="8/255", target_apsr=0.5)


@pytest.mark.parametrize("attack", [PGD, ALMA], ids=["PGD", "ALMAProx"])
def test_the_training_is_the_same(tmp_path, capture, attack):
    plain = trained(tmp_path / "plain", attack, cuda_graphs=False)
    assert capture.told == []
    graphs = trained(tmp_path / "graphs", attack)
    assert same(state_of(plain.model)["tensors"], state_of(graphs.model)["tensors"])
    assert history(plain, "adv_pixel_error") == history(graphs, "adv_pixel_error")
    assert capture.told.count("captured") == 1  # weights change in place
    assert capture.told.count("backward") > 4


def test_under_autocast_too(tmp_path, capture):
    half = dict(optim_wrapper=dict(type="CpuAutocast", optimizer=dict(type="SGD", lr=0.05)))
    plain, graphs = (trained(tmp_path / str(on), PGD, on, **half) for on in (False, True))
    assert same(state_of(plain.model)["tensors"], state_of(graphs.model)["tensors"])
    assert capture.told.count("captured") == 1 and capture.told.count("backward") > 4


def test_the_first_iteration_is_eager_so_that_the_memory_of_a_training_step_is_known(tmp_path, capture):
    trained(tmp_path / "one", PGD | {"steps": EAGER_CALLS + 2}, iters=1)
    assert capture.told == []
    trained(tmp_path / "two", PGD | {"steps": EAGER_CALLS + 2}, iters=2)
    assert capture.told.count("captured") == 1


def test_validation_gives_the_same_and_holds_no_memory_afterwards(tmp_path, capture):
    scores = []
    for on in (False, True):
        config = with_validation(toy_config(attack=None), cuda_graphs=on)
        config.custom_hooks[-1].attack.steps = EAGER_CALLS + 4
        runner = train(config, work_dir=tmp_path / str(on))
        scores.append([runner.message_hub.get_scalar(f"val/robust/{name}").current() for name in ("mIoU", "aAcc")])
        assert scores[-1][0] > 0 and ("captured" in capture.told) == on
    assert scores[0] == scores[1]
    assert capture.told.count("captured") == capture.told.count("released") >= 2


def test_validation_with_averaged_weights_leaves_the_graph_of_training_alone(tmp_path, capture):
    hook = dict(type="AdversarialTrainingHook", attack=PGD | {"steps": 6})
    ema = dict(type="EMAHook", momentum=0.2)
    train(with_validation(toy_config(hook, ema, attack=None), num_images=2), work_dir=tmp_path)
    assert capture.told.count("captured") == 1
