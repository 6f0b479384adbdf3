"""Images and labels as callers have them: any integer type, arrays, another device's; else one line."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from segrobust.attacks import ModelError, build_attack
from segrobust.core.errors import UserError
from tests.attacks.toys import PixelLinear, SmallNet, batch

ATTACK = build_attack("CEPGD", steps=3, eps="8/255")
IDS = {
    "long": lambda ids: ids,
    "int32": lambda ids: ids.int(),
    "uint8": lambda ids: ids.byte(),
    "uint16": lambda ids: ids.to(torch.uint16),
    "array": lambda ids: ids.numpy(),
    "array of uint8": lambda ids: ids.numpy().astype(np.uint8),
    "array of big-endian": lambda ids: ids.numpy().astype(">i2"),
    "array read backwards": lambda ids: ids.numpy()[:, ::-1].copy()[:, ::-1],
}


@pytest.fixture(scope="module")
def scene():
    net = SmallNet().eval()
    return net, *batch(net)


@pytest.mark.parametrize("kind", IDS)
def test_labels_of_any_integer_type_give_the_same(kind, scene):
    net, images, labels = scene
    expected = ATTACK(net, images, labels)
    assert torch.equal(ATTACK(net, images, IDS[kind](labels)).images, expected.images)
    targeted = build_attack(ATTACK, targeted=True)
    wanted = targeted(net, images, labels, targets=torch.zeros_like(labels)).images
    assert torch.equal(targeted(net, images, labels, targets=IDS[kind](torch.zeros_like(labels))).images, wanted)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_images_as_arrays_and_in_other_types(dtype, scene):
    net, images, labels = scene
    images = (images * 255).round() / 256  # exact in every type
    result = ATTACK(net, images.numpy().astype(dtype), labels)
    assert result.images.dtype == torch.float32
    assert torch.equal(result.images, ATTACK(net, images, labels).images)


def test_labels_of_two_classes_may_be_bools():
    net = PixelLinear().eval()
    images, labels = batch(net, void=0)
    assert torch.equal(ATTACK(net, images, labels.bool()).images, ATTACK(net, images, labels).images)


REFUSED = {
    "float labels": (lambda x, y: (x, y.float()), r"labels: expected integers \(3, 12, 12\), got torch.float32"),
    "a channel": (lambda x, y: (x, y[:, None]), r"labels: expected integers .*got torch.int64 \(3, 1, 12, 12\)"),
    "-1 for void": (lambda x, y: (x, y.masked_fill(y == 255, -1)), r"expected classes >= 0 or 255 \(void\), got -1"),
    "no labels": (lambda x, y: (x, None), "labels: expected a tensor or an array of numbers, got NoneType"),
    "a list": (lambda x, y: (list(x), y), "images: expected a tensor or an array of numbers, got list"),
    "objects": (lambda x, y: (np.array([None]), y), "got array of object"),
    "bytes": (lambda x, y: ((x * 255).byte().numpy(), y), "images: expected float .*torch.uint8"),
    "0..255": (lambda x, y: (x.numpy() * 255, y), "divide 8-bit images by 255"),
    "channels last": (lambda x, y: (x.permute(0, 2, 3, 1), y), r"expected float \[N, 3, H, W\].*\(3, 12, 12, 3\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_ambiguous_is_refused_in_one_line(case, scene):
    net, images, labels = scene
    change, words = REFUSED[case]
    with pytest.raises(UserError, match=words) as refusal:
        ATTACK(net, *change(images, labels))
    assert "\n" not in str(refusal.value)


def test_another_void_is_void(scene):
    net, images, labels = scene
    expected = ATTACK(net, images, labels).images
    assert torch.equal(ATTACK(net, images, labels.masked_fill(labels == 255, -1), ignore_index=-1).images, expected)


class InADict(nn.Module):
    def forward(self, x):
        return {"out": x}


def test_what_is_no_segmenter_is_told():
    images, labels = torch.rand(1, 3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long)
    with pytest.raises(ModelError, match=r"returns a dict; wrap it with segrobust\.Segmenter\.wrap"):
        ATTACK(InADict(), images, labels)
    with pytest.raises(UserError, match=r"model: expected a segrobust\.Segmenter, got str; see Segmenter\.wrap"):
        ATTACK("configs/x.py", images, labels)
