"""Hooks attack, and report, in true float32 or in the runner's own autocast; training computes as it did."""

from __future__ import annotations

import pytest
import torch
from mmengine.runner import Runner

from segrobust.commands.training import prepare, train
from segrobust.models.precision import products
from tests.hooks.toys import PGD, ToySegmentor, toy_config, with_validation

EXACT, AS_SET, HALF = ("ieee", False), ("tf32", False), ("tf32", True)  # of convolutions on a GPU; torch's is tf32


@pytest.fixture
def seen(monkeypatch):
    """By whether the model learns there: what its forwards computed in."""
    plain, found = ToySegmentor.extract_feat, {True: [], False: []}

    def noted(self, images):
        found[self.training].append((products()["cuda.conv"], torch.is_autocast_enabled("cpu")))
        return plain(self, images)

    monkeypatch.setattr(ToySegmentor, "extract_feat", noted)
    return found


@pytest.mark.parametrize(
    ("wrapper", "attacked", "learnt"), [("OptimWrapper", EXACT, AS_SET), ("CpuAutocast", HALF, HALF)]
)
def test_a_training_attacks_in_float32_or_in_its_autocast(wrapper, attacked, learnt, seen, tmp_path):
    hook = dict(type="AdversarialTrainingHook", attack=PGD)
    train(toy_config(hook, attack=None, iters=2, **{"optim_wrapper.type": wrapper}), work_dir=tmp_path)
    looks, found = seen[False][:3], seen[False][3:]  # models/folded.py first looks at one image, outside autocast
    assert looks == [(attacked[0], False)] * 3
    assert seen[True] == [learnt] * 2 and found == [attacked] * len(found) and len(found) >= 6
    assert products()["cuda.conv"] == "tf32"


@pytest.mark.parametrize(("fp16", "plain", "robust"), [(False, AS_SET, EXACT), (True, HALF, HALF)])
def test_a_validation_attacks_and_measures_so(fp16, plain, robust, seen, tmp_path):
    config = with_validation(toy_config(), fp16=fp16)
    Runner.from_cfg(prepare(config, tmp_path, False, False, None, "none")).val()
    assert not seen[True] and seen[False] == [plain] * 3 + [robust] * (len(seen[False]) - 3)
    assert len(seen[False]) > 3 * (3 + 1)  # three batches: as many steps, and the forward that is reported
