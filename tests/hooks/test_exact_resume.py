"""A resumed training continues bitwise, whatever the number of workers; and the parts that make it so."""

from __future__ import annotations

import itertools
import random
import shutil
import warnings

import numpy as np
import pytest
import torch
from mmengine.dataset import InfiniteSampler
from mmengine.hooks import Hook
from mmengine.registry import DATA_SAMPLERS, HOOKS
from mmengine.runner import CheckpointLoader

from segrobust.commands.training import train
from segrobust.core.errors import UserError
from segrobust.datasets.seeded import SeededDataset, SeededInfiniteSampler
from segrobust.models.deterministic import deterministic
from tests.hooks.toys import PGD, SignSearch, ToyScenes, same, toy_config, with_validation
from tests.models.test_deterministic import ALERT, GPU

KEPT = ("state_dict", "ema_state_dict", "optimizer", "param_schedulers")
ATTACKS = {
    "bounded": PGD,
    "minimum norm": SignSearch(eps_max=8 / 255, target_apsr=0.3, step=2 / 255),
    "ALMA-prox": dict(type="ALMAProx", steps=3, eps_max="8/255", step_size="4/255", target_apsr=0.3),
}
NORMS = dict(type="RobustValidationHook", attack=SignSearch(apsr=0.6), num_images=3, interval=2)


def run(folder, workers=0, exact=True, resume=False, attack=PGD):
    """Six iterations with augmentation, dropout, momentum, averaging and attacks; the checkpoint of the last."""
    hooks = [dict(type="EMAHook", momentum=0.1), NORMS] + [dict(type="ReseedHook")] * exact
    config = with_validation(toy_config(*hooks, iters=6, attack=attack), num_images=2)
    dataset = dict(type="ToyScenes", augment=True)
    if exact:
        config.train_dataloader.sampler = dict(type="SeededInfiniteSampler")
        dataset = dict(type="SeededDataset", dataset=dataset)
    config.train_dataloader.update(dataset=dataset, num_workers=workers)
    config.default_hooks.checkpoint.interval = 3
    train(config, work_dir=folder, resume=resume)
    checkpoint = CheckpointLoader.load_checkpoint(str(folder / "iter_6.pth"), map_location="cpu")
    return {key: checkpoint[key] for key in KEPT}


def resumed(source, folder, **options):
    """The same training, stopped after three iterations (by leaving nothing later behind) and resumed."""
    folder.mkdir()
    shutil.copy(source / "iter_3.pth", folder)
    (folder / "last_checkpoint").write_text(str(source / "iter_3.pth"))
    return run(folder, resume=True, **options)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    return folder, run(folder)


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
@pytest.mark.parametrize("workers", [0, 2])
def test_resume_continues_bitwise(straight, tmp_path, workers, attack):
    folder, expected = straight if attack is PGD else (tmp_path / "straight", run(tmp_path / "straight", attack=attack))
    found = resumed(folder, tmp_path / "resumed", workers=workers, attack=attack)
    for key in KEPT:
        assert same(found[key], expected[key]), key


def test_workers_change_nothing(straight, tmp_path):
    assert same(run(tmp_path, workers=2), straight[1])


def test_so_it_does_with_the_forms_for_a_gpu(straight, tmp_path, monkeypatch):
    """A stand-in for a GPU: what torch would not repeat there is exchanged, in the attack and in the step."""
    entered = lambda device, enabled: deterministic(GPU, enabled)  # noqa: E731
    monkeypatch.setattr("segrobust.commands.training.repeating_on", entered)
    expected = run(tmp_path / "straight")
    assert not same(expected["state_dict"], straight[1]["state_dict"])
    found = resumed(tmp_path / "straight", tmp_path / "resumed")
    assert same(found, expected)
    weights = [
        torch.cat([one.flatten().float() for one in of["state_dict"].values()]) for of in (expected, straight[1])
    ]
    assert (weights[0] - weights[1]).abs().max() < 0.05 * weights[1].abs().max()


