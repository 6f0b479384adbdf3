"""A training with any config, stopped and resumed, ends as in one go; where not, one line says why."""

from __future__ import annotations

import copy
import itertools
import shutil
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.hooks import CheckpointHook
from mmengine.registry import DATA_SAMPLERS, DATASETS, LOOPS
from mmengine.runner import CheckpointLoader, IterBasedTrainLoop

from segrobust.commands.training import train
from segrobust.datasets.seeded import Draw, SeededDataset, SeededSampler
from segrobust.hooks import EqualBuffersHook
from segrobust.hooks.exact_resume import ExactResumeHook, make_exact
from tests.hooks.toys import ToyScenes, same, toy_config

KEPT = ("state_dict", "optimizer", "param_schedulers")
ITERATIONS = dict(type="IterBasedTrainLoop", max_iters=6, val_interval=100)
EPOCHS = dict(by_epoch=True, max_epochs=2)  # of three iterations each: five images, two at a time


@pytest.fixture(autouse=True)
def on_the_cpu_without_waiting(monkeypatch):
    """Not every operation of a GPU repeats itself; mmengine waits after a pass, torch for its workers to end."""
    monkeypatch.setattr("mmengine.runner.runner.get_device", lambda: "cpu")
    monkeypatch.setattr("mmengine.runner.loops.time.sleep", lambda _: None)
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.2)


def ordinary(loop=ITERATIONS, sampler="InfiniteSampler", interval=4, by_epoch=False, **changes):
    """A config as mmseg's: nothing in it is ours but the data. Five images, so that batches end in different places."""
    config = toy_config(attack=None)
    config.train_cfg = copy.deepcopy(loop)
    config.train_dataloader.dataset = dict(type="ToyScenes", length=5, augment=True)
    config.train_dataloader.sampler = dict(type=sampler, shuffle=True)
    config.default_hooks.checkpoint = dict(type="CheckpointHook", by_epoch=by_epoch, interval=interval)
    config.merge_from_dict(changes)
    return config


def resume_in(folder, source, name):
    """The folder of a training that was stopped after its checkpoint ``name`` (by leaving nothing later behind)."""
    folder.mkdir()
    shutil.copy(source / name, folder)
    (folder / "last_checkpoint").write_text(name)
    return folder


def ends_of(folder, config, stopped_at, last):
    """What the training leaves behind in one go, and after a stop at a checkpoint."""
    train(config, work_dir=folder / "straight")
    train(config, work_dir=resume_in(folder / "resumed", folder / "straight", stopped_at), resume=True)
    names = ("straight", "resumed")
    ends = [CheckpointLoader.load_checkpoint(str(folder / name / last), map_location="cpu") for name in names]
    return [{key: end[key] for key in KEPT} for end in ends]


LOOPS_AND_SAMPLERS = {
    "iterations": (dict(), "iter_4.pth", "iter_6.pth"),
    "iterations, workers": ({"train_dataloader.num_workers": 2}, "iter_4.pth", "iter_6.pth"),
    "iterations without the way back": ({"train_cfg.fast_forward_on_resume": True}, "iter_4.pth", "iter_6.pth"),
    "passes": (dict(sampler="DefaultSampler"), "iter_4.pth", "iter_6.pth"),
    "passes, whole batches": (
        dict(sampler="DefaultSampler", **{"train_dataloader.drop_last": True}),
        "iter_4.pth",
        "iter_6.pth",
    ),
    "epochs": (dict(loop=EPOCHS, sampler="DefaultSampler", interval=1, by_epoch=True), "epoch_1.pth", "epoch_2.pth"),
    "within an epoch": (dict(loop=EPOCHS, sampler="DefaultSampler", interval=2), "iter_4.pth", "iter_6.pth"),
    "at its end": (dict(loop=EPOCHS, sampler="DefaultSampler", interval=3), "iter_3.pth", "iter_6.pth"),
    "within an epoch, workers": (
        dict(loop=EPOCHS, sampler="DefaultSampler", interval=2, **{"train_dataloader.num_workers": 2}),
        "iter_2.pth",
        "iter_6.pth",
    ),
    "summed gradients": ({"optim_wrapper.accumulative_counts": 3}, "iter_4.pth", "iter_6.pth"),
    "no seed": ({"randomness.seed": None}, "iter_4.pth", "iter_6.pth"),
    "a seed for each process": ({"randomness.diff_rank_seed": True}, "iter_4.pth", "iter_6.pth"),
    "our sampler alone": (dict(sampler="SeededInfiniteSampler"), "iter_4.pth", "iter_6.pth"),
    "one epoch's share": (
        dict(loop=EPOCHS, sampler="DefaultSampler", interval=2, **{"train_dataloader.num_batch_per_epoch": 2}),
        "iter_2.pth",
        "iter_4.pth",
    ),
}


