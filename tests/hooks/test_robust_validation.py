"""Validation under attack: its numbers, when it runs, and that it changes nothing."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, VISBACKENDS
from mmengine.runner import Runner
from mmengine.visualization import BaseVisBackend
from PIL import Image

from segrobust.attacks import build_attack
from segrobust.commands.training import prepare, train
from segrobust.core.errors import UserError
from segrobust.core.seeds import seed_of
from segrobust.hooks import RobustValidationHook, robust_validation
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


class Clock:
    """A clock by which every validation under attack takes so many seconds, and an iteration one."""

    def __init__(self, validation):
        self.now, self.validation = 0.0, validation

    def perf_counter(self):
        return self.now


@HOOKS.register_module()
class Second(Hook):
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        robust_validation.time.now += 10.0


@pytest.mark.parametrize(
    ("validation", "share", "run_after"),
    [
        (70.0, 0.2, [2, 12]),  # 70 of 110 s, 130, 150, 170
        (70.0, 0.65, [2, 4, 8, 12]),  # 70 of 110 s, 140 of 200, 140 of 220, 210 of 310; the last one is always made
        (59.0, 0.2, [2, 4, 12]),  # the first minute is free
        (70.0, None, [2, 4, 6, 8, 10, 12]),
    ],
)
def test_its_time_is_bounded(tmp_path, monkeypatch, validation, share, run_after):
    clock = Clock(validation)
    monkeypatch.setattr(robust_validation, "time", clock)

    def measure(hook, runner):
        clock.now += clock.validation
        return 12.0, 34.0

    monkeypatch.setattr(RobustValidationHook, "measure", measure)
    train(with_validation(toy_config(dict(type="Second"), attack=None, iters=12), max_share=share), work_dir=tmp_path)
    assert [line["step"] for line in validations(tmp_path) if "robust/mIoU" in line] == run_after
    (log,) = tmp_path.glob("*/*.log")
    told = re.findall(r"robust validation skipped after (\d+) iterations: .* took (\d+)% of", log.read_text())
    assert [int(after) for after, _ in told] == [n for n in (2, 4, 6, 8, 10, 12) if n not in run_after]
    assert all(float(percent) > 100 * share for _, percent in told)


@pytest.mark.parametrize("watcher", ["early stopping", "scheduler"])
def test_what_watches_a_score_has_it_after_every_validation(tmp_path, monkeypatch, watcher):
    clock = Clock(70.0)
    monkeypatch.setattr(robust_validation, "time", clock)

    def measure(hook, runner):
        clock.now += clock.validation
        return float(100 * runner.iter), 34.0  # ever better

    monkeypatch.setattr(RobustValidationHook, "measure", measure)
    config = with_validation(toy_config(dict(type="Second"), attack=None, iters=8), max_share=0.2)
    if watcher == "scheduler":
        watching = dict(type="ReduceOnPlateauLR", monitor="robust/mIoU", rule="greater")
        config.param_scheduler = [watching]
    else:
        config.custom_hooks.insert(0, dict(type="EarlyStoppingHook", monitor="robust/mIoU", rule="greater"))
    train(config, work_dir=tmp_path / "all")
    assert [line["step"] for line in validations(tmp_path / "all") if "robust/mIoU" in line] == [2, 4, 6, 8]
    (hook,) = (one for one in config.custom_hooks if one["type"] == "RobustValidationHook")
    hook["interval"] = 2
    with pytest.raises(UserError, match=r"robust/mIoU is watched after every validation, .* interval=1, got 2"):
        train(config, work_dir=tmp_path / "refused")


@pytest.mark.parametrize(
    ("name", "value"), [("max_share", 0.0), ("max_share", 1.5), ("pictures", -1), ("pictures", True)]
)
def test_what_it_refuses_of_time_and_pictures(name, value):
    with pytest.raises(UserError, match=name):
        RobustValidationHook(PGD, **{name: value})


def test_the_first_images_are_kept_along_the_training(trained, tmp_path):
    """As the network gets them, with the predictions that are scored, in the colours of the data."""
    folder, runner = trained
    assert sorted(path.name for path in (folder / "pictures").iterdir()) == ["classes.json", "iter_10", "iter_5"]
    kinds = ("attacked", "clean", "image", "robust")
    assert sorted(path.name for path in (folder / "pictures/iter_10").iterdir()) == [
        f"{place}-{kind}.png" for place in range(3) for kind in kinds
    ]
    assert json.loads((folder / "pictures/classes.json").read_text()) == [
        ["dark", [0, 0, 0]], ["bright", [255, 255, 255]], ["other", [128, 0, 0]]
    ]  # fmt: skip
    segmenter, sample = MMSegSegmenter.live(runner.model.eval()), ToyScenes(length=5)[2]  # the second of the three
    clean = sample["inputs"][[2, 1, 0]].float()[None] / 255
    labels = sample["data_samples"].gt_sem_seg.data
    attacked = build_attack(PGD)(segmenter, clean, labels, seeds=[seed_of(0, "attack", 2)]).images

    def shown(kind):
        return np.asarray(Image.open(folder / "pictures" / "iter_10" / f"1-{kind}.png").convert("RGB"))

    for kind, prediction, image in (("image", "clean", clean), ("attacked", "robust", attacked)):
        assert np.array_equal(shown(kind), (image[0] * 255).round().byte().permute(1, 2, 0).numpy())
        with torch.no_grad():
            found = segmenter(image).argmax(1)[0].numpy()
        assert np.array_equal(shown(prediction), np.array(ToyScenes.metainfo["palette"], dtype=np.uint8)[found])
    assert not np.array_equal(shown("image"), shown("attacked"))


def test_pictures_may_be_left_out_and_what_cannot_be_written_stops_nothing(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "pictures").write_text("in the way")
    for name, pictures in (("a", 0), ("b", 1)):
        train(with_validation(toy_config(attack=None, iters=2), pictures=pictures), work_dir=tmp_path / name)
        assert len(validations(tmp_path / name)) == 1
    assert not (tmp_path / "a" / "pictures").exists()
    (log,) = (tmp_path / "b").glob("*/*.log")
    assert "pictures of the validation are left out" in log.read_text()


@VISBACKENDS.register_module()
class Recorded(BaseVisBackend):
    """Keeps every scalar that it gets, as any backend of mmengine does."""

    got: ClassVar[list] = []

    def _init_env(self) -> None:
        pass

    @property
    def experiment(self):
        return self

    def add_scalar(self, name, value, step=0, **more) -> None:
        self.got.append((name, value, step))

    def add_scalars(self, scalar_dict, step=0, file_path=None, **more) -> None:
        for name, value in scalar_dict.items():
            self.add_scalar(name, value, step)


def with_backend(kind):
    config = with_validation(toy_config(iters=4), num_images=1)
    config.visualizer = dict(type="Visualizer", vis_backends=[dict(type="LocalVisBackend"), dict(type=kind)])
    config.default_hooks.logger = dict(type="LoggerHook", interval=1)  # mmengine's own default counts epochs
    return config


def test_clean_and_robust_scores_reach_every_backend_at_their_iteration(tmp_path):
    Recorded.got.clear()
    train(with_backend("Recorded"), work_dir=tmp_path)
    for name in ("mIoU", "aAcc", "robust/mIoU", "robust/aAcc"):
        assert [step for got, _, step in Recorded.got if got == name] == [2, 4]
    assert [step for got, _, step in Recorded.got if got == "adv_eps"] == [1, 2, 3, 4]
    assert [line["step"] for line in validations(tmp_path)] == [2, 4]


def test_tensorboard_has_them(tmp_path):
    events = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="needs tensorboard: pip install tensorboard"
    )
    train(with_backend("TensorboardVisBackend"), work_dir=tmp_path)
    (file,) = tmp_path.glob("*/vis_data/events*")
    read = events.EventAccumulator(str(file)).Reload()
    assert [one.step for one in read.Scalars("robust/mIoU")] == [one.step for one in read.Scalars("mIoU")] == [2, 4]