def test_operations_without_a_deterministic_form_are_named_once(tmp_path, monkeypatch):
    @HOOKS.register_module(force=True)
    class AlertingHook(Hook):
        priority = "HIGH"

        def after_train_iter(self, runner, *given, **more):
            warnings.warn(ALERT.format("max_unpooling2d_forward_out_cuda"), stacklevel=1)

    monkeypatch.setattr("segrobust.commands.training.repeating_on", lambda device, enabled: deterministic(GPU, enabled))
    train(toy_config(dict(type="AlertingHook"), iters=3), tmp_path)
    (log,) = tmp_path.glob("*/*.log")
    assert log.read_text().count("no deterministic form of max_unpooling2d_forward on this GPU") == 1


def test_the_test_would_notice(tmp_path, monkeypatch):
    """mmengine's own sampler and no reseeding: the resumed run differs."""
    monkeypatch.setattr("segrobust.commands.training.make_exact", lambda config: [])
    monkeypatch.setattr("segrobust.commands.training.complete", lambda runner, reasons: None)
    expected = run(tmp_path / "straight", exact=False)
    found = resumed(tmp_path / "straight", tmp_path / "resumed", exact=False)
    assert not same(found["state_dict"], expected["state_dict"])


@DATA_SAMPLERS.register_module()
class OtherSampler(InfiniteSampler):
    pass


def draws(sampler, count):
    return list(itertools.islice(sampler, count))


def sampler_of(length=5, **options):
    return SeededInfiniteSampler(SeededDataset(ToyScenes(length)), **{"seed": 0, **options})


def test_every_pass_visits_every_image_once_in_a_new_order():
    passes = np.array([draw.index for draw in draws(sampler_of(), 50)]).reshape(10, 5)
    assert (np.sort(passes, axis=1) == np.arange(5)).all()
    assert len({tuple(order) for order in passes.tolist()}) > 5
    assert [draw.index for draw in draws(sampler_of(shuffle=False), 7)] == [0, 1, 2, 3, 4, 0, 1]


def test_every_visit_has_its_own_seed():
    assert len({draw.seed for draw in draws(sampler_of(), 500)}) == 500
    assert draws(sampler_of(), 20) != draws(sampler_of(seed=1), 20)


@pytest.mark.parametrize("skipped", [0, 1, 5, 13, 10_000_001])
def test_skip_jumps_to_the_same_stream(skipped):
    sampler = sampler_of()
    sampler.skip(skipped)
    if skipped < 100:
        assert draws(sampler, 12) == draws(sampler_of(), skipped + 12)[skipped:]
    else:
        other = sampler_of()
        other.skip(skipped - 4)
        assert draws(sampler, 8) == draws(other, 12)[4:]


def test_processes_share_one_stream():
    whole = draws(sampler_of(), 40)
    for rank in range(3):
        sampler = sampler_of()
        sampler.rank, sampler.world_size = rank, 3
        assert draws(sampler, 10) == whole[rank:30:3]
        sampler.skip(4)
        assert draws(sampler, 6) == whole[rank:30:3][4:]


def test_an_item_depends_on_its_draw_alone_and_disturbs_nothing():
    data = SeededDataset(ToyScenes(augment=True))
    draw = draws(sampler_of(), 1)[0]
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    undisturbed = random.random(), np.random.rand(), float(torch.rand(()))
    first = data[draw]["inputs"]
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    second = data[draw]["inputs"]
    assert (random.random(), np.random.rand(), float(torch.rand(()))) == undisturbed
    assert torch.equal(first, second)
    others = [data[draw._replace(seed=seed)]["inputs"] for seed in range(8)]
    assert any(not torch.equal(first, other) for other in others)
    assert len(data) == 6 and data.metainfo["classes"] == ToyScenes.metainfo["classes"]
    assert torch.equal(SeededDataset(dict(type="ToyScenes"))[3]["inputs"], ToyScenes()[3]["inputs"])


def test_incomplete_settings_are_told(tmp_path):
    with pytest.raises(UserError, match=r"expected dataset=dict.type='SeededDataset'.*got ToyScenes"):
        SeededInfiniteSampler(ToyScenes(), seed=0)
    with pytest.raises(UserError, match="randomness=dict"):
        sampler_of(seed=None)
    with pytest.raises(UserError, match=r"SeededInfiniteSampler.*got OtherSampler"):
        train(
            toy_config(dict(type="ReseedHook")), tmp_path, cfg_options={"train_dataloader.sampler.type": "OtherSampler"}
        )
