"""What the hook feeds to the loss, when it does so, and what it leaves alone."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from segrobust.attacks import build_attack
from segrobust.attacks.base import BoundedAttack
from segrobust.commands.training import train
from segrobust.core.errors import UserError
from segrobust.core.seeds import seed_of
from segrobust.hooks import AdversarialTrainingHook
from segrobust.models.adapters.mmseg import MMSegSegmenter
from segrobust.models.folded import Folding
from tests.hooks.toys import (
    MEAN,
    PGD,
    STD,
    After,
    Before,
    ToyScenes,
    history,
    hook_of,
    same,
    toy_config,
    toy_model,
)

OBSERVERS = (dict(type="Before"), dict(type="After"))


def run(folder, *hooks, **changes):
    """A short training between two observers."""
    runner = train(toy_config(*OBSERVERS, *hooks, **changes), work_dir=folder)
    return runner, hook_of(runner, Before), hook_of(runner, After)


def hook(**fields):
    return dict(type="AdversarialTrainingHook", attack=PGD, **fields)


def normalised(image):
    """What the training preprocessor makes of a BGR image, written anew."""
    return (image[[2, 1, 0]].float() - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return run(tmp_path_factory.mktemp("trained"))


def test_the_loss_sees_the_attacked_images(trained):
    _, before, after = trained
    assert len(after.losses_saw) == 4
    for clean, attacked, seen in zip(before.images, after.images, after.losses_saw, strict=True):
        assert torch.equal(seen, torch.stack([normalised(image) for image in attacked]))
        for old, new in zip(clean, attacked, strict=True):
            change = (new - old).abs()
            assert new.dtype == torch.float32 and new.shape == old.shape
            assert change.max() <= 8 + 1e-4 and change.mean() > 4
            assert new.min() >= 0 and new.max() <= 255


def test_attacked_images_are_those_of_the_attack_called_directly(trained):
    """The same object, the same seeds: also proves channel order, units and labels."""
    runner, before, after = trained
    runner.model.load_state_dict(before.states[0]["tensors"])
    images = torch.stack(before.images[0])[:, [2, 1, 0]].float() / 255
    labels = torch.stack([sample.gt_sem_seg.data[0] for sample in before.samples[0]])
    seeds = [seed_of(0, "attack", 0, 0, index) for index in range(2)]
    attacked = MMSegSegmenter.live(runner.model)
    folding = Folding(attacked)
    with folding(images):
        result = build_attack(PGD)(attacked, images, labels, seeds=seeds)
    assert folding.pairs
    assert torch.equal(result.images[:, [2, 1, 0]] * 255, torch.stack(after.images[0]))
    assert history(runner, "adv_pixel_error")[0] == pytest.approx(float(result.pixel_error.mean()))


def test_the_scalars_are_logged(trained):
    runner, _, _ = trained
    assert history(runner, "adv_eps") == [8 / 255] * 4
    assert all(0 < error <= 1 for error in history(runner, "adv_pixel_error"))
    spent, whole = history(runner, "adv_time"), history(runner, "time")
    assert all(0 < attack < iteration for attack, iteration in zip(spent, whole, strict=True))
    (log,) = Path(runner.work_dir).glob("*/*.log")
    assert log.read_text().count("adv_pixel_error: 0.") == 4


def test_the_attack_leaves_the_model_alone(tmp_path):
    """Gradients half accumulated, a frozen parameter and one part in eval mode: all as before, bitwise."""
    config = toy_config(dict(type="Before", mixed_modes=True), dict(type="After"))
    config.optim_wrapper.accumulative_counts = 2
    runner = train(config, work_dir=tmp_path)
    before, after = hook_of(runner, Before), hook_of(runner, After)
    for old, new in zip(before.states, after.states, strict=True):
        assert same(old, new)
    accumulated = [sum(g.abs().sum() for g in state["gradients"].values() if g is not None) for state in after.states]
    assert accumulated[0] == accumulated[2] == 0 and min(accumulated[1], accumulated[3]) > 0
    assert set(after.states[1]["modes"].values()) == set(after.states[1]["requires_grad"].values()) == {True, False}
    assert all(after.states[1]["with_cp"].values())


def test_batch_norm_counts_training_steps_only(trained):
    _, _, after = trained
    counted = [int(state["tensors"]["backbone.stem.1.num_batches_tracked"]) for state in after.states]
    assert counted == [0, 1, 2, 3]


def test_accumulation_sums_the_gradients_of_attacked_batches(tmp_path):
    """After two of three batches (accumulative_counts=3) the gradients equal those of two backward passes by hand."""
    config = toy_config(*OBSERVERS, iters=3)
    config.optim_wrapper.accumulative_counts = 3
    config.model.decode_head.dropout_ratio = 0.0
    runner = train(config, work_dir=tmp_path)
    before, after = hook_of(runner, Before), hook_of(runner, After)
    model = runner.model
    model.load_state_dict(before.states[0]["tensors"])
    model.zero_grad()
    model.train()
    for images, samples in zip(after.images[:2], before.samples[:2], strict=True):
        data = model.data_preprocessor(dict(inputs=images, data_samples=samples), True)
        loss, _ = model.parse_losses(model(**data, mode="loss"))
        (loss / 3).backward()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.grad, after.states[2]["gradients"][name]), name


def test_ema_averages_the_weights_of_adversarial_training(tmp_path):
    """avg <- 0.9 avg + 0.1 w after every step, on the weights seen before the next one."""
    from mmengine.hooks import EMAHook

    runner, before, _ = run(tmp_path, dict(type="EMAHook", momentum=0.1), iters=5)
    name = "decode_head.conv_seg.weight"
    weights = [state["tensors"][name] for state in before.states[1:]] + [runner.model.state_dict()[name]]
    expected = weights[0]
    for weight in weights[1:]:
        expected = 0.9 * expected + 0.1 * weight
    average = hook_of(runner, EMAHook).ema_model.module.state_dict()[name]
    assert torch.allclose(average, expected, atol=1e-6)
    assert not torch.allclose(average, weights[-1], atol=1e-4)


def test_clean_ratio_leaves_that_share_untouched(tmp_path):
    runner, before, after = run(tmp_path, hook(clean_ratio=0.5), attack=None, **{"train_dataloader.batch_size": 4})
    for clean, fed in zip(before.images, after.images, strict=True):
        untouched = [new.dtype == torch.uint8 and torch.equal(new, old) for new, old in zip(fed, clean, strict=True)]
        assert sum(untouched) == 2
    assert len(history(runner, "adv_pixel_error")) == 4


def test_clean_ratio_counts():
    half, some = AdversarialTrainingHook(PGD, clean_ratio=0.5), AdversarialTrainingHook(PGD, clean_ratio=0.3)
    chosen = [half.choose(8, 0, iteration, 0) for iteration in range(50)]
    assert all(len(set(indices)) == 4 and set(indices) <= set(range(8)) for indices in chosen)
    assert len({tuple(indices) for indices in chosen}) > 20
    assert chosen[7] == half.choose(8, 0, 7, 0)
    assert chosen[7] != half.choose(8, 1, 7, 0) or chosen[8] != half.choose(8, 1, 8, 0)
    assert [half.choose(8, 0, i, 0) for i in range(9)] != [half.choose(8, 0, i, 1) for i in range(9)]
    clean = [4 - len(some.choose(4, 0, iteration, 0)) for iteration in range(4000)]
    assert set(clean) == {1, 2} and sum(clean) / 4000 == pytest.approx(1.2, abs=0.03)
    assert AdversarialTrainingHook(PGD).choose(3, 0, 0, 0) == [0, 1, 2]


def test_start_and_warmup_have_exact_radii(tmp_path):
    runner, before, after = run(tmp_path, hook(start=2, eps_warmup=4), attack=None, iters=8)
    expected = [0, 0, 0, 2, 4, 6, 8, 8]
    assert history(runner, "adv_eps") == pytest.approx([value / 255 for value in expected], abs=1e-9)
    assert len(history(runner, "adv_pixel_error")) == 5
    for radius, clean, fed in zip(expected, before.images, after.images, strict=True):
        change = max((new.float() - old.float()).abs().max() for new, old in zip(fed, clean, strict=True))
        assert float(change) == pytest.approx(radius, abs=1e-3)


def test_start_without_warmup_is_at_full_strength_at_once():
    trainer = AdversarialTrainingHook(PGD, start=3)
    assert trainer.attack_at(2) is None and trainer.attack_at(3) is trainer.attack


def test_every_image_has_its_own_seed():
    places = [(i, r, n) for i in range(20) for r in range(4) for n in range(16)]
    assert len({seed_of(0, "attack", *place) for place in places}) == len(places)
    assert seed_of(0, "attack", 1) != seed_of(0, "order", 1) != seed_of(1, "order", 1)
    assert seed_of(0, "attack", 5, 0) != seed_of(0, "attack", 5)


def test_padding_of_the_training_preprocessor_does_not_matter(tmp_path):
    _, _, plain = run(tmp_path / "plain", iters=1)
    _, _, padded = run(tmp_path / "padded", iters=1, model=toy_model(size=(48, 40)))
    assert padded.losses_saw[0].shape[2:] == (48, 40)
    assert same(plain.images[0], padded.images[0])
    assert (padded.losses_saw[0][:, :, 32:] == 0).all()


def test_images_of_different_sizes_share_a_batch(tmp_path):
    _, before, after = run(
        tmp_path,
        iters=2,
        model=toy_model(size=(40, 40)),
        **{"train_dataloader.dataset.wide": (1, 3, 5), "train_dataloader.batch_size": 6},
    )
    assert {tuple(image.shape) for image in after.images[0]} == {(3, 32, 32), (3, 32, 40)}
    for clean, fed in zip(before.images[0], after.images[0], strict=True):
        assert fed.shape == clean.shape and 4 < (fed - clean).abs().max() <= 8 + 1e-4


def test_attack_runs_in_the_runners_autocast(tmp_path):
    _, before, after = run(tmp_path, iters=2, **{"optim_wrapper.type": "CpuAutocast"})
    assert after.logits_dtypes == [torch.bfloat16] * 2
    for old, new in zip(before.images[1], after.images[1], strict=True):
        assert new.dtype == torch.float32 and 4 < (new - old).abs().max() <= 8 + 1e-4


@dataclass(frozen=True, kw_only=True)
class Broken(BoundedAttack):
    def run(self, problem):
        return len(problem.clean) + "one"


def test_a_type_error_inside_keeps_its_traceback(tmp_path, monkeypatch):
    monkeypatch.setattr(AdversarialTrainingHook, "attack_at", lambda self, iteration: Broken())
    with pytest.raises(RuntimeError, match="AdversarialTrainingHook: unsupported operand") as caught:
        run(tmp_path)
    assert 'len(problem.clean) + "one"' in "".join(traceback.format_exception(caught.value))


def test_fsdp_is_refused():
    from torch.distributed.fsdp import FullyShardedDataParallel

    sharded = FullyShardedDataParallel.__new__(FullyShardedDataParallel)
    nn.Module.__init__(sharded)
    with pytest.raises(UserError, match="FSDP"):
        MMSegSegmenter.live(nn.Sequential(sharded))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(clean_ratio=1.0), "clean_ratio < 1, got 1.0"),
        (dict(clean_ratio=-0.1), "0 <= clean_ratio"),
        (dict(start=-1), "start to be an integer >= 0, got -1"),
        (dict(eps_warmup=1.5), "eps_warmup to be an integer >= 0, got 1.5"),
        (dict(attack=dict(type="CEPGD", targeted=True)), "must be untargeted"),
        (dict(attack=dict(type="TsalisPGD")), "tsallis-pgd"),
        (dict(attack=dict(type="CEPGD", eps="8")), "8/255"),
    ],
)
def test_wrong_settings_are_told_at_once(fields, message):
    with pytest.raises(UserError, match=message):
        AdversarialTrainingHook(**{"attack": PGD, **fields})


def test_missing_labels_are_told(tmp_path, monkeypatch):
    def without_labels(self, index):
        item = original(self, index)
        del item["data_samples"].gt_sem_seg
        return item

    original = ToyScenes.__getitem__
    monkeypatch.setattr(ToyScenes, "__getitem__", without_labels)
    with pytest.raises(UserError, match="no gt_sem_seg"):
        run(tmp_path)
