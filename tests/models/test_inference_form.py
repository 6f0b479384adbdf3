"""Folded and channels-last networks predict the same, and are refused where they do not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from segrobust.core.errors import UserError
from segrobust.models.adapters.torchvision import TorchvisionSegmenter
from segrobust.models.inference_form import TOLERANCE, differing_pixels, fold_batch_norms, inference_form
from segrobust.models.load import load_segmenter
from segrobust.models.segmenter import Segmenter, frozen_eval
from tests.models.tiny import mmseg_config, stir, tiny_mmseg

SLIDE = dict(mode="slide", crop_size=(32, 32), stride=(20, 20))
RANDOM = torch.Generator().manual_seed(3)
IMAGES = torch.rand(2, 3, 64, 64, generator=RANDOM)


def wrapped(*layers: nn.Module, num_classes: int = 4) -> Segmenter:
    torch.manual_seed(0)
    net = nn.Sequential(*layers).eval()
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            if part.running_mean is not None:
                stir(part)
            part.weight.data.uniform_(0.5, 1.5)
            part.bias.data.normal_()
    return Segmenter.wrap(net, num_classes=num_classes, name="net")


def norms(model: nn.Module) -> int:
    return sum(isinstance(part, nn.BatchNorm2d) for part in model.modules())


MODELS = {  # with the number of batch normalisations that stay
    "mmseg ResNet": (tiny_mmseg, 0),
    "mmseg slide": (lambda: tiny_mmseg(mmseg_config(SLIDE)), 0),
    "torchvision LR-ASPP": (lambda: TorchvisionSegmenter("lraspp_mobilenet_v3_large", 4).eval(), 0),
    "CamVid": (lambda: load_segmenter("camvid-fpn-r18w24-std-180x240", device="cpu"), 0),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_folded_copy_computes_the_same(name):
    build, left = MODELS[name]
    model = build()
    stir(model) if name != "CamVid" else None
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    form = inference_form(model, IMAGES, fold_bn=True, channels_last=True)
    with frozen_eval(model), frozen_eval(form), torch.no_grad():
        expected, found = model(IMAGES), form(IMAGES)
    assert norms(model) > 5 and norms(form) == left
    assert (expected - found).abs().max() < 1e-4 * expected.abs().max()
    assert not torch.equal(expected, found)  # it is another computation
    kernels = [part.weight for part in form.modules() if isinstance(part, nn.Conv2d) and part.kernel_size != (1, 1)]
    assert all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)
    assert all(torch.equal(weights[key], value) for key, value in model.state_dict().items())


def test_the_folded_convolution_is_the_formula():
    model = wrapped(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    conv, norm = model.net
    form = inference_form(model, IMAGES, fold_bn=True)
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    assert torch.allclose(form.net[0].weight, conv.weight * scale.view(-1, 1, 1, 1))
    assert torch.allclose(form.net[0].bias, (conv.bias - norm.running_mean) * scale + norm.bias)
    assert type(form.net[1]) is nn.Identity and type(model.net[1]) is nn.BatchNorm2d


def shared() -> Segmenter:
    conv = nn.Conv2d(3, 3, 1)
    return wrapped(conv, nn.BatchNorm2d(3), conv, nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1))


UNFOLDABLE = {
    "an activation between": lambda: wrapped(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)),
    "one that works in place": lambda: wrapped(nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True), nn.BatchNorm2d(4)),
    "one convolution, two normalisations": shared,
    "no statistics": lambda: wrapped(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)),
    "normalisation first": lambda: wrapped(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1)),
}


@pytest.mark.parametrize("name", UNFOLDABLE)
def test_what_does_not_belong_together_is_left_alone(name):
    model = UNFOLDABLE[name]()
    with frozen_eval(model), torch.no_grad():
        before = model(IMAGES)
        assert fold_batch_norms(model, IMAGES) == 0
        assert torch.equal(model(IMAGES), before)
    with pytest.raises(UserError, match="net: no batch normalisation follows a convolution directly; leave out --fold"):
        inference_form(model, IMAGES, fold_bn=True)


class Branching(nn.Module):
    """The convolution's output also goes past its normalisation, which folding cannot see."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

    def forward(self, pixels):
        features = self.conv(pixels)
        return self.norm(features) - 2 * features


def test_other_predictions_are_refused_in_one_line():
    model = wrapped(Branching())
    with pytest.raises(UserError, match=r"equal predictions with --fold-bn, got \d+ other pixels of 8192; leave out"):
        inference_form(model, IMAGES, fold_bn=True)


def test_pixels_may_turn_only_where_two_classes_are_as_good_as_equal():
    expected = torch.zeros(1, 3, 1, 4)
    expected[0, 0] = torch.tensor([1.0, 1.0, 1.0, -1.0])  # a range of 2
    expected[0, 1] = torch.tensor([0.0, 1.0 - 1.5 * TOLERANCE, 1.0 - 3 * TOLERANCE, -1.0])
    assert differing_pixels(expected, expected) == 0
    assert differing_pixels(expected, expected.flip(1)[:, [1, 2, 0]]) == 2  # classes 0 and 1 change places
    assert differing_pixels(expected, expected * torch.nan) == 3  # the last pixel is a tie


class Noisy(nn.Module):
    def forward(self, pixels):
        return torch.cat([pixels, pixels[:, :1]], 1) + 9 * torch.rand(pixels.shape[0], 4, *pixels.shape[2:])


def test_random_networks_are_compared_on_the_same_draws():
    model = wrapped(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), Noisy())
    state = torch.random.get_rng_state()
    inference_form(model, IMAGES, fold_bn=True, channels_last=True)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert differing_pixels(model(IMAGES), model(IMAGES)) > 100  # without that it would be refused


def test_load_segmenter_leaves_the_format_alone_on_request():
    for wanted in (True, False):
        model = load_segmenter(mmseg_config(), device="cpu", channels_last=wanted)
        kernel = model.module.backbone.layer1[0].conv1.weight
        assert kernel.is_contiguous(memory_format=torch.channels_last) == wanted
