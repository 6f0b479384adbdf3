"""Free adversarial training: by hand, the batches that come again, and a resume."""

from __future__ import annotations

import itertools
import shutil

import pytest
import torch
from mmengine.runner import CheckpointLoader

from segrobust.commands.training import train
from segrobust.core.errors import UserError
from segrobust.datasets.seeded import SeededDataset, SeededInfiniteSampler
from segrobust.hooks import FreeAdversarialTrainingHook
from tests.hooks.toys import After, Before, ToyScenes, ToySegmentor, history, hook_of, same, state_of, toy_config

EPS = 8 / 255
KEPT = ("state_dict", "optimizer", "free_perturbation")


def config_of(iters=4, replays=2, attack=True, **fields):
    hooks = [dict(type="Before"), dict(type="FreeAdversarialTrainingHook", eps="8/255", replays=replays, **fields)]
    config = toy_config(*(hooks if attack else hooks[:1]), dict(type="After"), attack=None, iters=iters)
    config.train_dataloader.update(
        sampler=dict(type="SeededInfiniteSampler", batch_size=2, repeats=replays),
        dataset=dict(type="SeededDataset", dataset=dict(type="ToyScenes", augment=True)),
    )
    config.model.decode_head.dropout_ratio = 0.0
    config.default_hooks.checkpoint.interval = 3
    return config


def gradients(model, weights, images, samples):
    """Of the training loss to RGB images in [0, 1], at the weights of then."""
    model.load_state_dict(weights)
    model.train()
    leaves = [image.detach().clone().requires_grad_() for image in images]
    data = model.data_preprocessor(dict(inputs=leaves, data_samples=samples), True)
    loss, _ = model.parse_losses(model(**data, mode="loss"))
    return [255 * one[[2, 1, 0]] for one in torch.autograd.grad(loss, leaves)]


@pytest.mark.parametrize(("step_size", "step"), [(None, EPS), ("2/255", 2 / 255)])
def test_the_perturbation_by_hand(tmp_path, monkeypatch, step_size, step):
    """Four iterations on two batches: it starts at zero, ascends once an iteration, and goes on to the next batch."""
    passes, own = [], ToySegmentor.extract_feat
    monkeypatch.setattr(ToySegmentor, "extract_feat", lambda self, x: passes.append(self.training) or own(self, x))
    config = config_of(step_size=step_size)
    config.model.backbone.with_cp = False
    runner = train(config, work_dir=tmp_path)
    assert passes == [True] * 4  # nothing else is spent
    before, after = hook_of(runner, Before), hook_of(runner, After)
    change = [torch.zeros(3, 32, 32)] * 2
    for clean, fed, samples, state in zip(before.images, after.images, before.samples, before.states, strict=True):
        images = [image[[2, 1, 0]].float() / 255 for image in clean]
        points = [torch.clamp(image + one, 0, 1) for image, one in zip(images, change, strict=True)]
        for got, expected in zip(fed, points, strict=True):
            torch.testing.assert_close(got.detach()[[2, 1, 0]] / 255, expected)
        ascent = gradients(runner.model, state["tensors"], fed, samples)
        moved = [point + step * one.sign() for point, one in zip(points, ascent, strict=True)]
        change = [
            torch.clamp(torch.clamp(point, image - EPS, image + EPS), 0, 1) - image
            for point, image in zip(moved, images, strict=True)
        ]
    assert max(one.abs().max() for one in change) > 0.9 * min(EPS, 2 * step)
    assert torch.equal(before.images[0][0], before.images[1][0]) and torch.equal(
        before.images[2][1], before.images[3][1]
    )
    assert not torch.equal(before.images[1][0], before.images[2][0])
    assert history(runner, "adv_eps") == [EPS] * 4


def test_its_first_iteration_is_ordinary_training_and_its_second_is_not(tmp_path):
    for iters, equal in ((1, True), (2, False)):
        free, plain = (train(config_of(iters, attack=on), work_dir=tmp_path / f"{iters} {on}") for on in (True, False))
        assert same(state_of(free.model)["tensors"], state_of(plain.model)["tensors"]) == equal


def test_without_replays_any_sampler_serves(tmp_path):
    config = config_of(iters=2, replays=1)
    config.train_dataloader.sampler = dict(type="InfiniteSampler", shuffle=True)
    runner = train(config, work_dir=tmp_path)
    assert (hook_of(runner, After).images[1][0].detach() - hook_of(runner, Before).images[1][0]).abs().max() > 1


def kept(folder):
    found = CheckpointLoader.load_checkpoint(str(folder / "iter_6.pth"), map_location="cpu")
    return {key: found[key] for key in KEPT}


def test_a_resume_in_the_middle_of_the_replays_is_bitwise(tmp_path):
    train(config_of(iters=6), work_dir=tmp_path / "whole")
    resumed = tmp_path / "resumed"
    resumed.mkdir()
    shutil.copy(tmp_path / "whole" / "iter_3.pth", resumed)
    (resumed / "last_checkpoint").write_text(str(resumed / "iter_3.pth"))
    runner = train(config_of(iters=6), work_dir=resumed, resume=True)
    assert len(hook_of(runner, Before).images) == 3
    assert same(kept(tmp_path / "whole"), kept(resumed))
    assert max(one.abs().max() for one in kept(resumed)["free_perturbation"]) == pytest.approx(EPS, abs=1e-6)


def draws(count, first=0, rank=0, world_size=1, **options):
    sampler = SeededInfiniteSampler(SeededDataset(ToyScenes(5)), seed=0, **options)
    sampler.rank, sampler.world_size = rank, world_size
    sampler.skip(first)
    return list(itertools.islice(sampler, count))


def test_every_batch_comes_so_often_in_a_row():
    plain, repeated = draws(6), draws(18, batch_size=2, repeats=3)
    assert repeated == [*plain[:2] * 3, *plain[2:4] * 3, *plain[4:] * 3]
    assert draws(30, batch_size=4) == draws(30)
    assert draws(11, first=7, batch_size=2, repeats=3) == repeated[7:]


def test_on_two_processes_each_repeats_its_own():
    for rank in (0, 1):
        plain = draws(4, rank=rank, world_size=2)
        assert draws(8, rank=rank, world_size=2, batch_size=2, repeats=2) == [*plain[:2] * 2, *plain[2:] * 2]


@pytest.mark.parametrize(
    "sampler",
    [
        dict(type="InfiniteSampler", shuffle=True),
        dict(type="SeededInfiniteSampler"),
        dict(type="SeededInfiniteSampler", batch_size=3, repeats=2),
        dict(type="SeededInfiniteSampler", batch_size=2, repeats=3),
    ],
)
def test_a_sampler_that_does_not_repeat_batches_so_is_refused(sampler, tmp_path):
    config = config_of()
    config.train_dataloader.sampler = sampler
    with pytest.raises(UserError, match=r"replays=2 needs .*'SeededInfiniteSampler', batch_size=2, repeats=2"):
        train(config, work_dir=tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(replays=0), "replays to be an integer >= 1, got 0"),
        (dict(norm="L7"), "unknown norm .L7."),
        (dict(eps="8"), "8/255"),
        (dict(step_size=4), "4/255"),
    ],
)
def test_wrong_settings_are_told_at_once(fields, message):
    with pytest.raises(UserError, match=message):
        FreeAdversarialTrainingHook(**{"eps": "8/255", **fields})


@pytest.mark.parametrize("name", ["batch_size", "repeats"])
def test_the_sampler_refuses_numbers_below_one(name):
    with pytest.raises(UserError, match=f"expected {name} to be an integer >= 1, got 0"):
        draws(1, **{name: 0})
