"""Weights that a config names for parts of its model: read strictly from files, never downloaded."""

from __future__ import annotations

import logging
import math

import pytest
import timm
import torch
from mmengine.config import Config
from torch import nn

from segrobust.commands.parsing import parse_cfg_options
from segrobust.core.errors import UserError
from segrobust.models.mm import import_mmseg, load_config
from segrobust.models.pretrained import StrictPretrained, create_timm_model, refuse_downloads, without_pretrained

import_mmseg()

from mmseg.registry import MODELS  # noqa: E402

PSPNET = "mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py"
TIMM = dict(type="TIMMBackbone", model_name="test_resnet")


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_vit"])
def test_a_whole_timm_model_fills_its_features(name, tmp_path, caplog):
    """Known answer: the features of timm's own model, whose classifier alone has no place."""
    torch.manual_seed(0)
    whole = timm.create_model(name).eval()
    torch.save({"state_dict": whole.state_dict()}, tmp_path / "whole.pth")
    with caplog.at_level(logging.WARNING):
        features = create_timm_model(name, features_only=True, checkpoint_path=str(tmp_path / "whole.pth")).eval()
    assert not caplog.records
    images = torch.rand(1, 3, *whole.default_cfg["input_size"][1:])
    expected = timm.create_model(name, features_only=True).eval()
    names = {key.replace(".", "_", 1): key for key in whole.state_dict()}
    names |= {f"model.{key}": key for key in whole.state_dict()} | {key: key for key in whole.state_dict()}
    expected.load_state_dict({key: whole.state_dict()[names[key]] for key in expected.state_dict()})
    with torch.no_grad():
        for ours, theirs in zip(features(images), expected(images), strict=True):
            assert torch.equal(ours, theirs)


def test_mmseg_does_not_initialise_over_them(tmp_path):
    whole = timm.create_model("test_resnet")
    torch.save(whole.state_dict(), tmp_path / "whole.pth")
    backbone = MODELS.build(
        dict(**TIMM, checkpoint_path=str(tmp_path / "whole.pth"), init_cfg=dict(type="Constant", layer="Conv2d", val=0))
    )
    backbone.init_weights()
    own = backbone.timm_model.state_dict()
    assert all(torch.equal(own[key], value) for key, value in whole.state_dict().items() if key in own)


class Part(nn.Module):
    def __init__(self, outputs: int = 2) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.last = nn.Linear(4, outputs)


def filled(weights, path, part=None, **options):
    torch.save(weights, path)
    part = part or Part()
    StrictPretrained(str(path), **options)(part)
    return part.state_dict()


def test_what_fits_is_loaded_and_the_rest_told(tmp_path, caplog):
    given = Part().state_dict()
    path = tmp_path / "part.pth"
    with caplog.at_level(logging.WARNING):
        found = filled({**given, "head.weight": torch.ones(2)}, path)
    assert all(torch.equal(found[key], given[key]) for key in given) and not caplog.records
    started = Part()
    own = {key: value.clone() for key, value in started.state_dict().items()}
    with caplog.at_level(logging.WARNING):
        found = filled({key: given[key] for key in given if "first" in key}, path, started)
    assert (
        "2 of 4 tensors of Part are not in the file and start from random weights, such as last.weight" in caplog.text
    )
    assert torch.equal(found["first.bias"], given["first.bias"]) and torch.equal(found["last.bias"], own["last.bias"])


def test_a_prefix_picks_a_part(tmp_path):
    given = Part().state_dict()
    path = tmp_path / "whole.pth"
    whole = {"backbonex.first.bias": torch.zeros(4), **{f"backbone.{key}": value for key, value in given.items()}}
    for prefix in ("backbone", "backbone."):
        found = filled(whole, path, prefix=prefix)
        assert all(torch.equal(found[key], given[key]) for key in given)
    with pytest.raises(UserError, match=r"no key starts with the prefix 'neck\.'"):
        filled(whole, path, prefix="neck")


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({"other.weight": torch.ones(2)}, "the weights of another model: no key fits"),
        (Part(5).state_dict(), "wrong number of classes: 5 in the checkpoint, 2 in the model"),
        ({**Part().state_dict(), "first.bias": torch.full((4,), math.nan)}, r"first\.bias holds NaN"),
    ],
)
def test_what_does_not_fit_is_refused(weights, words, tmp_path):
    with pytest.raises(UserError, match=words):
        filled(weights, tmp_path / "part.pth")


def model(**changes):
    config = Config(dict(model=dict(type="EncoderDecoder", backbone=dict(type="ResNet", depth=18), pretrained=None)))
    config.merge_from_dict(changes)
    return config


URL = "https://example.org/a.pth"
WANTED = {
    "a shipped config": (load_config(PSPNET), r"model\.pretrained='open-mmlab://resnet18_v1c'"),
    "init_cfg": (
        model(**{"model.backbone.init_cfg": dict(type="Pretrained", checkpoint=URL)}),
        r"model\.backbone\.init_cfg\.checkpoint='https",
    ),
    "init_cfg in a list": (
        model(**{"model.backbone.init_cfg": [dict(type="Kaiming"), dict(type="Pretrained", checkpoint=URL)]}),
        r"model\.backbone\.init_cfg\.1\.checkpoint='https",
    ),
    "timm's default": (model(**{"model.backbone": dict(_delete_=True, **TIMM)}), r"model\.backbone\.pretrained=True"),
    "timm": (
        model(**{"model.backbone": dict(_delete_=True, **TIMM, pretrained=True)}),
        r"model\.backbone\.pretrained=True",
    ),
    "a class of its own": (model(**{"model.backbone.pretrained": True}), r"model\.backbone\.pretrained=True"),
}


@pytest.mark.parametrize("case", WANTED)
def test_a_download_is_refused_and_the_way_out_works(case):
    config, words = WANTED[case]
    with pytest.raises(UserError, match=f"^{words}.* asks for a download, and nothing is downloaded here") as caught:
        refuse_downloads(config.model)
    assert "\n" not in str(caught.value)
    option = str(caught.value).rpartition("--cfg-options ")[2]
    config = config.copy()
    config.merge_from_dict(parse_cfg_options([option]))
    refuse_downloads(config.model)


def test_files_and_random_weights_are_no_download():
    refuse_downloads(model(**{"model.backbone.init_cfg": dict(type="Pretrained", checkpoint="a.pth")}).model)
    refuse_downloads(model(**{"model.pretrained": "weights/a.pth"}).model)
    refuse_downloads(dict(backbone=dict(**TIMM, checkpoint_path="a.pth")))
    refuse_downloads(dict(backbone=dict(**TIMM, pretrained=False)))


def test_without_pretrained_leaves_everything_else():
    kaiming = dict(type="Kaiming", layer="Conv2d")
    read = dict(type="Pretrained", checkpoint="a.pth")
    given = dict(
        pretrained="a.pth",
        backbone=dict(**TIMM, checkpoint_path="a.pth", init_cfg=read),
        heads=[dict(init_cfg=[kaiming, read], channels=3), dict(init_cfg=[read]), dict(init_cfg=kaiming)],
    )
    assert without_pretrained(given) == dict(
        pretrained=None,
        backbone=dict(**TIMM, checkpoint_path=None, pretrained=False, init_cfg=None),
        heads=[dict(init_cfg=[kaiming], channels=3), dict(init_cfg=None), dict(init_cfg=kaiming)],
    )
    assert given["backbone"]["init_cfg"] == read
