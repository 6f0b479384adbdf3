"""Adversarial training on a GPU: a resumed one continues bitwise, with mixed precision too, and all ends in numbers."""

from __future__ import annotations

import math

import pytest
import torch

from segrobust.commands.training import train
from segrobust.core.units import parse_eps
from tests.hooks.test_exact_resume import ATTACKS, KEPT, resumed, run
from tests.hooks.toys import PGD, history, same, toy_config, with_validation


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Per attack the folder and the end of a training in one go, made when it is first asked for."""
    made = {}

    def of(attack):
        if attack not in made:
            folder = tmp_path_factory.mktemp("straight") / "run"
            made[attack] = folder, run(folder, attack=ATTACKS[attack])
        return made[attack]

    return of


@pytest.mark.parametrize(("attack", "workers"), [*((attack, 0) for attack in ATTACKS), ("bounded", 2)])
def test_resume_continues_bitwise(straight, tmp_path, attack, workers):
    folder, expected = straight(attack)
    found = resumed(folder, tmp_path / "resumed", workers=workers, attack=ATTACKS[attack])
    for key in KEPT:
        assert same(found[key], expected[key]), key


def test_workers_change_nothing(straight, tmp_path):
    assert same(run(tmp_path, workers=2), straight("bounded")[1])


def test_the_training_was_on_the_gpu_and_nobody_warned(tmp_path, device):
    runner = train(toy_config(iters=3), work_dir=tmp_path)
    assert next(runner.model.parameters()).device.type == device.type
    log = "".join(file.read_text() for file in tmp_path.rglob("*.log"))
    assert "adv_time" in log and "will not be bitwise" not in log


@pytest.mark.parametrize("attack", ["bounded", "ALMA-prox"])
def test_mixed_precision_trains(tmp_path, device, attack):
    """--amp needs a GPU: losses are finite, the attack does harm, and validation under attack gives percents."""
    if device.type == "cpu":
        pytest.skip("--amp needs a GPU")
    config = with_validation(toy_config(iters=6, attack=ATTACKS[attack]), num_images=2)
    runner = train(config, work_dir=tmp_path, amp=True)
    assert type(runner.optim_wrapper).__name__ == "AmpOptimWrapper"
    assert all(map(math.isfinite, history(runner, "loss")))
    assert min(history(runner, "adv_pixel_error")) > 0
    assert 0 <= float(runner.message_hub.get_scalar("val/robust/mIoU").current()) <= 100


def test_a_training_with_the_gpu_keeps_attacked_images_in_their_ball(tmp_path, device):
    """What the loss sees are the loader's images and up to eps more, normalised."""
    config = toy_config(dict(type="Before"), dict(type="After"), iters=2)
    runner = train(config, work_dir=tmp_path)
    before, after = (next(hook for hook in runner.hooks if type(hook).__name__ == name) for name in ("Before", "After"))
    for clean, attacked in zip(before.images, after.images, strict=True):
        for one, other in zip(clean, attacked, strict=True):
            change = (other.to(device) - one.to(device).float()).abs().amax()
            assert 0 < change <= 255 * (parse_eps(PGD["eps"], norm="Linf") + 1e-6)
    assert torch.isfinite(after.losses_saw[-1]).all()
