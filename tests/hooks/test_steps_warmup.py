"""Attack steps that grow at the beginning of a training."""

from __future__ import annotations

import pytest

from segrobust.attacks import Attack, build_attack
from segrobust.commands.training import train
from segrobust.core.errors import UserError
from segrobust.hooks import AdversarialTrainingHook
from tests.hooks.toys import PGD, history, toy_config


def test_steps_grow_from_one_to_all_of_them():
    trainer = AdversarialTrainingHook(dict(PGD, steps=5), start=2, steps_warmup=8)
    assert trainer.attack_at(1) is None
    assert [trainer.attack_at(iteration).steps for iteration in range(2, 12)] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert trainer.attack_at(10) is trainer.attack


def test_radius_and_steps_grow_side_by_side():
    trainer = AdversarialTrainingHook(dict(PGD, steps=3), eps_warmup=8, steps_warmup=4)
    found = [trainer.attack_at(iteration) for iteration in (1, 2, 4, 8)]
    assert [(one.steps, round(one.eps * 255, 6)) for one in found] == [(1, 1), (2, 2), (3, 4), (3, 8)]
    assert trainer.attack_at(0) is None


def test_a_training_spends_the_passes_of_each_iteration(tmp_path, monkeypatch):
    spent, own = [], Attack.__call__

    def spy(self, *given, **options):
        result = own(self, *given, **options)
        spent.append(int(result.backwards[0]))
        return result

    monkeypatch.setattr(Attack, "__call__", spy)
    config = toy_config(attack=None, iters=5)
    config.custom_hooks = [dict(type="AdversarialTrainingHook", attack=PGD, steps_warmup=3)]
    runner = train(config, work_dir=tmp_path)
    assert spent == [1, 1, 2, 3, 3] and len(history(runner, "loss")) == 5


def test_a_minimum_norm_attack_has_steps_too():
    attack = build_attack("ALMAProx", steps=5, eps_max="4/255")
    assert AdversarialTrainingHook(attack, steps_warmup=2).attack_at(1).steps == 3


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        (dict(attack=dict(type="FGSM"), steps_warmup=5), "FGSM has no steps to warm up"),
        (dict(steps_warmup=-1), "steps_warmup to be an integer >= 0, got -1"),
    ],
)
def test_wrong_settings_are_told(fields, told):
    with pytest.raises(UserError, match=told):
        AdversarialTrainingHook(**{"attack": PGD, **fields})
