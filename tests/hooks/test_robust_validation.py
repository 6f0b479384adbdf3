"""Validation under attack: its numbers, when it runs, and that it changes nothing."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.runner import Runner

from segrobust.attacks import build_attack
from segrobust.commands.training import prepare, train
from segrobust.core.errors import UserError
from segrobust.core.seeds import seed_of
from segrobust.hooks import RobustValidationHook
from segrobust.models.adapters.mmseg import MMSegSegmenter
from tests.hooks.toys import (
    PGD,
    After,
    ToyScenes,
    history,
    hook_of,
    same,
    state_of,
    toy_config,
    with_plain_validation,
    with_validation,
)


def validations(folder: Path) -> list[dict]:
    """What the run logged about its validations, as data."""
    (scalars,) = folder.glob("*/vis_data/scalars.json")
    return [line for line in map(json.loads, scalars.read_text().splitlines()) if "mIoU" in line]


def scores_by_hand(model, batches, seed=0) -> tuple[float, float]:
    """mIoU and aAcc in percent of the attacked images, with a confusion matrix of Python loops."""
    segmenter, data, matrix = MMSegSegmenter.live(model), ToyScenes(length=5), np.zeros((3, 3), dtype=int)
    for batch in batches:
        images = torch.stack([data[index]["inputs"][[2, 1, 0]].float() / 255 for index in batch])
        labels = torch.stack([data[index]["data_samples"].gt_sem_seg.data[0] for index in batch])
        seeds = [seed_of(seed, "attack", index) for index in batch]
        attacked = build_attack(PGD)(segmenter, images, labels, seeds=seeds).images
        with torch.no_grad():
            predicted = segmenter(attacked).argmax(1)
        for truth, guess in zip(labels.flatten().tolist(), predicted.flatten().tolist(), strict=True):
            if truth != 255:
                matrix[truth, guess] += 1
    right = matrix.diagonal()
    return 100 * np.mean(right / (matrix.sum(0) + matrix.sum(1) - right)), 100 * right.sum() / matrix.sum()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    config = with_validation(toy_config(attack=None, iters=10), num_images=3)
    config.randomness.seed = 6  # learns enough in ten iterations to have something to lose
    config.train_cfg.val_interval = 5
    config.default_hooks.checkpoint.save_best = "robust/mIoU"
    config.default_hooks.checkpoint.interval = 5
    return folder, train(config, work_dir=folder)


def test_numbers_equal_those_by_hand(trained):
    folder, runner = trained
    first, last = validations(folder)
    mean_iou, accuracy = scores_by_hand(runner.model.eval(), [[0, 2], [4]])
    assert last["robust/mIoU"] == pytest.approx(mean_iou, abs=0.006)
    assert last["robust/aAcc"] == pytest.approx(accuracy, abs=0.006)
    assert last["robust/mIoU"] < last["mIoU"] and last["robust/aAcc"] < last["aAcc"]
    assert first["robust/mIoU"] != last["robust/mIoU"]


def test_save_best_follows_the_robust_score(trained):
    folder, _ = trained
    scores = {5: validations(folder)[0]["robust/mIoU"], 10: validations(folder)[1]["robust/mIoU"]}
    best = max(scores, key=scores.get)
    assert [path.name for path in folder.glob("best_*")] == [f"best_robust_mIoU_iter_{best}.pth"]


def test_interval_skips_validations_but_not_the_last(tmp_path):
    config = with_validation(toy_config(attack=None, iters=7), interval=2)
    config.default_hooks.checkpoint.save_best = "robust/mIoU"
    train(config, work_dir=tmp_path)
    found = ["robust/mIoU" in line for line in validations(tmp_path)]
    assert found == [False, True, False, True]  # after 2, 4, 6 and 7 iterations
    (log,) = tmp_path.glob("*/*.log")
    told = re.findall(r"robust/mIoU: (\S+)", log.read_text())
    assert [value == "None" for value in told] == [True, False, True, False]


def test_the_timer_does_not_count_it_as_data_loading(tmp_path, monkeypatch):
    slow = RobustValidationHook.measure
    monkeypatch.setattr(RobustValidationHook, "measure", lambda *given: time.sleep(3) or slow(*given))
    runner = train(with_validation(toy_config(iters=3), num_images=1), work_dir=tmp_path)
    assert max(history(runner, "data_time")) < 2.9


def test_validation_changes_neither_the_model_nor_the_training(tmp_path):
    robust = with_validation(toy_config(dict(type="After")))
    plain = with_plain_validation(toy_config(dict(type="After")))
    first, second = (train(config, work_dir=tmp_path / name) for name, config in (("a", robust), ("b", plain)))
    assert same(first.model.state_dict(), second.model.state_dict())
    assert same(hook_of(first, After).states, hook_of(second, After).states)


def test_it_judges_the_averaged_weights(tmp_path):
    """An average that stands still gives the same numbers twice, while the weights under it move."""

    def scores(folder, *hooks):
        train(with_validation(toy_config(*hooks, attack=None)), work_dir=folder)
        return [(line["robust/mIoU"], line["robust/aAcc"]) for line in validations(folder)]

    still = dict(type="EMAHook", momentum=1e-12, update_buffers=True)
    averaged, plain = scores(tmp_path / "ema", still), scores(tmp_path / "plain")
    assert averaged[0] == averaged[1]
    assert plain[0] != plain[1]


def test_it_runs_alone_and_leaves_no_trace(tmp_path):
    runner = Runner.from_cfg(prepare(with_validation(toy_config()), tmp_path, False, False, None, "none"))
    before = state_of(runner.model.eval())
    metrics = runner.val()
    assert {"mIoU", "aAcc", "robust/mIoU", "robust/aAcc"} <= metrics.keys()
    assert same(before, state_of(runner.model))
    assert metrics["robust/mIoU"] == pytest.approx(scores_by_hand(runner.model, [[0, 1], [2, 3], [4]])[0], abs=0.006)


def test_fp16_attacks_under_autocast(tmp_path):
    config = with_validation(toy_config(), fp16=True)
    runner = Runner.from_cfg(prepare(config, tmp_path, False, False, None, "none"))
    metrics = runner.val()
    assert runner.model.last_logits_dtype == torch.bfloat16
    assert 0 <= metrics["robust/mIoU"] <= metrics["robust/aAcc"] <= 100


def test_two_that_would_write_the_same_numbers_are_refused(tmp_path):
    config = with_validation(toy_config())
    config.custom_hooks.append(dict(type="RobustValidationHook", attack="segpgd(steps=2)"))
    with pytest.raises(UserError, match=r"CEPGD and SegPGD would both write robust/mIoU; keep one bounded"):
        train(config, work_dir=tmp_path)
    assert not list(tmp_path.glob("*.pth"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(interval=0), "interval to be an integer >= 1, got 0"),
        (dict(num_images=0), "num_images to be an integer >= 1, got 0"),
        (dict(attack=dict(type="SegPGD", targeted=True)), "must be untargeted"),
        (dict(attack="segpdg"), "unknown attack 'segpdg'"),
    ],
)
def test_wrong_settings_are_told(tmp_path, fields, message):
    config = with_validation(toy_config())
    config.custom_hooks[-1].update(fields)
    with pytest.raises(UserError, match=message):
        train(config, work_dir=tmp_path)
