"""Losses over clean and attacked images in a training: each half goes through the network alone, and nothing else
changes."""

from __future__ import annotations

import copy
import shutil

import pytest
import torch
import torch.nn.functional as F
from mmengine.runner import CheckpointLoader

from segrobust.commands.training import train
from segrobust.core.errors import UserError
from segrobust.hooks import AdversarialTrainingHook
from segrobust.recipes.paired import build_paired_loss
from segrobust.recipes.pairs import Pairs
from tests.hooks.toys import PGD, ToyScenes, history, hook_of, same, toy_config

KLPGD = dict(PGD, type="KLPGD")


def paired(loss="TRADES", attack=KLPGD, **options):
    """A config whose hook has a loss; no dropout, so that the two halves may be compared."""
    config = toy_config(attack=None, **options)
    config.custom_hooks = [dict(type="AdversarialTrainingHook", attack=attack, loss=loss)]
    config.model.decode_head.dropout_ratio = 0.0
    return config


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train(paired(), work_dir=tmp_path_factory.mktemp("trades"))


def test_the_divergence_is_in_the_log_and_the_segmentor_has_its_own_loss_back(trained):
    divergences, losses = history(trained, "kl"), history(trained, "loss")
    assert len(losses) == 4 and min(divergences) > 0 and all(map(torch.isfinite, torch.tensor(losses)))
    parts = [history(trained, name) for name in ("decode.loss_ce", "loss_kl")]
    assert losses == pytest.approx([sum(both) for both in zip(*parts, strict=True)])
    assert parts[1] == pytest.approx([6 * one for one in divergences])
    assert "loss" not in vars(trained.model) and hook_of(trained, AdversarialTrainingHook).pairs is None


def halves(model, count=3):
    """A batch of clean images and others of the same labels, as the network gets it in training."""
    samples = [ToyScenes()[index] for index in range(count)]
    noise = [(one["inputs"].float() + 20 * torch.randn(one["inputs"].shape)).clamp(0, 255) for one in samples]
    data = dict(
        inputs=[one["inputs"] for one in samples] + noise, data_samples=[one["data_samples"] for one in samples] * 2
    )
    return model.data_preprocessor(data, True)


def reference(model, data, beta):
    """TRADES from two forward passes of the network in training mode, written out."""
    count = len(data["inputs"]) // 2
    labels = torch.stack([one.gt_sem_seg.data[0] for one in data["data_samples"][:count]])
    logits = [model.decode_head(model.extract_feat(half)) for half in data["inputs"].split(count)]
    clean, attacked = (F.interpolate(one, labels.shape[-2:], mode="bilinear") for one in logits)
    own = F.cross_entropy(clean, labels, ignore_index=255, reduction="none").mean()  # mmseg's mean is over void, too
    each = F.kl_div(attacked.log_softmax(1), clean.softmax(1), reduction="none").sum(1)
    return own + beta * each[labels != 255].mean()


def test_the_loss_is_that_of_two_passes(trained):
    torch.manual_seed(0)
    models = [copy.deepcopy(trained.model).train() for _ in range(2)]
    data = halves(models[0])
    pairs = Pairs(models[0], build_paired_loss("TRADES"))
    pairs.active = True
    found, _ = models[0].parse_losses(models[0](**data, mode="loss"))
    expected = reference(models[1], data, 6.0)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    for value in (found, expected):
        value.backward()
    grads = [{name: one.grad for name, one in model.named_parameters()} for model in models]
    for name, one in grads[1].items():
        torch.testing.assert_close(grads[0][name], one, rtol=1e-3, atol=1e-5)
    for name, one in models[1].named_buffers():  # two updates of batch normalisation, none of a mixture
        torch.testing.assert_close(dict(models[0].named_buffers())[name], one)


def test_the_same_images_twice_have_no_divergence(trained):
    model = copy.deepcopy(trained.model).train()
    data = halves(model)
    data["inputs"] = data["inputs"][:3].repeat(2, 1, 1, 1)
    pairs = Pairs(model, build_paired_loss("TRADES"))
    pairs.active = True
    assert model(**data, mode="loss")["kl"] == 0
    pairs.active = False
    assert "kl" not in model(**data, mode="loss")


def test_iterations_without_an_attack_train_on_the_clean_images_alone(tmp_path):
    config = paired()
    config.custom_hooks[0].update(start=2)
    runner = train(config, work_dir=tmp_path)
    assert len(history(runner, "kl")) == 2 and len(history(runner, "loss")) == 4
    assert hook_of(runner, AdversarialTrainingHook).loss.name == "TRADES"


def test_auxiliary_heads_keep_their_part(tmp_path):
    config = paired("MART", PGD, iters=2)
    config.model.auxiliary_head = dict(config.model.decode_head, in_index=0, in_channels=4)
    runner = train(config, work_dir=tmp_path)
    parts = [history(runner, name) for name in ("decode.loss_ce", "aux.loss_ce", "loss_margin", "loss_kl")]
    assert history(runner, "loss") == pytest.approx([sum(each) for each in zip(*parts, strict=True)])


def test_a_resume_is_bitwise(tmp_path):
    def run(folder, resume=False):
        config = paired(iters=4)
        config.default_hooks.checkpoint.interval = 2
        train(config, work_dir=folder, resume=resume)
        return CheckpointLoader.load_checkpoint(str(folder / "iter_4.pth"), map_location="cpu")["state_dict"]

    expected = run(tmp_path / "straight")
    (tmp_path / "resumed").mkdir()
    shutil.copy(tmp_path / "straight" / "iter_2.pth", tmp_path / "resumed")
    (tmp_path / "resumed" / "last_checkpoint").write_text("iter_2.pth")
    assert same(dict(run(tmp_path / "resumed", resume=True)), dict(expected))


def test_a_network_without_a_decode_head_is_refused_in_one_line():
    with pytest.raises(UserError, match="TRADES needs a model of mmseg with a decode_head, which Conv2d has not"):
        Pairs(torch.nn.Conv2d(3, 2, 1), build_paired_loss("TRADES"))


def test_what_does_not_fit_is_refused(tmp_path):
    with pytest.raises(UserError, match="all clean ones in it; leave clean_ratio out"):
        AdversarialTrainingHook(PGD, clean_ratio=0.5, loss="TRADES")
    config = paired()
    config.model.decode_head.update(
        num_classes=2, out_channels=1, loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=True)
    )
    with pytest.raises(UserError, match="FCNHead has one sigmoid channel"):
        train(config, work_dir=tmp_path)


def test_activation_checkpointing_on_several_processes_is_refused(tmp_path, monkeypatch):
    """DDP ends with an error of its own in the second pass."""
    monkeypatch.setattr("segrobust.recipes.pairs.get_world_size", lambda: 2)
    with pytest.raises(UserError, match=r"TRADES: two passes with activation checkpointing .* set with_cp=False"):
        train(paired(), work_dir=tmp_path / "refused")
    config = paired(iters=1)
    config.model.backbone.with_cp = False
    assert train(config, work_dir=tmp_path / "without").iter == 1


def test_a_head_without_one_map_is_refused(trained):
    model = copy.deepcopy(trained.model).train()
    pairs = Pairs(model, build_paired_loss("TRADES"))
    pairs.active = True
    model.decode_head.loss = lambda *given: {}
    with pytest.raises(UserError, match="one map of logits from the head, which FCNHead does not give"):
        model(**halves(model), mode="loss")
