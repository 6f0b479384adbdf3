"""Minimum norms in validation: their numbers, how they reach log and checkpoints, and that they change nothing."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
import torch

from segrobust.attacks import build_attack
from segrobust.commands.training import train
from segrobust.core.errors import UserError
from segrobust.core.seeds import seed_of
from segrobust.hooks import RobustValidationHook, robust_validation
from segrobust.models.adapters.mmseg import MMSegSegmenter
from tests.hooks.toys import (
    After,
    SignSearch,
    ToyScenes,
    hook_of,
    same,
    toy_config,
    with_plain_validation,
    with_validation,
)

NAMES = ("min_norm/median", "min_norm/found")
SEARCH = SignSearch(apsr=0.6, step=8 / 255, steps=6)


def config_with(*hooks, attack=SEARCH, bounded=False, iters=4, **fields):
    """A standard training that measures minimum norms, and others as well, after 2 and 4 iterations."""
    hook = dict(type="RobustValidationHook", attack=attack, **{"num_images": 3, **fields})
    config = toy_config(*hooks, hook, attack=None, iters=iters)
    return with_validation(config, num_images=2) if bounded else with_plain_validation(config)


def validations(folder) -> list[dict]:
    (scalars,) = folder.glob("*/vis_data/scalars.json")
    return [line for line in map(json.loads, scalars.read_text().splitlines()) if "mIoU" in line]


def norms_by_hand(model, indices, seed=0, attack=SEARCH) -> list[float]:
    """Of single images, one after the other; infinite where nothing was found."""
    segmenter, data, norms = MMSegSegmenter.live(model), ToyScenes(length=5), []
    for index in indices:
        image = data[index]["inputs"][[2, 1, 0]].float()[None] / 255
        label = data[index]["data_samples"].gt_sem_seg.data
        result = build_attack(attack)(segmenter, image, label, seeds=[seed_of(seed, "attack", index)])
        norms.append(float((result.images - image).abs().max()) if result.found else math.inf)
    return norms


@pytest.mark.parametrize("bounded", [False, True])
def test_median_and_share_equal_those_by_hand(tmp_path, bounded):
    runner = train(config_with(bounded=bounded), work_dir=tmp_path)
    norms = norms_by_hand(runner.model.eval(), [0, 2, 4])
    last = validations(tmp_path)[-1]
    assert last["min_norm/median"] == pytest.approx(sorted(norms)[1] * 255, rel=1e-5)
    assert last["min_norm/found"] == pytest.approx(100 * np.isfinite(norms).mean())
    assert 0 < last["min_norm/median"] < math.inf
    assert ("robust/mIoU" in last) == bounded
    (log,) = tmp_path.glob("*/*.log")
    assert re.search(rf"min_norm/median: {last['min_norm/median']:.4f}", log.read_text())


@pytest.mark.parametrize(
    ("norms", "median", "found"),
    [
        ([1 / 255, 3 / 255, 8 / 255], 3.0, 100.0),
        ([math.inf, 3 / 255, math.inf, 1 / 255, 2 / 255], 3.0, 60.0),
        ([1 / 255, 2 / 255, math.inf, math.inf], math.inf, 50.0),
        ([math.inf, math.inf], math.inf, 0.0),
    ],
)
def test_failures_count_as_infinite(tmp_path, monkeypatch, norms, median, found):
    monkeypatch.setattr(robust_validation, "minimum_norms", lambda *_: torch.tensor(norms, dtype=torch.float64))
    train(config_with(), work_dir=tmp_path)
    for line in validations(tmp_path):
        assert (line["min_norm/median"], line["min_norm/found"]) == (pytest.approx(median), found)


def test_an_attack_that_fails_everywhere_is_infinite(tmp_path):
    train(config_with(attack=SignSearch(apsr=1.0, step=1e-4, steps=1)), work_dir=tmp_path)
    (log,) = tmp_path.glob("*/*.log")
    assert "min_norm/median: inf  min_norm/found: 0.0000" in log.read_text()
    assert [line["min_norm/median"] for line in validations(tmp_path)] == [math.inf] * 2


@pytest.mark.parametrize(("values", "best"), [([2.0, 5.0], 4), ([5.0, 2.0], 2), ([5.0, math.inf], 4)])
def test_save_best_takes_the_largest_median(tmp_path, monkeypatch, values, best):
    waiting = iter(values)
    monkeypatch.setattr(robust_validation, "minimum_norms", lambda *_: torch.tensor([next(waiting) / 255]))
    config = config_with()
    config.default_hooks.checkpoint.update(save_best="min_norm/median", rule="greater", interval=2)
    train(config, work_dir=tmp_path)
    assert [path.name for path in tmp_path.glob("best_*")] == [f"best_min_norm_median_iter_{best}.pth"]


def test_interval_skips_validations_but_not_the_last(tmp_path):
    config = config_with(interval=2, iters=7)
    config.default_hooks.checkpoint.update(save_best="min_norm/median", rule="greater")
    train(config, work_dir=tmp_path)
    found = [[name in line for name in NAMES] for line in validations(tmp_path)]
    assert found == [[False] * 2, [True] * 2, [False] * 2, [True] * 2]  # after 2, 4, 6 and 7 iterations
    (log,) = tmp_path.glob("*/*.log")
    told = re.findall(r"min_norm/median: (\S+)", log.read_text())
    assert [value == "None" for value in told] == [True, False, True, False]


def test_it_changes_neither_the_model_nor_the_training(tmp_path):
    config = config_with(dict(type="After"))
    plain = with_plain_validation(toy_config(dict(type="After"), attack=None))
    first, second = (train(one, work_dir=tmp_path / name) for name, one in (("a", config), ("b", plain)))
    assert same(first.model.state_dict(), second.model.state_dict())
    assert same(hook_of(first, After).states, hook_of(second, After).states)


def test_it_judges_the_averaged_weights(tmp_path):
    """An average that stands still gives the same number twice, while the weights under it move."""

    def medians(folder, *hooks):
        train(config_with(*hooks), work_dir=folder)
        return [line["min_norm/median"] for line in validations(folder)]

    averaged = medians(tmp_path / "ema", dict(type="EMAHook", momentum=1e-12, update_buffers=True))
    plain = medians(tmp_path / "plain")
    assert averaged[0] == averaged[1]
    assert plain[0] != plain[1]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(interval=0), "RobustValidationHook: expected interval to be an integer >= 1, got 0"),
        (dict(num_images=True), "expected num_images to be an integer >= 1, got True"),
        (dict(attack=SignSearch(targeted=True)), "must be untargeted"),
    ],
)
def test_wrong_settings_are_told(fields, message):
    with pytest.raises(UserError, match=message) as caught:
        RobustValidationHook(**{"attack": SEARCH, **fields})
    assert "\n" not in str(caught.value)