@pytest.mark.parametrize(("changes", "stopped_at", "last"), LOOPS_AND_SAMPLERS.values(), ids=LOOPS_AND_SAMPLERS)
def test_an_ordinary_config_resumes_bitwise(tmp_path, capfd, changes, stopped_at, last):
    straight, resumed = ends_of(tmp_path, ordinary(**changes), stopped_at, last)
    for key in KEPT:
        assert same(straight[key], resumed[key]), key
    assert "bitwise" not in capfd.readouterr().out


def test_a_config_object_is_left_as_it_was(tmp_path):
    config = ordinary()
    before = copy.deepcopy(config.to_dict())
    train(config, work_dir=tmp_path)
    assert config.to_dict() == before


def test_the_seed_is_that_of_the_checkpoint(tmp_path, caplog):
    config = ordinary()
    train(config, work_dir=tmp_path / "straight")
    folder = resume_in(tmp_path / "resumed", tmp_path / "straight", "iter_4.pth")
    train(config, work_dir=folder, resume=True, cfg_options={"randomness.seed": 7})
    assert "going on with the seed of the checkpoint, 0, and not with the config's, 7" in caplog.text
    ends = [torch.load(tmp_path / name / "iter_6.pth", weights_only=False) for name in ("straight", "resumed")]
    assert same(*(dict(end["state_dict"]) for end in ends))


def test_another_batch_size_is_told(tmp_path, capfd):
    train(ordinary(), work_dir=tmp_path / "straight")
    folder = resume_in(tmp_path / "resumed", tmp_path / "straight", "iter_4.pth")
    train(ordinary(), work_dir=folder, resume=True, cfg_options={"train_dataloader.batch_size": 3})
    assert "the checkpoint was written with batch_size=2, this training has 3" in capfd.readouterr().out


@DATA_SAMPLERS.register_module()
class HomeMadeSampler(DefaultSampler):
    pass


@LOOPS.register_module()
class HomeMadeLoop(IterBasedTrainLoop):
    pass


@DATASETS.register_module()
class OwnRandomScenes(ToyScenes):
    """Its augmentation does not listen to anybody's seed."""

    own = np.random.default_rng(0)

    def __getitem__(self, index):
        item = super().__getitem__(index)
        return item | {"inputs": item["inputs"].roll(int(self.own.integers(1000)), -1)}


REASONS = {
    "sampler": (
        lambda c: c.train_dataloader.sampler.update(type="HomeMadeSampler"),
        "the sampler HomeMadeSampler is not",
    ),
    "batches": (
        lambda c: c.train_dataloader.update(batch_sampler=dict(type="HomeMadeBatches")),
        "the batch sampler HomeMadeBatches is not",
    ),
    "loop": (lambda c: c.train_cfg.update(type="HomeMadeLoop"), "the loop HomeMadeLoop is not"),
    "schedule": (
        lambda c: c.param_scheduler.append(dict(type="ReduceOnPlateauLR", monitor="loss")),
        "what ReduceOnPlateauLR remembers of past validations is not in the checkpoints",
    ),
    "stopping": (
        lambda c: c.custom_hooks.append(dict(type="EarlyStoppingHook", monitor="mIoU")),
        "what EarlyStoppingHook remembers of past validations",
    ),
}


@pytest.mark.parametrize(("change", "reason"), REASONS.values(), ids=REASONS)
def test_what_cannot_be_exact_is_named(change, reason):
    config = ordinary()
    assert make_exact(config) == []
    config = ordinary()
    change(config)
    (told,) = make_exact(config)
    assert told.startswith(reason)


def test_one_line_at_the_start_says_why_a_resume_will_differ(tmp_path, capfd):
    """A sampler that nobody knows is used as it is; nothing seeded is put around it."""
    config = ordinary(sampler="HomeMadeSampler", **{"train_cfg.max_iters": 1})
    runner = train(config, work_dir=tmp_path)
    assert type(runner.train_dataloader.sampler) is HomeMadeSampler
    (line,) = [line for line in capfd.readouterr().out.splitlines() if "bitwise" in line]
    _, _, told = line.partition("WARNING - ")
    reason = "the sampler HomeMadeSampler is not known to repeat itself"
    assert told == f"a resumed training will not be bitwise the same: {reason}"


def test_a_pipeline_with_random_numbers_of_its_own_is_noticed(tmp_path, capfd):
    config = ordinary(**{"train_cfg.max_iters": 1, "train_dataloader.dataset.type": "OwnRandomScenes"})
    train(config, work_dir=tmp_path)
    assert "the pipeline has random numbers of its own" in capfd.readouterr().out


