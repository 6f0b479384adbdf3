"""One sigmoid channel is served as two logits whose argmax is the thresholded prediction, exactly."""

from __future__ import annotations

import logging
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from segrobust.attacks import build_attack
from segrobust.core.errors import UserError
from segrobust.models.adapters.mmseg import MMSegSegmenter
from segrobust.models.network_io import decision_logit, two_logits
from segrobust.models.segmenter import Segmenter
from tests.models.adapters.test_mmseg import SLIDE, loader_batch, pixels
from tests.models.tiny import mmseg_config, stir

THRESHOLDS = (0.001, 0.3, 0.5, 0.9, 0.999)


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_the_decision_is_that_of_the_sigmoid_to_the_last_bit(threshold):
    decision = decision_logit(threshold)
    assert decision == pytest.approx(math.log(threshold / (1 - threshold)), abs=1e-7 / (threshold * (1 - threshold)))
    steps = [torch.tensor(decision)]
    for end in (-math.inf, math.inf):
        step = steps[0]
        for _ in range(40):
            step = torch.nextafter(step, torch.tensor(end))
            steps.append(step)
    z = torch.cat([torch.stack(steps), torch.randn(10_000, generator=torch.Generator().manual_seed(0))])
    logits = two_logits(z.view(1, 1, 1, -1), decision)
    assert torch.equal(logits.argmax(1).flatten().bool(), z.sigmoid() > threshold)
    assert torch.equal(logits[:, 0], torch.zeros(1, 1, len(z)))


@pytest.mark.parametrize("threshold", [0, 1, -0.1, "0.3", True, None])
def test_a_threshold_is_a_probability(threshold):
    with pytest.raises(UserError, match="threshold: expected a probability between 0 and 1"):
        decision_logit(threshold)


def binary(threshold: float | None, test_cfg: dict | None = None, classes: int = 2) -> MMSegSegmenter:
    """An mmseg model with one channel, whose logits lie around those of its threshold."""
    loss = dict(type="CrossEntropyLoss", use_sigmoid=True)
    head = dict(num_classes=classes, out_channels=1, threshold=threshold, loss_decode=loss)
    torch.manual_seed(1)
    model = MMSegSegmenter.from_config(mmseg_config(test_cfg, head=head))
    stir(model)
    conv = model.module.decode_head.conv_seg
    with torch.no_grad():
        conv.weight.mul_(100)
        conv.bias.fill_(decision_logit(threshold or 0.3))
    return model


@pytest.mark.parametrize("test_cfg", [None, SLIDE])
@pytest.mark.parametrize("threshold", [None, 0.3, 0.8])
def test_predictions_equal_those_of_mmseg(threshold, test_cfg):
    model, images = binary(threshold, test_cfg), pixels()
    with torch.no_grad():
        logits = model(images / 255)
        samples = model.module.test_step(loader_batch(images))
    theirs = torch.stack([sample.pred_sem_seg.data[0] for sample in samples]).long()
    assert torch.equal(logits.argmax(1), theirs)
    assert 0.1 < theirs.float().mean() < 0.9
    probabilities = torch.stack([sample.seg_logits.data[0] for sample in samples])
    t = threshold or 0.3
    assert torch.allclose(logits[:, 1].double(), probabilities.double().logit() - math.log(t / (1 - t)), atol=1e-3)


@pytest.mark.filterwarnings("error:threshold is not defined")  # once is enough
def test_the_threshold_is_told_and_one_class_means_two(caplog):
    with caplog.at_level(logging.WARNING):
        model = binary(None, classes=1)
    assert "one sigmoid channel, served as two logits: class 1 above the threshold 0.3" in caplog.text
    assert (model.num_classes, model.class_names) == (2, ("class_0", "class_1"))
    assert model(pixels() / 255).shape[1] == 2


def test_a_live_view_in_training_has_two_logits_too():
    module = binary(0.3).module
    assert torch.equal(MMSegSegmenter.live(module)(pixels() / 255).argmax(1), binary(0.3)(pixels() / 255).argmax(1))


def test_cross_entropy_of_the_two_is_the_binary_one_and_attacks_follow_it():
    net = nn.Conv2d(3, 1, 1)
    model = Segmenter.wrap(net, num_classes=2, threshold=0.3)
    images = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, 2, (2, 6, 6), generator=torch.Generator().manual_seed(1))
    margin = net(images)[:, 0] - math.log(0.3 / 0.7)
    ours = F.cross_entropy(model(images), labels)
    assert torch.allclose(ours, F.binary_cross_entropy_with_logits(margin, labels.float()))
    result = build_attack("FGSM", eps="8/255")(model, images, labels)
    # the steepest step: away from the label, along the sign of the channel's weights
    away = torch.where(labels.bool(), -1, 1).unsqueeze(1) * net.weight.sign().view(1, 3, 1, 1)
    assert torch.allclose(result.images, (images + 8 / 255 * away).clamp(0, 1))


def test_wrap_takes_a_threshold_for_one_channel_alone():
    one, two = nn.Conv2d(3, 1, 1), nn.Conv2d(3, 2, 1)
    images = torch.rand(1, 3, 4, 4)
    assert torch.equal(Segmenter.wrap(one, num_classes=2)(images).argmax(1), (one(images)[:, 0].sigmoid() > 0.5).long())
    with pytest.raises(UserError, match="threshold: one sigmoid channel means num_classes=2, got 3"):
        Segmenter.wrap(one, num_classes=3, threshold=0.5)
    with pytest.raises(UserError, match="threshold is for a network with one channel, got 2"):
        Segmenter.wrap(two, num_classes=2, threshold=0.5)(images)
    with pytest.raises(UserError, match=r"expected logits \(1, 3, 4, 4\), got \(1, 1, 4, 4\)"):
        Segmenter.wrap(one, num_classes=3)(images)
    plain, low, high = (Segmenter.wrap(one, num_classes=2, **o) for o in ({}, {"threshold": 0.3}, {"threshold": 0.7}))
    assert plain.config_sha256 is None and low.config_sha256 != high.config_sha256  # part of a run's identity
