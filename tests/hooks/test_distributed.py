"""Several processes train and validate like one, hold one model, and resume bitwise: one start of three processes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from mmengine.runner import Runner

from segrobust.commands.training import prepare
from tests.hooks.processes import measure, normalised_config
from tests.hooks.toys import same

COUNT = 3  # with two, the order in which gradients are summed cannot matter


@pytest.mark.slow
def test_three_processes(tmp_path, repository, monkeypatch):
    """One test, since the start is what takes long."""
    monkeypatch.setattr("mmengine.runner.runner.get_device", lambda: "cpu")  # where the three are
    found, printed = start(tmp_path / "three", repository)
    processes_equal_one(found, tmp_path / "one")
    one_model_and_bitwise_resume(found, printed)
    the_robust_score_is_that_of_the_saved_model(found, tmp_path / "three" / "straight", tmp_path)
    sync_bn_on_cpus_is_refused_by_one(found)


def start(folder, repository):
    """What each process found, and all that they printed."""
    folder.mkdir()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(COUNT)]
    environment = {**os.environ, "PYTHONPATH": str(repository), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(repository / "tests" / "hooks" / "processes.py"), str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = [torch.load(folder / f"rank_{rank}.pt", weights_only=True) for rank in range(COUNT)]
    return found, done.stdout + done.stderr


def processes_equal_one(found, folder):
    """A third of the batch each, gradients averaged by DDP, under attack and with accumulation."""
    one = measure(folder, batch_size=COUNT, launcher="none")
    assert {each["wrapper"] for each in found} == {"MMDistributedDataParallel"}
    assert all(same(each["weights"], found[0]["weights"]) for each in found)
    for name, weight in one["weights"].items():  # one turned sign among 3000 values of an image moves a weight by 2e-4
        assert torch.allclose(found[0]["weights"][name], weight, atol=1e-3), name
    for *parts, ours in zip(*(each["images"] for each in found), one["images"], strict=True):
        attacked = torch.stack([image for part in parts for image in part])
        assert (attacked != torch.stack(ours)).float().mean() < 0.01  # rounding may turn a sign
    robust = ("robust/mIoU", "robust/aAcc", "min_norm/median", "min_norm/found")
    assert 0 < one["metrics"]["min_norm/found"] <= 100
    for each in found:
        assert [each["metrics"][key] for key in robust] == [one["metrics"][key] for key in robust]


def one_model_and_bitwise_resume(found, printed):
    """Batch normalisation in train mode: weights, statistics, averaged weights, optimizer, on all processes."""
    expected = found[0]["stopped"]["straight"]
    statistics = expected["weights"]["backbone.stem.1.running_mean"]
    assert statistics.abs().max() > 0.1  # they were learned
    for each in found:
        assert same(each["stopped"]["straight"], expected)
        assert same(each["stopped"]["resumed"], expected)
    assert "Grad strides" not in printed  # torch, where the memory format changes behind DDP's back
    assert "bitwise" not in printed
    assert "batch normalisation sees a batch of 2 in each of 3 processes" in printed


def the_robust_score_is_that_of_the_saved_model(found, saved, folder):
    config = normalised_config()
    config.custom_hooks = [hook for hook in config.custom_hooks if hook.type == "RobustValidationHook"]
    config.default_hooks.checkpoint.save_best = None
    for name in ("iter_8.pth", "best_robust_mIoU_iter_8.pth"):  # the averaged weights
        config.load_from = str(saved / name)
        runner = Runner.from_cfg(prepare(config, folder / name, False, False, None, "none"))
        assert runner.val()["robust/mIoU"] == found[0]["stopped"]["straight"]["robust"]


def sync_bn_on_cpus_is_refused_by_one(found):
    text = "SyncBN needs a GPU for each process; on CPUs set norm_cfg=dict(type='BN')"
    assert all(each["sync_bn"].startswith(text) for each in found)
    assert sorted(each["sync_bn_told"] for each in found) == [False] + [True] * (COUNT - 1)
