"""Both kinds of overfitting in adversarial training are told, and a sound training is not disturbed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from segrobust.attacks import build_attack
from segrobust.commands.training import train
from segrobust.core.errors import UserError
from segrobust.hooks import OverfittingHook, RobustValidationHook, overfitting
from segrobust.hooks.overfitting import Validation, fooled, overfitted
from segrobust.models.segmenter import frozen_eval
from tests.hooks.test_cheaper import LAST, FlippedScenes
from tests.hooks.toys import PGD, ToySegmentor, history, same, toy_config, with_validation

FGSM = dict(type="FGSM", eps="48/255")


def logged(folder) -> str:
    return "".join(path.read_text() for path in sorted(folder.glob("*/*.log")))


def adversarial(attack, iters=80, **options):
    """A network wide enough, and a learning rate high enough, to overfit to a single step within 80 iterations."""
    config = toy_config(dict(type="OverfittingHook", **options), attack=attack, iters=iters, param_scheduler=[])
    config.train_dataloader.batch_size = 4
    config.optim_wrapper.optimizer = dict(type="AdamW", lr=5e-3)
    config.model.backbone.update(base_channels=8, stem_channels=8, with_cp=False)
    config.model.decode_head.update(in_channels=16, dropout_ratio=0.0)
    config.default_hooks.logger.interval = 20
    return config


def test_a_single_large_step_trips_it(tmp_path):
    runner = train(adversarial(FGSM, interval=20), work_dir=tmp_path)
    told = logged(tmp_path)
    assert 1 <= told.count("catastrophic overfitting in iteration ") <= 2  # told anew only after it was over
    assert "FGSM at eps 0.1882 makes" in told and "PGD with 5 steps" in told and "more steps" in told
    weak, strong = history(runner, "adv_pixel_error"), history(runner, "adv_probe_error")
    assert len(strong) == 4 and max(strong[1:]) > 2 * np.mean(weak[30:])
    assert "adv_probe_error: " in told


def test_three_small_steps_do_not(tmp_path):
    runner = train(adversarial(PGD, interval=20), work_dir=tmp_path)
    assert len(history(runner, "adv_probe_error")) == 4
    assert "overfitting" not in logged(tmp_path)


@pytest.mark.parametrize(
    ("attack", "probed"),
    [
        (None, False),
        (dict(type="FGSM", eps="8/255"), True),
        (dict(type="CEPGD", eps="8/255", steps=4, optimiser="pgd", radius_reduction=False), False),
        (dict(type="ALMAProx", steps=2, eps_max="4/255"), False),
    ],
)
def test_only_attacks_of_few_steps_are_probed_and_nothing_changes(attack, probed, tmp_path):
    states = []
    for interval in (2, 1000):
        runner = train(adversarial(attack, iters=5, interval=interval), work_dir=tmp_path / str(interval))
        states.append(runner.model.state_dict())
        found = history(runner, "adv_probe_error") if "train/adv_probe_error" in runner.message_hub.log_scalars else []
        assert len(found) == (2 if probed and interval == 2 else 0)
    assert same(dict(states[0]), dict(states[1]))


def test_the_probe_is_the_stronger_attack_on_the_same_images(tmp_path, monkeypatch):
    """Half of the batch, at most 4 images, at the radius of the iteration; both numbers are those of the attacks."""
    seen = []
    monkeypatch.setattr(overfitting, "fooled", lambda weak, strong: seen.append((weak, strong)))
    config = adversarial(FGSM, iters=1, interval=1)
    config.train_dataloader.batch_size = 6
    config.train_dataloader.sampler.shuffle = False
    runner = train(config, work_dir=tmp_path)
    hook = OverfittingHook(interval=1)
    hook.before_train(runner)
    torch.manual_seed(0)
    batch = runner.train_dataloader.collate_fn([runner.train_dataloader.dataset[index] for index in range(6)])
    weak, strong = hook._probe(runner, hook.trainer.attack, batch)
    segmenter = hook.trainer.segmenter
    images = torch.stack(batch["inputs"][:3])[:, [2, 1, 0]].float() / 255
    labels = torch.stack([sample.gt_sem_seg.data[0] for sample in batch["data_samples"][:3]])
    expected = hook.trainer.attack(segmenter, images, labels).pixel_error.mean()
    assert weak == pytest.approx(float(expected), abs=1e-6) and len(seen) == 1
    assert 0 <= strong <= 1


def probed(folder, attack, dataset="ToyScenes", **form):
    """The hook after a standard training, beside an attack of this form, its runner, a batch, and its first two images
    with their labels."""
    config = adversarial(attack, iters=20, interval=1)
    config.custom_hooks[-1].update(start=1000, **form)
    config.train_dataloader.dataset = dict(type=dataset)
    runner = train(config, work_dir=folder)
    hook = OverfittingHook(interval=1)
    hook.before_train(runner)
    batch = runner.train_dataloader.collate_fn([runner.train_dataloader.dataset[index] for index in range(4)])
    images = torch.stack(batch["inputs"][:2])[:, [2, 1, 0]].float() / 255
    return hook, runner, batch, images, torch.stack([one.gt_sem_seg.data[0] for one in batch["data_samples"][:2]])


def test_a_kept_perturbation_is_probed_from_where_it_ended(tmp_path):
    """One small step finds little by itself, and as much as PGD from where many of them have come to."""
    one = dict(LAST, eps="48/255", steps=1, step_size="2/255", random_start=False)
    hook, runner, batch, images, labels = probed(tmp_path, one, FlippedScenes.__name__, keep_perturbations=True)
    segmenter, kept, samples = hook.trainer.segmenter, hook.trainer.form.kept, batch["data_samples"][:2]
    attacked = build_attack(one, steps=40)(segmenter, images, labels).images
    kept.keep(samples, attacked - images)
    before = dict(kept.changes)
    weak, strong = hook._probe(runner, hook.trainer.attack, batch)
    expected = hook.trainer.attack(segmenter, images, labels, start=kept.starts(samples, images)).pixel_error.mean()
    assert weak == pytest.approx(float(expected), abs=1e-6) and not fooled(weak, strong)
    assert same(before, kept.changes)  # the probe itself is no visit
    kept.changes = {}
    assert fooled(*hook._probe(runner, hook.trainer.attack, batch))


def test_an_attack_at_half_size_in_bf16_is_measured_as_the_step_sees_it(tmp_path, monkeypatch):
    """At full size and in float32, like the stronger one."""
    hook, runner, batch, images, labels = probed(tmp_path, LAST, precision="bf16", scale=0.5)
    own, seen = ToySegmentor.extract_feat, []

    def spy(self, images):
        seen.append((images.shape[-1], torch.is_autocast_enabled("cpu")))
        return own(self, images)

    monkeypatch.setattr(ToySegmentor, "extract_feat", spy)
    errors, measured = overfitting._wrong, []
    monkeypatch.setattr(overfitting, "_wrong", lambda *given: measured.append(given) or errors(*given))
    weak, _ = hook._probe(runner, hook.trainer.attack, batch)
    assert seen[:3] == [(16, True)] * 3 and {*seen[3:]} == {(32, False)}
    ((segmenter, attacked, _),) = measured
    assert 4 / 255 < (attacked - images).abs().max() <= 8 / 255 + 1e-6
    with frozen_eval(segmenter), torch.no_grad():
        predictions, valid = segmenter(attacked).argmax(1), labels != 255
    expected = [(predictions[at] != labels[at])[valid[at]].float().mean() for at in range(2)]
    assert weak == pytest.approx(float(sum(expected)) / 2, abs=1e-6)


@pytest.mark.parametrize(
    ("weak", "strong", "expected"),
    [
        (0.11, 0.46, True),
        (0.11, 0.18, False),
        (0.29, 0.30, False),
        (0.30, 0.49, False),
        (0.02, 0.11, False),
        (0.60, 0.99, False),
    ],
)
def test_what_counts_as_fooled(weak, strong, expected):
    assert fooled(weak, strong) is expected


def validations(*mious, losses=None):
    losses = losses or [1 / (1 + place) for place in range(len(mious))]
    return [
        Validation(100 * place, miou, loss) for place, (miou, loss) in enumerate(zip(mious, losses, strict=True), 1)
    ]


@pytest.mark.parametrize(
    ("history", "best"),
    [
        (validations(50, 60, 57, 56, 55), 200),
        (validations(50, 60, 57.9, 57.9, 57.9), 200),
        (validations(50, 60, 58, 57, 57), None),  # one of three is not below by more than 2
        (validations(50, 60, 55, 55), None),  # only two
        (validations(50, 60, 57, 56, 55, 61), None),
        (validations(60, 50, 50, 50, losses=[0.4, 0.5, 0.5, 0.4]), None),  # the loss has not fallen
        ([], None),
    ],
)
def test_what_counts_as_robust_overfitting(history, best):
    found = overfitted(history)
    assert (found and found.iteration) == best


def falls_from_60(monkeypatch):
    """Robust mIoU by iteration, after 4 at its best, while the losses fall."""
    mious = {2: 50.0, 4: 60.0, 6: 57.0, 7: 57.0, 8: 56.0, 10: 55.0}

    monkeypatch.setattr(RobustValidationHook, "measure", lambda hook, runner: (mious[runner.iter], 0.0))
    monkeypatch.setattr(overfitting, "_losses", lambda runner: 1 - np.arange(runner.iter) / 100)


@pytest.mark.parametrize("resumed", [False, True])
@pytest.mark.parametrize("save_best", [None, "robust/mIoU"])
def test_robust_overfitting_names_the_best_checkpoint(save_best, resumed, tmp_path, monkeypatch):
    falls_from_60(monkeypatch)
    config = with_validation(toy_config(iters=10))
    config.default_hooks.checkpoint.update(interval=1000 if save_best else 1, save_best=save_best)
    if resumed:
        first = with_validation(toy_config(iters=7))  # its last checkpoint comes after the third validation
        first.default_hooks.checkpoint.update(interval=1000 if save_best else 1, save_best=save_best)
        train(first, work_dir=tmp_path)
    train(config, work_dir=tmp_path, resume=resumed)
    told = logged(tmp_path)
    assert told.count("robust overfitting") == 1
    assert "robust/mIoU was 60.00 after 4 iterations" in told and "now 55.00" in told
    assert f"take {tmp_path / ('best_robust_mIoU_iter_4.pth' if save_best else 'iter_4.pth')}" in told


def free(iters):
    config = with_validation(toy_config(dict(type="FreeAdversarialTrainingHook", eps="8/255", replays=1), attack=None))
    config.train_cfg.max_iters = iters
    return config


def test_free_training_is_not_probed_and_says_so(tmp_path, monkeypatch):
    """Its robust overfitting is seen like that of any other."""
    falls_from_60(monkeypatch)
    runner = train(free(10), work_dir=tmp_path)
    told = logged(tmp_path)
    assert "train/adv_probe_error" not in runner.message_hub.log_scalars
    assert told.count("WARNING - free training is not probed for catastrophic overfitting") == 1
    assert told.count("robust overfitting: robust/mIoU was 60.00 after 4 iterations") == 1


@pytest.mark.parametrize("action", [dict(action="stop"), dict(action="steps", steps=5)])
def test_an_action_in_free_training_is_refused(action, tmp_path):
    config = free(1)
    config.custom_hooks.append(dict(type="OverfittingHook", **action))
    with pytest.raises(UserError, match=r"free training is not probed .* so action='st.* leave action out"):
        train(config, work_dir=tmp_path)


@pytest.mark.parametrize("attack", [None, PGD])
def test_other_trainings_say_nothing_of_it(attack, tmp_path):
    train(toy_config(iters=1, attack=attack), work_dir=tmp_path)
    assert "is not probed" not in logged(tmp_path)


def test_without_a_checkpoint_the_way_to_keep_one_is_told(tmp_path, monkeypatch):
    falls_from_60(monkeypatch)
    train(with_validation(toy_config(iters=10)), work_dir=tmp_path)
    assert "take an earlier checkpoint (save_best='robust/mIoU'" in logged(tmp_path)


def test_wrong_settings_are_told_at_once():
    with pytest.raises(UserError, match="interval to be an integer >= 1, got 0"):
        OverfittingHook(interval=0)
