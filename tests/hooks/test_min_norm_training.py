"""Adversarial training with a minimum-norm attack: every image has a norm of its own, up to the cap."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from segrobust.attacks import build_attack
from segrobust.commands.training import train
from segrobust.core.errors import UserError
from segrobust.core.seeds import seed_of
from segrobust.hooks import AdversarialTrainingHook, RobustValidationHook
from segrobust.models.adapters.mmseg import MMSegSegmenter
from segrobust.models.folded import Folding
from segrobust.models.mm import load_config
from tests.hooks.toys import After, Before, SignSearch, history, hook_of, same, toy_config

CAP = 8 / 255
SEARCH = SignSearch(eps_max=CAP, target_apsr=0.3, step=2 / 255, steps=4)
OBSERVERS = (dict(type="Before"), dict(type="After"))
ALMA = dict(type="ALMAProx", steps=5, eps_max="8/255", step_size="4/255", target_apsr=0.3)
BOTH = [pytest.param(SEARCH, id="SignSearch"), pytest.param(ALMA, id="ALMAProx")]


def run(folder, attack=SEARCH, **changes):
    """A short training between two observers."""
    fields = {"type": "AdversarialTrainingHook", "attack": attack, **changes.pop("hook", {})}
    runner = train(toy_config(*OBSERVERS, fields, attack=None, **changes), work_dir=folder)
    return runner, hook_of(runner, Before), hook_of(runner, After)


def changes_of(before, after) -> torch.Tensor:
    """Largest change per iteration and image, in image units."""
    return torch.tensor(
        [
            [float((new.float() - old.float()).abs().max()) / 255 for old, new in zip(clean, fed, strict=True)]
            for clean, fed in zip(before.images, after.images, strict=True)
        ]
    )


@pytest.mark.parametrize("attack", BOTH)
def test_the_loss_sees_what_the_attack_returns_and_the_log_tells_its_norms(tmp_path, attack):
    runner, before, after = run(tmp_path, attack, **{"train_dataloader.batch_size": 3})
    norms = changes_of(before, after)
    assert norms.max() <= CAP + 1e-6
    assert history(runner, "adv_distance") == pytest.approx(norms.mean(1).tolist(), abs=1e-6)
    assert history(runner, "adv_eps") == [CAP] * 4
    model = runner.model
    for iteration, state in enumerate(before.states):
        model.load_state_dict(state["tensors"])
        images = torch.stack(before.images[iteration])[:, [2, 1, 0]].float() / 255
        labels = torch.stack([sample.gt_sem_seg.data[0] for sample in before.samples[iteration]])
        seeds = [seed_of(0, "attack", iteration, 0, index) for index in range(3)]
        attacked = MMSegSegmenter.live(model)
        with Folding(attacked)(images):
            result = build_attack(attack)(attacked, images, labels, seeds=seeds)
        assert torch.equal(result.images[:, [2, 1, 0]] * 255, torch.stack(after.images[iteration]))
        assert history(runner, "adv_found")[iteration] == pytest.approx(float(result.found.float().mean()))
        assert history(runner, "adv_pixel_error")[iteration] == pytest.approx(float(result.pixel_error.mean()))
        fed = torch.stack(after.images[iteration])[:, [2, 1, 0]]
        seen = after.losses_saw[iteration] * torch.tensor((60.0, 55.0, 50.0)).view(3, 1, 1)
        assert torch.allclose(seen + torch.tensor((120.0, 110.0, 100.0)).view(3, 1, 1), fed, atol=1e-4)


def test_norms_differ_between_images_and_stay_below_the_cap_where_little_is_wanted(tmp_path):
    easy = SignSearch(eps_max=CAP, target_apsr=0.02, step=1 / 255, steps=8)
    runner, before, after = run(tmp_path, easy, iters=6, **{"randomness.seed": 2})
    norms = (changes_of(before, after) * 255).round().flatten()
    assert len(set(norms.tolist())) > 1
    assert (norms < 8).any()
    assert max(history(runner, "adv_found")) == 1


def test_what_is_not_found_is_trained_on_at_the_cap(tmp_path):
    impossible = SignSearch(eps_max=CAP, apsr=1.0, step=4 / 255, steps=4)
    runner, before, after = run(tmp_path, impossible, iters=2)
    assert history(runner, "adv_found") == [0, 0]
    assert (changes_of(before, after) > 3.9 / 255).all()


@pytest.mark.parametrize("attack", BOTH)
def test_warmup_scales_the_cap(tmp_path, attack):
    attack = build_attack(attack, target_apsr=1.0)
    runner, before, after = run(tmp_path, attack, hook=dict(start=1, eps_warmup=4), iters=6)
    expected = [value / 255 for value in (0, 0, 2, 4, 6, 8)]
    assert history(runner, "adv_eps") == pytest.approx(expected, abs=1e-9)
    assert len(history(runner, "adv_distance")) == len(history(runner, "adv_found")) == 4
    assert changes_of(before, after).amax(1).tolist() == pytest.approx(expected, abs=1e-6)


def test_the_log_names_them(tmp_path):
    runner, _, _ = run(tmp_path)
    (log,) = Path(runner.work_dir).glob("*/*.log")
    told = log.read_text()
    for name in ("adv_eps", "adv_distance", "adv_found", "adv_pixel_error", "adv_time"):
        assert told.count(f"{name}: ") == 4, name


@pytest.mark.parametrize("attack", BOTH)
def test_the_attack_leaves_the_model_alone(tmp_path, attack):
    _, before, after = run(tmp_path, attack)
    for old, new in zip(before.states, after.states, strict=True):
        assert same(old, new)


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (SignSearch(), r"SignSearch looks for the smallest change at any radius; give it a cap .*eps_max=\"4/255\""),
        (SignSearch(eps_max=CAP, targeted=True), "must be untargeted"),
        pytest.param(dict(type="ALMAProx", steps=5), "ALMAProx looks for .* give it a cap"),
        pytest.param(dict(type="ALMAProx", eps_max=4), 'did you mean "4/255"'),
    ],
)
def test_refused_in_one_line(attack, message):
    with pytest.raises(UserError, match=message) as caught:
        AdversarialTrainingHook(attack)
    assert "\n" not in str(caught.value)


def test_the_config_is_comparable_to_that_of_bounded_training(repository):
    """The same model, data, start, cap and robust validation; it trains within its own reach and measures norms."""
    folder = repository / "configs" / "fpn"
    ours = load_config(folder / "fpn_r18w24_1xb8-almaat-linf4-s5-300_camvid-180x240.py")
    theirs = load_config(folder / "fpn_r18w24_1xb8-pgdat-linf4-s3-1500_camvid-180x240.py")
    shared = (
        "model",
        "train_dataloader",
        "val_dataloader",
        "val_cfg",
        "robust_validation",
        "optim_wrapper",
        "load_from",
    )
    for key in shared:
        assert ours[key] == theirs[key], key
    bounded, search = (
        AdversarialTrainingHook(**_fields(config, "AdversarialTraining")[0]) for config in (theirs, ours)
    )
    attack = search.attack
    assert attack.eps_max == bounded.attack.eps
    assert attack.steps * attack.step_size >= attack.eps_max
    at_a_radius, at_any = (RobustValidationHook(**fields) for fields in _fields(ours, "RobustValidation"))
    assert at_a_radius.attack.eps == bounded.attack.eps and at_any.attack.eps_max is None


def _fields(config, kind: str) -> list[dict]:
    hooks = [hook for hook in config.custom_hooks if hook.type == f"{kind}Hook"]
    return [{name: value for name, value in hook.items() if name != "type"} for hook in hooks]
