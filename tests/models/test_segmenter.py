"""The contract: bitwise the same as doing it by hand, and clear refusals."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from segrobust.core.errors import UserError
from segrobust.core.palette import default_palette
from segrobust.models.segmenter import Segmenter
from tests.models.tiny import CLASSES, TinyNet

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def by_hand(net: nn.Module, images: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    mean, std = (torch.tensor(values).to(dtype).view(1, 3, 1, 1) for values in (MEAN, STD))
    logits = net((images - mean) / std)
    logits = logits["out"] if isinstance(logits, dict) else logits
    return F.interpolate(logits, size=images.shape[-2:], mode="bilinear", align_corners=False)


@pytest.mark.parametrize("wrap_in", [None, "out"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_wrap_equals_the_steps_done_by_hand_bitwise_and_so_does_its_gradient(wrap_in, dtype):
    net = TinyNet(wrap_in).to(dtype).eval()
    model = Segmenter.wrap(net, num_classes=CLASSES, mean=MEAN, std=STD)
    images = torch.rand(2, 3, 17, 22, dtype=dtype, generator=torch.Generator().manual_seed(3), requires_grad=True)
    weights = torch.randn(2, CLASSES, 17, 22, dtype=dtype, generator=torch.Generator().manual_seed(4))

    ours, theirs = model(images), by_hand(net, images, dtype)
    assert torch.equal(ours, theirs)
    (gradient,) = torch.autograd.grad((ours * weights).sum(), images)
    (expected,) = torch.autograd.grad((theirs * weights).sum(), images)
    assert torch.equal(gradient, expected)
    assert gradient.isfinite().all()
    assert gradient.abs().amax(dim=1).gt(0).float().mean() > 0.9


def test_images_are_left_alone_and_logits_at_image_size_are_not_copied():
    net = nn.Conv2d(3, CLASSES, 1)
    images = torch.rand(1, 3, 4, 4)
    before = images.clone()
    Segmenter.wrap(net, num_classes=CLASSES, mean=MEAN, std=STD)(images)
    assert torch.equal(images, before)

    kept = {}
    net.register_forward_hook(lambda module, inputs, output: kept.update(seen=inputs[0], logits=output))
    logits = Segmenter.wrap(net, num_classes=CLASSES)(images)
    assert kept["seen"] is not images and torch.equal(kept["seen"], images)  # a copy: the network may work in place
    assert logits is kept["logits"]


def test_wrap_shares_the_module_and_adds_nothing_to_its_state():
    net = TinyNet()
    model = Segmenter.wrap(net, num_classes=CLASSES, mean=MEAN, std=STD, name="mine", ignore_index=-1)
    assert [id(p) for p in model.parameters()] == [id(p) for p in net.parameters()]
    assert set(model.state_dict()) == {f"net.{key}" for key in net.state_dict()}
    assert (model.name, model.ignore_index, model.num_classes) == ("mine", -1, CLASSES)
    assert model.class_names == ("class_0", "class_1", "class_2", "class_3", "class_4")


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ([[0.5]], "got list"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "divide by 255"),
        (torch.zeros(3, 8, 8), r"got \[3, 8, 8\]"),
        (torch.zeros(1, 4, 8, 8), r"got \[1, 4, 8, 8\]"),
        (torch.zeros(1, 8, 8, 3), r"got \[1, 8, 8, 3\]"),
        (torch.zeros(0, 3, 8, 8), r"got \[0, 3, 8, 8\]"),
    ],
)
def test_what_is_no_batch_of_images_is_refused_in_one_line(images, words):
    model = Segmenter.wrap(TinyNet(), num_classes=CLASSES)
    with pytest.raises(UserError, match=words) as refusal:
        model(images)
    assert "\n" not in str(refusal.value)


def test_a_gradient_wanted_in_inference_mode_is_refused():
    model = Segmenter.wrap(TinyNet().eval(), num_classes=CLASSES)
    images = torch.rand(1, 3, 8, 8)
    with torch.inference_mode():
        assert model(images).shape == (1, CLASSES, 8, 8)
    with torch.inference_mode(), pytest.raises(UserError, match="inference_mode"):
        model(images.requires_grad_())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(num_classes=1), "at least 2"),
        (dict(num_classes=5.0), "got 5.0"),
        (dict(mean=(123.7, 116.3, 103.5)), "divide them by 255"),
        (dict(std=(0.2, 0.0, 0.2)), "positive"),
        (dict(mean=(0.5,)), "three values"),
        (dict(mean=0.5), r"three values \(R, G, B\), got 0\.5"),
        (dict(ignore_index=None), "ignore_index: expected the id of void pixels, such as 255 or -1, got None"),
        (dict(size_divisor=0), "size_divisor: expected a whole number of at least 1, such as 32, got 0"),
        (dict(size_divisor=32.0), "size_divisor: expected a whole number"),
        (dict(class_names=("a", "b")), r"class_names: expected one entry per class \(5\), got 2"),
        (dict(palette=[(0, 0, 0)]), "palette"),
    ],
)
def test_a_wrong_description_is_refused_when_wrapping(options, words):
    with pytest.raises(UserError, match=words):
        Segmenter.wrap(TinyNet(), **{"num_classes": CLASSES, **options})


def test_a_wrong_network_is_refused_at_the_first_call():
    with pytest.raises(UserError, match=r"torch\.nn\.Module"):
        Segmenter.wrap(lambda images: images, num_classes=2)
    with pytest.raises(UserError, match=r"expected logits \(1, 7, 8, 8\), got \(1, 5, 8, 8\)"):
        Segmenter.wrap(TinyNet(), num_classes=7)(torch.rand(1, 3, 8, 8))
    with pytest.raises(UserError, match='mapping with "out"'):
        Segmenter.wrap(TinyNet("main"), num_classes=CLASSES)(torch.rand(1, 3, 8, 8))
    with pytest.raises(UserError, match=r"got \(1, 3, 64\)"):
        Segmenter.wrap(nn.Flatten(2), num_classes=3)(torch.rand(1, 3, 8, 8))


def test_the_default_palette_is_that_of_pascal_voc_without_black():
    palette = default_palette(20)
    assert palette[:4] == [(128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128)]
    assert palette[14] == (192, 128, 128)
    assert palette[19] == (0, 64, 128)
    assert len(set(default_palette(150))) == 150
