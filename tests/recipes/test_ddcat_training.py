"""Trainings of DDC-AT: who sees which branch, iterations without an attack, a resume, and what the hook refuses."""

from __future__ import annotations

import shutil

import pytest
from mmengine.registry import HOOKS
from mmengine.runner import CheckpointLoader

from segrobust.commands.training import train
from segrobust.core.errors import UserError
from tests.hooks.toys import PGD, Before, history, hook_of, same, with_validation
from tests.recipes.toys import branched


@HOOKS.register_module()
class Where(Before):
    """Which inference was asked for, in attacks of the training and of the validation."""

    def before_train(self, runner):
        self.merging, model = [], runner.model
        own = model.encode_decode
        model.encode_decode = lambda *given: self.merging.append((model.training_now, model._merging)) or own(*given)

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        runner.model.training_now = True

    def before_val(self, runner):
        runner.model.training_now = False


def test_validation_attacks_the_main_branch(tmp_path):
    config = with_validation(branched(dict(type="Where"), iters=2), num_images=2)
    seen = hook_of(train(config, work_dir=tmp_path), Where).merging
    assert set(seen) == {(True, True), (False, False)}


def test_the_overfitting_probe_attacks_what_the_training_attacks(tmp_path):
    config = branched(dict(type="Where"), dict(type="OverfittingHook", interval=1), iters=1)
    seen = hook_of(train(config, work_dir=tmp_path), Where).merging
    assert len(seen) >= 4 + 6 and set(seen) == {(True, True)}  # of the training's three steps and of the probe's five


def test_iterations_without_an_attack_learn_the_clean_images_alone(tmp_path):
    config = branched(dict(type="AdversarialTrainingHook", attack=PGD, start=2), attack=None)
    shares = history(train(config, work_dir=tmp_path), "auxiliary_share")
    assert shares[:2] == [0, 0] and min(shares[2:]) > 0


def test_a_resume_is_bitwise(tmp_path):
    def run(folder, resume=False):
        config = branched(dropout=0.3)
        config.default_hooks.checkpoint.interval = 2
        train(config, work_dir=folder, resume=resume)
        return CheckpointLoader.load_checkpoint(str(folder / "iter_4.pth"), map_location="cpu")["state_dict"]

    expected = run(tmp_path / "straight")
    (tmp_path / "resumed").mkdir()
    shutil.copy(tmp_path / "straight" / "iter_2.pth", tmp_path / "resumed")
    (tmp_path / "resumed" / "last_checkpoint").write_text("iter_2.pth")
    assert same(dict(run(tmp_path / "resumed", resume=True)), dict(expected))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (dict(loss="TRADES"), "DDCAT has a loss of its own .* leave loss and clean_ratio out"),
        (dict(clean_ratio=0.5), "DDCAT has a loss of its own .* leave loss and clean_ratio out"),
    ],
)
def test_a_second_loss_is_refused(options, told, tmp_path):
    config = branched(dict(type="AdversarialTrainingHook", attack=PGD, **options), attack=None)
    with pytest.raises(UserError, match=told):
        train(config, work_dir=tmp_path)
