"""From a config to a Runner: what ``train`` makes of its arguments, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from segrobust.commands.training import prepare, train
from segrobust.core.errors import UserError
from segrobust.models.deterministic import deterministic
from tests.hooks.toys import toy_config
from tests.models.test_deterministic import GPU

ARGUMENTS = dict(work_dir=None, resume=False, amp=False, cfg_options=None, launcher="none")


def prepared(config, **changes):
    return prepare(config, **{**ARGUMENTS, **changes})


def test_a_config_file_decides_name_and_work_dir(in_tmp):
    toy_config(iters=1).dump("small_toy.py")
    config = prepared("small_toy.py", cfg_options={"train_cfg.max_iters": 2, "optim_wrapper.optimizer.lr": 0.5})
    assert config.work_dir == str(Path("work_dirs", "small_toy"))
    assert (config.train_cfg.max_iters, config.optim_wrapper.optimizer.lr) == (2, 0.5)
    assert config.experiment_name.startswith("small_toy-")
    assert prepared("small_toy.py", work_dir=Path("there")).work_dir == "there"
    Path("own.py").write_text("_base_ = ['small_toy.py']\nwork_dir = 'mine'\n")
    assert prepared("own.py").work_dir == "mine"


def test_two_trainings_of_one_config_keep_apart(tmp_path):
    config = toy_config(
        iters=2, visualizer=dict(type="SegLocalVisualizer", vis_backends=[dict(type="LocalVisBackend")])
    )
    first, second = (train(config, work_dir=tmp_path / name) for name in "ab")
    assert first.message_hub is not second.message_hub
    for name in "ab":
        (scalars,) = (tmp_path / name).glob("*/vis_data/scalars.json")
        assert len(scalars.read_text().splitlines()) == 2
    assert "work_dir" not in config and "experiment_name" not in config


def test_resume_means_the_last_checkpoint_and_not_load_from(tmp_path):
    config = toy_config(load_from="standard.pth")
    anew = prepared(config, work_dir=tmp_path, resume=True)
    assert (anew.resume, anew.load_from) == (False, "standard.pth")
    torch.save({"state_dict": {}, "meta": {"iter": 5, "seed": 3}}, tmp_path / "iter_5.pth")
    (tmp_path / "last_checkpoint").write_text("/where/it/was/written/iter_5.pth")
    again = prepared(config, work_dir=tmp_path, resume=True)
    assert (again.resume, again.load_from) == (True, str(tmp_path / "iter_5.pth"))
    assert again.randomness == {"seed": 3}


def test_resume_goes_on_from_the_iteration(tmp_path):
    config = toy_config(iters=2)
    config.default_hooks.checkpoint.interval = 2
    train(config, work_dir=tmp_path)
    config.train_cfg.max_iters = 3
    runner = train(config, work_dir=tmp_path, resume=True)
    assert runner.iter == 3
    assert runner.model.backbone.stem[1].num_batches_tracked == 3


def test_amp_without_a_gpu_is_refused():
    with pytest.raises(UserError, match="needs a CUDA device"):
        prepared(toy_config(), amp=True)


@pytest.mark.parametrize("key", ["model", "train_dataloader", "train_cfg", "optim_wrapper"])
def test_a_config_without_training_is_refused(key):
    config = toy_config()
    config[key] = None
    with pytest.raises(UserError, match=f"cannot be trained: it has no {key}$"):
        prepared(config)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.type", "EncodrDecoder"),
        ("optim_wrapper.optimizer.type", "SDG"),
        ("train_dataloader.dataset.type", "NoSuchData"),
        ("custom_hooks", [dict(type="AdversarialTrainigHook")]),
    ],
)
def test_unknown_types_are_told_in_one_line(tmp_path, key, value):
    wrong = value if isinstance(value, str) else value[0]["type"]
    with pytest.raises(UserError, match=wrong) as caught:
        train(toy_config(), work_dir=tmp_path, cfg_options={key: value})
    assert "\n" not in str(caught.value)


def pooled(**changes):
    """Batch normalisation on a map of 1x1 pixel, and five images in batches of two."""
    config = toy_config(attack=None)
    config.model.decode_head = dict(
        type="PSPHead", pool_scales=(1,), in_channels=8, in_index=1, channels=8, num_classes=3, align_corners=False,
        dropout_ratio=0.0, norm_cfg=dict(type="BN"), loss_decode=dict(type="CrossEntropyLoss"),
    )  # fmt: skip
    config.train_dataloader.update(
        sampler=dict(type="DefaultSampler", shuffle=True), dataset=dict(type="ToyScenes", length=5)
    )
    config.train_cfg = dict(by_epoch=True, max_epochs=1)
    config.merge_from_dict({f"train_dataloader.{key}": value for key, value in changes.items()})
    return config


def test_a_last_batch_of_one_image_is_told_where_it_cannot_be_normalised(tmp_path):
    with pytest.raises(UserError, match=r"one image \(5 images, batch_size=2\): set drop_last=True") as caught:
        train(pooled(), work_dir=tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"batch_size=1.*set batch_size in train_dataloader to at least 2"):
        train(pooled(batch_size=1), work_dir=tmp_path)
    assert train(pooled(drop_last=True), work_dir=tmp_path).iter == 2
    assert train(pooled(batch_size=5), work_dir=tmp_path).iter == 1


def test_one_process_trains_sync_bn_as_bn(tmp_path):
    config = toy_config(iters=1)
    config.model.backbone.norm_cfg.type = "SyncBN"
    norm = train(config, work_dir=tmp_path).model.backbone.stem[1]
    assert not isinstance(norm, torch.nn.SyncBatchNorm)
    assert norm.num_batches_tracked == 1


def test_processes_of_torchrun_need_its_launcher(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"torchrun started 2 processes.*say --launcher pytorch"):
        train(toy_config(iters=1), work_dir=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("gpus", "processes", "launcher", "refused"),
    [(1, 2, "pytorch", True), (2, 2, "pytorch", False), (0, 4, "pytorch", False), (1, 4, "slurm", False)],
)
def test_more_processes_than_gpus_are_refused_before_anything_is_read(gpus, processes, launcher, refused, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    expected = "2 processes on 1 GPU.*--nproc_per_node 1$" if refused else "no such config|nowhere"
    with pytest.raises(UserError, match=expected):
        train("nowhere.py", launcher=launcher)


@pytest.mark.parametrize(
    ("of_config", "argument", "expected"),
    [({}, True, True), ({}, False, False), (dict(deterministic=True), True, True),
     (dict(deterministic=True), False, False), (dict(deterministic=False), True, False)],
)  # fmt: skip
def test_training_repeats_unless_told_otherwise(of_config, argument, expected, tmp_path, monkeypatch):
    """mmengine's own switch, with which an operation without a deterministic form is an error, is never on."""
    asked, inside = [], []

    def entered(device, enabled):
        asked.append((device.type, enabled))
        return deterministic(GPU, enabled)

    monkeypatch.setattr("segrobust.commands.training.repeating_on", entered)
    own = F.interpolate, F.cross_entropy

    def look(hook, *given, **more):
        warned = torch.is_deterministic_algorithms_warn_only_enabled()
        inside.append((torch.are_deterministic_algorithms_enabled(), warned, (F.interpolate, F.cross_entropy) != own))

    monkeypatch.setattr(
        "segrobust.hooks.exact_resume.ReseedHook.before_train_iter", lambda self, *given, **m: look(*given)
    )
    train(toy_config(iters=1, randomness=dict(seed=0, **of_config)), tmp_path, deterministic=argument)
    assert [enabled for _, enabled in asked] == [expected] and inside == [(expected,) * 3]
    assert not torch.are_deterministic_algorithms_enabled() and (F.interpolate, F.cross_entropy) == own