@pytest.mark.parametrize(("interval", "by_epoch", "told"), [(3, False, True), (4, False, False), (1, True, True)])
def test_sums_of_gradients_on_several_processes_need_a_fitting_interval(interval, by_epoch, told):
    """Three iterations are an epoch, and every two are summed: rank 0 could save its own part only."""
    runner = SimpleNamespace(
        hooks=[CheckpointHook(interval=interval, by_epoch=by_epoch)],
        world_size=2,
        rank=0,
        train_dataloader=torch.utils.data.DataLoader(ToyScenes(5), batch_size=2),
        optim_wrapper=SimpleNamespace(_accumulative_counts=2),
        model=torch.nn.Conv2d(1, 1, 1),
        logger=Mock(),
    )
    ExactResumeHook([]).before_train(runner)
    calls = runner.logger.warning.mock_calls
    assert [("choose their interval a multiple of 2" in str(call)) for call in calls] == [True] * told


def indices(sampler, count=None):
    return [draw.index if isinstance(draw, Draw) else draw for draw in itertools.islice(sampler, count)]


def seeded_sampler(kind, drop_last=False, length=7, **options):
    settings = dict(type=kind, **options)
    return SeededSampler(SeededDataset(ToyScenes(length)), settings, batch_size=2, drop_last=drop_last, seed=5)


def test_the_order_is_that_of_the_configs_sampler():
    endless = InfiniteSampler(ToyScenes(7), seed=5)
    assert indices(seeded_sampler("InfiniteSampler"), 30) == indices(endless, 30)
    sampler, mmengines = seeded_sampler("DefaultSampler"), DefaultSampler(ToyScenes(7), seed=5)
    assert len(sampler) == 7
    for epoch in range(3):
        sampler.set_epoch(epoch), mmengines.set_epoch(epoch)
        assert indices(sampler) == indices(mmengines)


@pytest.mark.parametrize("done", [0, 1, 6, 11])
def test_skip_of_endless_draws_goes_to_the_same_stream(done):
    sampler, whole = seeded_sampler("InfiniteSampler"), list(itertools.islice(seeded_sampler("InfiniteSampler"), 30))
    sampler.skip(2 * done)
    assert list(itertools.islice(sampler, 30 - 2 * done)) == whole[2 * done :]


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("done", [0, 1, 3, 4, 9])
def test_skip_of_passes_counts_batches(done, drop_last):
    """Seven images, two at a time: four batches to a pass, or three where the last is dropped."""
    per_pass = 3 if drop_last else 4
    first, inside = divmod(done, per_pass)
    passes = []
    for epoch in (first, first + 1):
        whole = seeded_sampler("DefaultSampler")
        whole.set_epoch(epoch)
        passes.append(list(whole))
    sampler = seeded_sampler("DefaultSampler", drop_last)
    sampler.skip(2 * done)
    assert list(sampler) == passes[0][2 * inside :]
    sampler.set_epoch(1)  # mmengine counts passes from the start of this process
    assert list(sampler) == passes[1]


def test_every_visit_has_its_own_seed():
    sampler, seeds = seeded_sampler("DefaultSampler"), []
    for epoch in range(40):
        sampler.set_epoch(epoch)
        seeds += [draw.seed for draw in sampler]
    assert len(set(seeds)) == len(seeds) == 280


def test_processes_have_their_own_seeds():
    seeds = []
    for rank in range(2):
        sampler = seeded_sampler("InfiniteSampler")
        sampler.rank = sampler.sampler.rank = rank
        sampler.world_size = sampler.sampler.world_size = 2
        seeds += [draw.seed for draw in itertools.islice(sampler, 50)]
    assert len(set(seeds)) == 100


def test_a_seeded_data_set_answers_for_the_one_inside():
    data = SeededDataset(ToyScenes(3))
    assert data.get_data_info(1) == {"img_path": "1.png"}
    assert not hasattr(data, "pipeline")
    assert copy.deepcopy(data).metainfo == ToyScenes.metainfo


def test_buffers_become_the_mean_and_constants_stay(monkeypatch):
    """Three processes; the sum over them is played by a function. Whole numbers and parameters are not touched."""
    norm = torch.nn.BatchNorm2d(2)
    norm.running_mean.copy_(torch.tensor([1.0, 0.1]))
    norm.running_var.copy_(torch.tensor([4.0, 1e-3]))
    norm.num_batches_tracked.fill_(5)

    def sum_of_three(values):
        assert values.dtype == torch.float64
        values *= 3
        values[0] += 6

    monkeypatch.setattr("segrobust.hooks.distributed.all_reduce", sum_of_three)
    EqualBuffersHook().after_train_iter(SimpleNamespace(model=norm, world_size=3), 0)
    assert norm.running_mean.tolist() == torch.tensor([3.0, 0.1]).tolist()
    assert norm.running_var.tolist() == torch.tensor([4.0, 1e-3]).tolist()
    assert (norm.num_batches_tracked, norm.weight.tolist()) == (5, [1.0, 1.0])
