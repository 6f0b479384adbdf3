"""A training that diverges stops in one line, on all processes, and its last finite checkpoint stays."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from segrobust.commands.training import prepare, train
from segrobust.core.errors import RunFailed, UserError
from segrobust.hooks import DivergenceHook
from tests.hooks.toys import toy_config, with_validation

WEIGHT = "decode_head.conv_seg.weight"


@HOOKS.register_module()
class Poison(Hook):
    """After the step of iteration ``at`` (counted from 1) the weights are NaN, as after a step too large.

    rank: on this process alone, before its step: NaN in the images, hence in its loss and in all gradients.
    """

    priority = "VERY_HIGH"

    def __init__(self, at: int, rank: int | None = None) -> None:
        self.at, self.rank = at, rank

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        if self.rank == runner.rank and runner.iter + 1 == self.at:
            data_batch["inputs"] = [image.float().fill_(float("nan")) for image in data_batch["inputs"]]

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        if self.rank is None and runner.iter + 1 == self.at:
            runner.model.decode_head.conv_seg.weight.data.fill_(float("nan"))


def config(*hooks, iters=8, attack=None, keep=1, interval=2, **changes):
    made = toy_config(*hooks, iters=iters, attack=attack, **changes)
    made.default_hooks.checkpoint = dict(
        type="CheckpointHook", by_epoch=False, interval=interval, max_keep_ckpts=keep, save_last=True
    )
    return made


def poisoned(at, **options):
    return config(dict(type="Poison", at=at), **options)


def fails(made, folder, kind=RunFailed, **options) -> str:
    with pytest.raises(kind) as caught:
        train(made, work_dir=folder, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def finite(path: Path) -> bool:
    content = torch.load(path, weights_only=False)
    states = [content["state_dict"], content.get("ema_state_dict", {})]
    return all(bool(value.isfinite().all()) for state in states for value in state.values())


PGD = dict(type="CEPGD", eps="8/255", steps=1, optimiser="pgd", radius_reduction=False)
EMA = dict(type="EMAHook", momentum=0.5)
CASES = {
    "between checkpoints": (poisoned(3), 4, "loss is nan, decode.loss_ce is nan", "iter_2"),
    "at a checkpoint": (poisoned(4), 4, "the weights are not finite (decode_head.conv_seg.weight)", "iter_2"),
    "at the last one": (poisoned(7, iters=7), 7, "the weights are not finite", "iter_6"),
    "with EMA": (config(EMA, dict(type="Poison", at=4)), 4, "the weights are not finite", "iter_2"),
    "under attack": (poisoned(3, attack=PGD), 4, "logits that are not finite on the images it starts from", "iter_2"),
    "before any": (poisoned(1), 2, "loss is nan", None),
    "a huge learning rate": (config(**{"optim_wrapper.optimizer.lr": 1e38}), None, "not finite|is nan|is inf", None),
}


@pytest.mark.parametrize("case", CASES)
def test_it_stops_in_one_line_and_keeps_the_last_finite_checkpoint(case, tmp_path):
    made, iteration, reason, kept = CASES[case]
    told = fails(made, tmp_path)
    assert told.startswith("training diverged in iteration ")
    assert iteration is None or f" iteration {iteration}: " in told
    assert any(part in told for part in reason.split("|"))
    assert f"at learning rate {'9.5' if iteration is None else '0.0'}" in told
    assert [path.stem for path in tmp_path.glob("*.pth")] == ([kept] if kept else [])
    if kept:
        assert f"the last finite checkpoint is {tmp_path / kept}.pth; start from it" in told
        assert finite(tmp_path / f"{kept}.pth")
        assert (tmp_path / "last_checkpoint").read_text() == str(tmp_path / f"{kept}.pth")
    else:
        assert "no checkpoint had been written" in told


def test_a_resume_goes_on_from_it(tmp_path):
    fails(poisoned(4), tmp_path)
    runner = train(config(), work_dir=tmp_path, resume=True)
    assert runner.iter == 8 and finite(tmp_path / "iter_8.pth")


def test_the_advice_works(tmp_path):
    told = fails(poisoned(4), tmp_path)
    options = told.rpartition("--cfg-options ")[2].replace("=...", "=0.001").split()
    runner = train(config(), work_dir=tmp_path / "again", cfg_options=dict(one.split("=") for one in options[:1]))
    assert runner.iter == 8 and runner._load_from == str(tmp_path / "iter_2.pth")


def test_epochs_and_validations_are_guarded_too(tmp_path):
    by_epoch = config(dict(type="Poison", at=6))
    by_epoch.train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=3)
    by_epoch.train_dataloader.sampler = dict(type="DefaultSampler", shuffle=True)  # three batches in an epoch
    by_epoch.default_hooks.checkpoint = dict(type="CheckpointHook", interval=1, max_keep_ckpts=1)
    assert "in iteration 6: the weights are not finite" in fails(by_epoch, tmp_path / "epochs")
    assert [path.stem for path in (tmp_path / "epochs").glob("*.pth")] == ["epoch_1"]
    validated = with_validation(poisoned(2, interval=100))
    assert "in iteration 2: the weights are not finite" in fails(validated, tmp_path / "validated")


def test_a_resume_from_a_broken_checkpoint_is_refused(tmp_path):
    train(config(iters=2), work_dir=tmp_path)
    content = torch.load(tmp_path / "iter_2.pth", weights_only=False)
    content["state_dict"][WEIGHT][0] = float("nan")
    torch.save(content, tmp_path / "iter_2.pth")
    with pytest.raises(UserError, match=rf"iter_2\.pth: {WEIGHT} holds NaN.* go on from an earlier checkpoint"):
        train(config(), work_dir=tmp_path, resume=True)


@HOOKS.register_module()
class WildLoss(Hook):
    """Reports a loss that is no number where the weights stay as they are, as mixed precision can."""

    priority = "VERY_HIGH"

    def __init__(self, iterations) -> None:
        self.iterations = iterations

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        if runner.iter + 1 in self.iterations:
            outputs["loss"] = torch.tensor(float("inf"))


def test_a_step_that_was_left_out_is_borne_for_a_while(tmp_path):
    train(
        config(dict(type="WildLoss", iterations=[2, 3, 5]), dict(type="DivergenceHook", patience=2)), work_dir=tmp_path
    )
    (log,) = tmp_path.glob("*/*.log")
    assert log.read_text().count("loss is inf; the weights are still finite") == 2
    wild = config(dict(type="WildLoss", iterations=[2, 3, 4]), dict(type="DivergenceHook", patience=2))
    assert "in iteration 4: loss is inf" in fails(wild, tmp_path / "wild")


def test_every_config_is_guarded_once():
    (hook,) = (hook for hook in prepared(toy_config()).custom_hooks if hook.type == "DivergenceHook")
    assert hook == dict(type="DivergenceHook")
    mine = toy_config(dict(type="DivergenceHook", patience=3))
    assert [hook.get("patience") for hook in prepared(mine).custom_hooks if hook.type == "DivergenceHook"] == [3]
    bare = toy_config()
    bare.custom_hooks = None
    assert {hook.type for hook in prepared(bare).custom_hooks} >= {"DivergenceHook", "OverfittingHook", "LoadFromHook"}
    with pytest.raises(UserError, match="patience to be an integer >= 0, got -1"):
        DivergenceHook(patience=-1)


def prepared(made):
    return prepare(made, None, False, False, None, "none")


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    """mmengine would first remove the old checkpoint and then find no room for the new one."""
    usage = namedtuple("usage", "total used free")
    train(config(iters=2), work_dir=tmp_path)
    size = (tmp_path / "iter_2.pth").stat().st_size
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, 0))
    train(config(iters=4), work_dir=tmp_path, resume=True)  # the old one makes room
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, size // 2))
    told = fails(config(keep=3, iters=8), tmp_path, UserError, resume=True)
    assert "after 6 iterations: no room for another checkpoint" in told and f"beside {tmp_path / 'iter_4.pth'}" in told
    assert [path.stem for path in tmp_path.glob("*.pth")] == ["iter_4"]


def test_a_disk_that_is_full_after_all_is_one_line(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("mmengine.fileio.backends.LocalBackend.put", full)
    assert "training stopped: the disk of" in fails(config(), tmp_path, UserError)


@pytest.mark.slow
def test_all_processes_stop(tmp_path, repository):
    """NaN in the loss of one process alone: the other one stops in the same iteration, and quickly."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "PYTHONPATH": str(repository), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    script = tmp_path / "script.py"
    script.write_text(f"from tests.hooks.test_divergence import on_one_rank\non_one_rank({str(tmp_path)!r})\n")
    done = subprocess.run([*command, str(script)], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = ((tmp_path / f"rank_{rank}").read_text() for rank in range(2))
    assert "in iteration 3: the loss of another process is not finite" in first
    assert "in iteration 3: loss is nan, decode.loss_ce is nan" in second


def on_one_rank(folder: str) -> None:
    """One of torchrun's processes: leaves what it was told in ``folder``."""
    torch.set_num_threads(1)
    made = config(dict(type="Poison", at=3, rank=1))
    made.model.backbone.with_cp = False
    try:
        train(made, work_dir=Path(folder) / "work", launcher="pytorch")
    except RunFailed as error:
        Path(folder, f"rank_{os.environ['RANK']}").write_text(str(error))
