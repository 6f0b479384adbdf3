"""Every shipped recipe trains some iterations on miniature scenes, ends finite, and does what it alone does."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from segrobust.attacks import regions
from segrobust.commands.training import train
from segrobust.hooks import AdversarialTrainingHook, FreeAdversarialTrainingHook, OverfittingHook, RobustValidationHook
from segrobust.hooks.cheaper import FOLLOWED
from segrobust.models.checkpoint.loading import load_state_dict
from segrobust.models.mm import load_config
from tests.hooks.test_cheaper import FlippedScenes
from tests.hooks.toys import After, Before, ToySegmentor, history, hook_of, toy_config, with_plain_validation
from tests.recipes.toys import ToyDDCAT

FOLDER = Path(__file__).resolve().parents[2] / "configs" / "fpn"
NAMES = {
    file.stem.split("-", 1)[1].rpartition(f"-{iterations}_")[0]: file
    for iterations in (1500, 1070)
    for file in FOLDER.glob(f"*-{iterations}_camvid-180x240.py")
}
PLAIN = {  # recipe: attack, radius in 1/255, backward passes, share of clean images
    "segpgdat-linf4-s3": ("SegPGD", 4, 3, 0),
    "segpgdat-clean50-linf8-s3": ("SegPGD", 8, 3, 0.5),
    "cospgdat-linf4-s3": ("CosPGD", 4, 3, 0),
    "cepgdat-linf4-s3": ("CEPGD", 4, 3, 0),
    "cepgdat-clean50-linf4-s3": ("CEPGD", 4, 3, 0.5),
    "tsallispgdat-linf4-s3": ("TsallisPGD", 4, 3, 0),
    "sharppgdat-linf4-s3": ("SharpPGD", 4, 3, 0),
    "rppgdat-linf4-s3": ("RPPGD", 4, 3, 0),
    "fastat-linf4-s1": ("CEPGD", 4, 1, 0),
    "cepgdat-bf16-linf4-s3": ("CEPGD", 4, 3, 0),
    "cepgdat-half-linf4-s3": ("CEPGD", 4, 3, 0),
    "trades-linf4-s3": ("KLPGD", 4, 3, 0),
    "mart-linf4-s3": ("CEPGD", 4, 3, 0),
    "ddcat-linf4-s3": ("CEPGD", 4, 3, 0),
}
PAIRED = ("trades", "mart", "ddcat")  # each image is there twice, clean and attacked
OTHERS = {
    "cepgdat-tsallisloss-linf4-s3",
    "cepgdat-swa-linf4-s3",
    "cepgdat-earlystop-linf4-s3",
    "freeat-linf4-m4",
    "cepgdat-kept-linf4-s1",
}


@HOOKS.register_module()
class KeptWeights(Hook):
    """The weights after every iteration."""

    def __init__(self) -> None:
        self.weights = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self.weights.append({key: value.clone() for key, value in runner.model.state_dict().items()})


def miniature(name, iters=4, batch=2):
    """The recipe of a shipped config on miniature scenes, without its warm-up."""
    shipped = load_config(NAMES[name])
    config = toy_config(attack=None, iters=iters)
    config.train_dataloader.batch_size = batch
    if shipped.model.type == "DDCAT":
        config.model.type = ToyDDCAT.__name__
    loss = shipped.model.decode_head.loss_decode
    if loss.type != "CrossEntropyLoss":
        config.model.decode_head.loss_decode = {**loss, "class_weight": loss.class_weight[:3]}
    hooks = [one for one in shipped.custom_hooks if one["type"] not in ("ReseedHook", "RobustValidationHook")]
    for one in hooks:
        one.update({"eps_warmup": 0} if one["type"] == "AdversarialTrainingHook" else {})
    config.custom_hooks = [dict(type="Before"), *hooks, dict(type="After"), dict(type="KeptWeights")]
    return config


def assert_finite(runner, iters):
    losses = history(runner, "loss")
    assert len(losses) == iters and torch.isfinite(torch.tensor(losses)).all()
    assert all(torch.isfinite(one).all() for one in runner.model.state_dict().values())


def test_every_recipe_of_the_table_is_tried():
    rows = {name for name in NAMES if "at-" in name or name.startswith(("trades", "mart"))}
    assert rows - {"pgdat-linf4-s3", "almaproxat-linf4-s5"} == {*PLAIN, *OTHERS}


@pytest.mark.parametrize("name", PLAIN)
def test_what_is_attacked_how_and_how_much(name, tmp_path):
    attack, radius, backwards, clean = PLAIN[name]
    runner = train(miniature(name, batch=4), work_dir=tmp_path)
    assert_finite(runner, 4)
    own = hook_of(runner, AdversarialTrainingHook).attack
    assert (own.name, own.eps * 255, own.passes()[1], own.random_start, own.keep) == (
        attack, pytest.approx(radius), backwards, True, "last")  # fmt: skip
    before, after = hook_of(runner, Before).images, hook_of(runner, After).images
    for given, got in zip(before, after, strict=True):
        changes = [(one.float() - other).abs().amax() for one, other in zip(got[-4:], given, strict=True)]
        assert sum(change == 0 for change in changes) == 4 * clean
        assert max(changes) == pytest.approx(radius, abs=1e-3)
        assert len(got) == (8 if name.startswith(PAIRED) else 4)


def test_the_regions_of_rp_pgd_remember(tmp_path, monkeypatch):
    seen, own = [], regions.Regions.__call__

    def spy(self, pixels):
        weights = own(self, pixels)
        seen.append((self, (self.boundary & pixels.correct).sum()))
        return weights

    monkeypatch.setattr(regions.Regions, "__call__", spy)
    train(miniature("rppgdat-linf4-s3", iters=8), work_dir=tmp_path)
    assert len(seen) == 24 and len({id(memory) for memory, _ in seen}) == 8
    assert sum(count for _, count in seen) > 0  # pixels that are right again and still on the boundary


@pytest.mark.parametrize(
    ("name", "beta", "terms"), [("trades-linf4-s3", 6, ()), ("mart-linf4-s3", 5, ("loss_margin",))]
)
def test_the_divergence_has_its_part(name, beta, terms, tmp_path):
    runner = train(miniature(name), work_dir=tmp_path)
    divergence = history(runner, "kl")
    assert min(divergence) > 0 and history(runner, "loss_kl") == pytest.approx([beta * one for one in divergence])
    assert all(min(history(runner, term)) > 0 for term in terms)


def test_the_branches_of_ddc_at_divide_the_pixels(tmp_path):
    runner = train(miniature("ddcat-linf4-s3"), work_dir=tmp_path)
    shares = history(runner, "auxiliary_share")
    assert len(shares) == 4 and 0 < min(shares) <= max(shares) < 1
    assert min(history(runner, "mask_branch.loss_ce")) > 0
    weights = [one for one in hook_of(runner, KeptWeights).weights]
    for statistic in ("running_mean", "running_var"):
        name = f"auxiliary_branch.convs.0.bn.{statistic}"
        assert not torch.equal(weights[-1][name], weights[0][name])
        assert not torch.equal(weights[-1][name], weights[-1][name.replace("auxiliary_branch", "decode_head")])


def test_fast_training_is_guarded(tmp_path):
    config = miniature("fastat-linf4-s1", iters=2)
    runner = train(config, work_dir=tmp_path)
    guard = hook_of(runner, OverfittingHook)
    assert (guard.action, guard.steps, guard.interval) == ("steps", 3, 50)
    assert guard.stronger.passes() == (4, 3) and hook_of(runner, AdversarialTrainingHook).attack.passes() == (2, 1)


def test_free_training_sees_every_batch_four_times(tmp_path):
    config, shipped = miniature("freeat-linf4-m4", iters=8), load_config(NAMES["freeat-linf4-m4"])
    sampler = shipped.train_dataloader.sampler
    assert (sampler.type, sampler.batch_size, shipped.train_dataloader.batch_size) == ("SeededInfiniteSampler", 8, 8)
    config.train_dataloader.sampler = {**sampler, "batch_size": 2}
    config.train_dataloader.dataset = dict(type="SeededDataset", dataset=config.train_dataloader.dataset)
    runner = train(config, work_dir=tmp_path)
    assert_finite(runner, 8)
    assert hook_of(runner, FreeAdversarialTrainingHook).replays == 4
    before, after = hook_of(runner, Before).images, hook_of(runner, After).images
    assert [torch.equal(one[0], other[0]) for one, other in itertools.pairwise(before)] == (
        [True] * 3 + [False] + [True] * 3)  # fmt: skip
    changes = [float((fed[0].detach() - clean[0]).abs().max()) for clean, fed in zip(before, after, strict=True)]
    assert changes[0] == 0 and min(changes[1:]) > 0 and max(changes) == pytest.approx(4, abs=1e-3)


def test_perturbations_are_kept_and_grow_over_the_visits(tmp_path):
    config, shipped = miniature("cepgdat-kept-linf4-s1", iters=6), load_config(NAMES["cepgdat-kept-linf4-s1"])
    names = [step.type for step in shipped.train_dataloader.dataset.dataset.pipeline]
    assert names == ["LoadPair", "RandomFlip", "PhotoMetricDistortion", "PackSegInputs"] and {*names} < {*FOLLOWED}
    config.train_dataloader.dataset = dict(type=FlippedScenes.__name__)
    runner = train(config, work_dir=tmp_path)
    assert_finite(runner, 6)
    trainer = hook_of(runner, AdversarialTrainingHook)
    assert trainer.attack.passes() == (2, 1) and len(trainer.form.kept.changes) == 4
    changes = [float(change.abs().max()) for change in trainer.form.kept.changes.values()]
    assert max(changes) == pytest.approx(4 / 255, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "size", "half"), [("cepgdat-bf16-linf4-s3", 32, True), ("cepgdat-half-linf4-s3", 16, False)]
)
def test_the_attack_alone_is_cheaper(name, size, half, tmp_path, monkeypatch):
    seen, own = {True: set(), False: set()}, ToySegmentor.extract_feat

    def spy(self, images):
        if len(images) > 1:  # one alone is what models/folded.py looks at
            seen[self.training].add((images.shape[-1], torch.is_autocast_enabled("cpu")))
        return own(self, images)

    monkeypatch.setattr(ToySegmentor, "extract_feat", spy)
    train(miniature(name, iters=2), work_dir=tmp_path)
    assert seen == {True: {(32, False)}, False: {(size, half)}}


def test_the_tsallis_loss_moves_from_cross_entropy(tmp_path):
    runner = train(miniature("cepgdat-tsallisloss-linf4-s3"), work_dir=tmp_path)
    assert_finite(runner, 4)
    loss = runner.model.decode_head.loss_decode
    assert min(history(runner, "decode.loss_tsallis")) > 0
    assert [loss.q_at(progress) for progress in (0, 0.5, 1)] == [1.0, 0.75, 0.5]


def test_averaged_weights_are_those_that_load(tmp_path):
    config = miniature("cepgdat-swa-linf4-s3")
    (averaging,) = [one for one in config.custom_hooks if one["type"] == "EMAHook"]
    averaging.begin_iter = 2
    runner = train(config, work_dir=tmp_path)
    assert_finite(runner, 4)
    found, kept = load_state_dict(tmp_path / "iter_4.pth"), hook_of(runner, KeptWeights).weights[1:]
    assert len(kept) == 3
    for name, value in found.items():
        if value.is_floating_point():  # batch normalisation's statistics, too
            torch.testing.assert_close(value, torch.stack([one[name] for one in kept]).mean(0), rtol=1e-4, atol=1e-6)
    assert not torch.equal(found["decode_head.conv_seg.weight"], kept[-1]["decode_head.conv_seg.weight"])


def test_it_stops_where_robustness_no_longer_rises(tmp_path, monkeypatch):
    mious = {2: 40.0, 4: 50.0, 6: 50.1, 8: 45.0, 10: 50.1, 12: 60.0}
    monkeypatch.setattr(RobustValidationHook, "measure", lambda hook, runner: (mious[runner.iter], 0.0))
    shipped = load_config(NAMES["cepgdat-earlystop-linf4-s3"])
    config = with_plain_validation(miniature("cepgdat-earlystop-linf4-s3", iters=12))
    config.custom_hooks = [*config.custom_hooks, shipped.robust_validation]
    config.default_hooks.checkpoint.save_best = shipped.default_hooks.checkpoint.save_best
    runner = train(config, work_dir=tmp_path)
    assert runner.iter == 10 and (tmp_path / "best_robust_mIoU_iter_6.pth").is_file()
    (log,) = tmp_path.glob("*/*.log")
    assert "what EarlyStoppingHook remembers of past validations is not in the checkpoints" in log.read_text()
