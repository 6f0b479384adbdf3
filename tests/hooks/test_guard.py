"""The guard against catastrophic overfitting acts: more steps, which a resume keeps, or the end of the training."""

from __future__ import annotations

import shutil

import pytest
import torch
from mmengine.runner import CheckpointLoader

from segrobust.attacks import build_attack
from segrobust.commands.training import train
from segrobust.core.errors import RunFailed, UserError
from segrobust.hooks import AdversarialTrainingHook, OverfittingHook
from segrobust.hooks.overfitting import with_steps
from segrobust.models.adapters.mmseg import MMSegSegmenter
from tests.hooks.test_overfitting import adversarial, logged
from tests.hooks.toys import MEAN, PGD, STD, ToyScenes, history, hook_of, same, toy_config

FGSM = dict(type="FGSM", eps="24/255")
KEPT = ("state_dict", "optimizer")


def low_contrast(attack=FGSM, iters=60, **options):
    """Scenes of half the contrast, seen alike by the network: in them 24/255 is as much as 48/255 in the others."""
    config = adversarial(attack, iters, interval=20, **options)
    config.train_dataloader.dataset.contrast = 0.5
    config.model.data_preprocessor.update(mean=[57.5 + one / 2 for one in MEAN], std=[one / 2 for one in STD])
    config.default_hooks.checkpoint.interval = 20
    return config


@pytest.fixture(scope="module")
def raised(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raised")
    return folder, train(low_contrast(action="steps", steps=5), work_dir=folder)


def tripped(runner):
    """The probe that tripped the guard, of those after 20, 40, ... iterations."""
    return len(history(runner, "adv_probe_error"))


def test_fgsm_training_at_24_trips_it_and_goes_on_with_more_steps(raised):
    folder, runner = raised
    at, told = 20 * tripped(runner), logged(folder)
    assert at < 60  # no probe since: five steps are too many to be fooled
    assert told.count(f"catastrophic overfitting in iteration {at}: FGSM at eps 0.09412 makes") == 1
    assert "from here on it trains with 5 steps" in told
    attack = hook_of(runner, AdversarialTrainingHook).attack
    assert (attack.name, attack.steps, attack.eps, attack.keep) == ("CEPGD", 5, 24 / 255, "last")


def test_with_more_steps_it_becomes_robust_again(raised, tmp_path):
    """From the iteration of the warning on the training differs from one that is only warned, and ends better."""
    runners = [raised[1], train(low_contrast(), work_dir=tmp_path)]
    at = 20 * tripped(runners[0])
    acted, warned = (history(runner, "adv_pixel_error") for runner in runners)
    assert acted[: at - 1] == warned[: at - 1] and acted[at - 1] > 1.2 * warned[at - 1]
    scenes = [ToyScenes(contrast=0.5)[index] for index in range(6)]
    images = torch.stack([one["inputs"] for one in scenes])[:, [2, 1, 0]] / 255
    labels = torch.stack([one["data_samples"].gt_sem_seg.data[0] for one in scenes])
    attack = build_attack(PGD, eps="24/255", steps=10)
    errors = [attack(MMSegSegmenter.live(runner.model), images, labels).pixel_error.mean() for runner in runners]
    assert errors[0] < 0.7 * errors[1]


def checkpoint(folder):
    found = CheckpointLoader.load_checkpoint(str(folder / "iter_60.pth"), map_location="cpu")
    return {key: found[key] for key in KEPT}


def test_a_resume_goes_on_with_the_raised_steps_bitwise(raised, tmp_path):
    folder, runner = raised
    last = 20 * tripped(runner)
    shutil.copy(folder / f"iter_{last}.pth", tmp_path)
    (tmp_path / "last_checkpoint").write_text(f"iter_{last}.pth")
    again = train(low_contrast(action="steps", steps=5), work_dir=tmp_path, resume=True)
    assert hook_of(again, AdversarialTrainingHook).attack.steps == 5
    assert same(checkpoint(tmp_path), checkpoint(folder))
    assert "catastrophic" not in logged(tmp_path)


def test_it_ends_the_training_where_told_to(raised, tmp_path):
    with pytest.raises(
        RunFailed, match=r"training stopped by catastrophic overfitting in iteration \d+: FGSM .* train with"
    ):
        train(low_contrast(action="stop"), work_dir=tmp_path)
    assert (tmp_path / "iter_20.pth").exists() == (tripped(raised[1]) > 1)


@pytest.mark.parametrize("action", [dict(action="steps", steps=5), dict(action="stop")])
def test_a_sound_training_is_left_alone(action, tmp_path):
    runner = train(low_contrast(dict(PGD, eps="24/255"), iters=20, **action), work_dir=tmp_path)
    assert hook_of(runner, AdversarialTrainingHook).attack.steps == 3 and tripped(runner) == 1
    assert "catastrophic" not in logged(tmp_path)


@pytest.mark.parametrize(
    "attack",
    [dict(PGD, step_size=0.1), dict(type="TsallisPGD", eps="4/255", steps=1, optimiser="pgd", step_size="5/255")],
)
def test_more_steps_are_the_same_attack_with_smaller_ones(attack):
    before, after = build_attack(attack), with_steps(build_attack(attack), 7)
    assert (after.steps, after.step_size) == (7, None)
    assert {**after.fields(), "steps": 0, "step_size": 0} == {**before.fields(), "steps": 0, "step_size": 0}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (dict(action="more"), "unknown action of OverfittingHook 'more'"),
        (dict(action="steps"), "go together, got 'steps' and None"),
        (dict(steps=5), "go together, got 'warn' and 5"),
        (dict(action="steps", steps=1), "steps to be an integer >= 2, got 1"),
    ],
)
def test_wrong_settings_are_told_at_once(options, told):
    with pytest.raises(UserError, match=told):
        OverfittingHook(**options)


@pytest.mark.parametrize(
    ("attack", "told"),
    [
        (dict(PGD, steps=5), "expected more steps than the attack's 5, got steps=5"),
        (dict(type="ALMAProx", steps=2, eps_max="4/255"), "ALMAProx has no steps that could be raised"),
        (dict(type="UniformNoise", eps="4/255"), "UniformNoise has no steps that could be raised"),
    ],
)
def test_an_attack_that_cannot_have_more_steps_is_refused_before_training(attack, told, tmp_path):
    config = toy_config(dict(type="OverfittingHook", action="steps", steps=5), attack=attack)
    with pytest.raises(UserError, match=told):
        train(config, work_dir=tmp_path)
