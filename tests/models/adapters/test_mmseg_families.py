"""One attack step on a model of each of mmseg's large families, as its own config has it, without any network."""

from __future__ import annotations

import socket
from typing import Any

import pytest
import torch

from segrobust import build_attack
from segrobust.core.errors import UserError
from segrobust.models.adapters.mmseg import MMSegSegmenter
from segrobust.models.mm import load_config
from segrobust.models.segmenter import frozen_eval
from tests.models.adapters.test_mmseg import by_test_step
from tests.models.tiny import mmseg_config, stir, tiny_mmseg

FAMILIES = {
    "PSPNet": ("pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py", 19),
    "DeepLabV3+": ("deeplabv3plus/deeplabv3plus_r18-d8_4xb4-80k_potsdam-512x512.py", 6),
    "UPerNet": ("upernet/upernet_r18_4xb4-80k_ade20k-512x512.py", 150),
    "SegFormer": ("segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py", 150),
    "SegFormer in windows": ("segformer/segformer_mit-b0_8xb1-160k_cityscapes-1024x1024.py", 19),
    "Segmenter in windows": ("segmenter/segmenter_vit-t_mask_8xb1-160k_ade20k-512x512.py", 150),
    "OCRNet": ("ocrnet/ocrnet_hr18s_4xb4-20k_voc12aug-512x512.py", 21),
    "BiSeNet": ("bisenetv2/bisenetv2_fcn_4xb4-160k_cityscapes-1024x1024.py", 19),
    "CCNet": ("ccnet/ccnet_r50-d8_4xb2-40k_cityscapes-512x1024.py", 19),
    "PointRend": ("point_rend/pointrend_r50_4xb2-80k_cityscapes-512x1024.py", 19),
}
WINDOWS = {"model.test_cfg.crop_size": (64, 64), "model.test_cfg.stride": (40, 40)}  # of 512 to 1024 pixels


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was used")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_step_as_mmsegs_own_config_has_it(family, no_network):
    name, classes = FAMILIES[family]
    slides = family.endswith("windows")
    model = MMSegSegmenter.from_config(load_config(f"mmseg::{name}", WINDOWS if slides else None))
    stir(model)
    assert model.num_classes == classes
    assert model.module.test_cfg.mode == ("slide" if slides else "whole")
    assert not model.class_names[0].startswith("class_")
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, classes, (1, 64, 96), generator=generator)
    with torch.no_grad(), frozen_eval(model):
        assert torch.equal(model(pixels / 255), by_test_step(model.module, pixels))
    attack = build_attack("CEPGD", eps="8/255", steps=1)
    result = attack(model, pixels / 255, labels, seeds=[0])
    moved = (result.images - pixels / 255).abs()
    assert 0 < moved.max() <= 8 / 255 + 1e-6
    assert moved.gt(0).float().mean() > 0.5


def test_a_network_of_one_size_says_which(no_network):
    options = {"model.backbone.num_layers": 4, "model.backbone.out_indices": (0, 1, 2, 3),
               "model.backbone.img_size": (64, 64), "model.backbone.embed_dims": 32, "model.backbone.num_heads": 2,
               "model.neck.embed_dim": 32, "model.decode_head.in_channels": [32] * 4,
               "model.auxiliary_head": None, "model.data_preprocessor.size": (64, 64),
               "model.test_cfg": dict(mode="whole", _delete_=True)}  # fmt: skip
    model = MMSegSegmenter.from_config(
        load_config("mmseg::mae/mae-base_upernet_8xb2-amp-160k_ade20k-512x512.py", options)
    )
    assert model.trained_size == (64, 64)
    with pytest.raises(UserError, match=r"takes that of its training, 64x64: resize the images to it") as caught:
        model(torch.rand(1, 3, 96, 64))
    assert "\n" not in str(caught.value)
    assert model(torch.rand(1, 3, 64, 64)).shape == (1, 150, 64, 64)


def test_a_size_that_its_training_does_not_help_is_told_plainly():
    model = tiny_mmseg(mmseg_config(preprocessor=dict(size=(32, 32), size_divisor=None)))
    assert model.trained_size == (32, 32)
    model.module.backbone.conv1 = torch.nn.Conv2d(4, 8, 3)
    with pytest.raises(UserError, match="fails on images of 40x40") as caught:
        model(torch.rand(1, 3, 40, 40))
    assert "training" not in str(caught.value)
    assert tiny_mmseg().trained_size is None


def test_heads_that_answer_at_the_padded_size_answer_windows_at_theirs(monkeypatch):
    """As Mask2Former's: what mmseg notes of a window may not be hidden by the size of the whole image."""
    model = tiny_mmseg(mmseg_config(dict(mode="slide", crop_size=(32, 32), stride=(20, 20))))
    head, seen = model.module.decode_head, []

    def predict(features, metas, test_cfg):
        seen.append(tuple(metas[0].get("pad_shape", metas[0]["img_shape"])))
        return torch.nn.functional.interpolate(head.forward(features), size=seen[-1])

    monkeypatch.setattr(head, "predict", predict)
    assert model(torch.rand(1, 3, 45, 58)).shape == (1, 5, 45, 58)
    assert set(seen) == {(32, 32)}
