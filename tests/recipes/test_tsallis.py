"""TsallisLoss: cross-entropy at q = 1, the expected error at q = 0, and a q that moves with the training."""

from __future__ import annotations

import warnings

import pytest
import torch
from mmengine.registry import MODELS

from segrobust.commands.training import train
from segrobust.core.errors import UserError
from segrobust.recipes import TsallisLoss, tsallis
from tests.hooks.toys import history, toy_config

WEIGHTS = [0.5, 2.0, 1.0]


@pytest.fixture
def given():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, 3, 4, 5, generator=generator)
    labels = torch.randint(3, (2, 4, 5), generator=generator)
    labels[0, :2] = 255
    return logits.requires_grad_(), labels


@pytest.mark.parametrize("options", [{}, dict(class_weight=WEIGHTS), dict(avg_non_ignore=True), dict(loss_weight=0.4)])
def test_q_of_one_is_mmsegs_cross_entropy(options, given):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = MODELS.build(dict(type="mmseg.CrossEntropyLoss", **options))(*given, ignore_index=255)
    found = MODELS.build(dict(type="TsallisLoss", **options))(*given, ignore_index=255)
    torch.testing.assert_close(found, expected)
    near = TsallisLoss(q=1 - 1e-4, **options)(*given, ignore_index=255)
    torch.testing.assert_close(near, expected, rtol=1e-3, atol=0)


@pytest.mark.parametrize("q", [-2.0, 0.0, 0.5])
def test_value_and_gradient_are_those_of_the_paper(q, given):
    logits, labels = given
    valid = labels != 255
    p = logits.softmax(1).movedim(1, -1)[valid][range(int(valid.sum())), labels[valid]]
    weight = torch.tensor(WEIGHTS)[labels[valid]]
    expected = (weight * (1 - p ** (1 - q)) / (1 - q)).sum() / weight.sum()
    found = TsallisLoss(q=q, class_weight=WEIGHTS)(logits, labels, ignore_index=255)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(one, logits, retain_graph=True)[0] for one in (found, expected)))


def test_a_sampler_weighs_pixels_and_no_label_is_no_loss(given):
    logits, labels = given
    weight = torch.zeros(labels.shape)
    weight[1, 0, 0] = 20.0
    found = TsallisLoss(q=0.0)(logits, labels, weight=weight, ignore_index=255)
    p = logits.softmax(1)[1, labels[1, 0, 0], 0, 0]
    torch.testing.assert_close(found, 20 * (1 - p) / labels.numel())
    nothing = torch.full_like(labels, 255)
    for options in ({}, dict(class_weight=WEIGHTS), dict(avg_non_ignore=True)):
        assert TsallisLoss(q=0.5, **options)(logits, nothing, ignore_index=255) == 0


def test_q_moves_over_the_iterations_and_a_resume_goes_on_there(tmp_path, monkeypatch):
    seen, own = [], tsallis.tsallis
    monkeypatch.setattr(tsallis, "tsallis", lambda values, q: seen.append(q) or own(values, q))
    config = toy_config(iters=4)
    config.model.decode_head.loss_decode = dict(type="TsallisLoss", q=1.0, q_end=-1.0, class_weight=WEIGHTS)
    config.default_hooks.checkpoint.interval = 2
    runner = train(config, work_dir=tmp_path)
    assert seen == pytest.approx([1.0, 0.5, 0.0, -0.5])
    assert all(value > 0 for value in history(runner, "decode.loss_tsallis"))
    (tmp_path / "last_checkpoint").write_text(str(tmp_path / "iter_2.pth"))
    seen.clear()
    train(config, work_dir=tmp_path, resume=True)
    assert seen == pytest.approx([0.0, -0.5])


@pytest.mark.parametrize("options", [dict(q=1.5), dict(q_end=2), dict(q=True), dict(q="1")])
def test_a_q_above_one_is_refused(options):
    with pytest.raises(UserError, match="to be a number <= 1"):
        TsallisLoss(**options)
