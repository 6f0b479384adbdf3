"""Files with averaged weights (EMA) beside raw ones: what is taken is told, and the other can be asked for."""

from __future__ import annotations

import logging

import pytest
import torch
from mmengine.hooks import EMAHook
from mmengine.model import ExponentialMovingAverage
from safetensors.torch import load_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from segrobust.core.errors import UserError
from segrobust.models.checkpoint.averaged import weights_in
from segrobust.models.checkpoint.inspection import inspect_checkpoint
from segrobust.models.checkpoint.loading import convert_checkpoint, load_state_dict
from segrobust.models.load import load_segmenter
from tests.models.checkpoint.test_checkpoint import equal
from tests.models.tiny import mmseg_config, tiny_mmseg


def filled(value: float) -> dict[str, torch.Tensor]:
    return {"head.weight": torch.full((2, 3), value), "head.bias": torch.full((2,), value)}


RAW, EMA = filled(1.0), filled(2.0)
UNDER = {f"module.{key}": value for key, value in EMA.items()}
BOTH = {
    "timm": ({"state_dict": RAW, "state_dict_ema": EMA}, "state_dict_ema"),
    "torchvision": ({"model": RAW, "model_ema": {**UNDER, "n_averaged": torch.tensor(5)}, "epoch": 3}, "model_ema"),
    "by hand": ({"model_state_dict": RAW, "ema_state_dict": UNDER}, "ema_state_dict"),
    "RT-DETR": ({"model": RAW, "ema": {"module": EMA, "updates": 7}}, "ema.module"),
    "shadow": ({"model": RAW, "ema": {"decay": 0.999, "shadow": EMA}}, "ema.shadow"),
    "BasicSR": ({"params": RAW, "params_ema": EMA}, "params_ema"),
    "weight averaging": ({"net": RAW, "SWA_model": {**UNDER, "n_averaged": torch.tensor(5)}}, "SWA_model"),
    "mean teacher": ({"student": RAW, "teacher": EMA, "rng": {"torch": torch.zeros(4)}}, "teacher"),
    "by other hands": ({"ema": {"decay": 0.99}, "model": RAW, "weights_ema": EMA}, "weights_ema"),
    "nested": ({"state_dict": {"model": RAW, "ema": EMA}}, "state_dict.ema"),
    "parts of one module": (
        {"state_dict": {f"net.{key}": RAW[key] for key in RAW} | {f"ema_model.module.{key}": EMA[key] for key in EMA}},
        "ema_model.*",
    ),
}


def saved(tmp_path, content: dict):
    torch.save(content, tmp_path / "w.pth")
    return tmp_path / "w.pth"


def head_of(weights: dict) -> float:
    (value,) = {value.flatten()[0].item() for key, value in weights.items() if key.endswith("head.bias")}
    return value


@pytest.mark.parametrize("style", BOTH)
def test_raw_ones_are_taken_and_told_unless_asked(style, tmp_path, caplog):
    content, place = BOTH[style]
    path = saved(tmp_path, content)
    with caplog.at_level(logging.WARNING):
        assert head_of(load_state_dict(path)) == 1
        (told,) = caplog.messages
        assert told.startswith(f"{path} holds raw and averaged (EMA) weights: the raw ones (")
        assert told.endswith(f") are taken; weights='ema' (--weights ema) takes those in {place}")
        assert head_of(load_state_dict(path, weights="raw")) == 1
        ema = load_state_dict(path, weights="ema")
        assert head_of(ema) == 2 and ema.keys() == EMA.keys()
        assert len(caplog.messages) == 1  # who asks need not be told
    facts, weights = inspect_checkpoint(path)
    assert facts["weights"] == "raw" and head_of(weights) == 1
    assert facts["other weights"] == f"averaged (EMA), in {place}; --weights ema takes them"


@pytest.mark.parametrize("average, place", [
    ({"ema": {"decay": 0.9, "shadow_params": list(EMA.values())}}, "ema.shadow_params"),
    ({"model_ema": tuple(EMA.values())}, "model_ema"),
])  # fmt: skip
def test_an_average_without_names_is_told_and_never_guessed(average, place, tmp_path, caplog):
    path = saved(tmp_path, {"state_dict": RAW, **average})
    with caplog.at_level(logging.WARNING):
        assert head_of(load_state_dict(path)) == 1
    (told,) = caplog.messages
    assert told.startswith(
        f"{path} holds raw weights, which are taken, and averaged (EMA) ones in a list without names"
    )
    assert place in told
    with pytest.raises(UserError, match=r"it holds averaged \(EMA\) ones in a list without names"):
        load_state_dict(path, weights="ema")


def test_two_sets_of_weights_under_unknown_names_are_not_guessed(tmp_path):
    path = saved(tmp_path, {"generator": RAW, "critic": EMA})
    with pytest.raises(UserError, match="'generator' is a dict"):
        load_state_dict(path)


def test_names_that_only_contain_the_letters_are_no_average(tmp_path, caplog):
    path = saved(tmp_path, {"schema_version": EMA, "state_dict": RAW})
    assert head_of(load_state_dict(path)) == 1 and not caplog.messages


def test_mmengines_own_files_hold_the_average_as_the_model(tmp_path, caplog):
    """The hook swaps the two when it saves."""
    net = nn.Sequential()
    net.add_module("head", nn.Linear(3, 2))
    net.load_state_dict(RAW)
    hook = EMAHook()
    hook.ema_model = ExponentialMovingAverage(net)
    hook.ema_model.module.load_state_dict(EMA)
    content = {"state_dict": net.state_dict(), "meta": {"mmengine_version": "0.10.12", "iter": 9}}
    hook.before_save_checkpoint(None, content)
    path = saved(tmp_path, content)
    with caplog.at_level(logging.WARNING):
        assert head_of(load_state_dict(path)) == 2
    assert "the averaged (EMA) ones (state_dict) are taken; weights='raw'" in caplog.text
    assert head_of(load_state_dict(path, weights="ema")) == 2
    raw = load_state_dict(path, weights="raw")
    assert head_of(raw) == 1 and raw.keys() == RAW.keys()


@pytest.mark.parametrize("content", [{"epoch": 3, "ema": EMA, "optimizer": {}}, {"ema_state_dict": UNDER}])
def test_averaged_ones_alone_are_taken_and_told(content, tmp_path, caplog):
    path = saved(tmp_path, content)
    with caplog.at_level(logging.WARNING):
        assert head_of(load_state_dict(path)) == head_of(load_state_dict(path, weights="ema")) == 2
    (told,) = caplog.messages
    assert "holds averaged (EMA) weights alone" in told
    with pytest.raises(UserError, match=r"holds no raw weights, only averaged \(EMA\) ones"):
        load_state_dict(path, weights="raw")


PLAIN = {
    "flat": RAW,
    "averaging that has not begun": {"model": RAW, "ema": {"decay": 0.99}},
    "AveragedModel saved as the model": {**{f"module.{key}": RAW[key] for key in RAW}, "n_averaged": torch.tensor(3)},
}


@pytest.mark.parametrize("style", PLAIN)
def test_files_with_one_kind_say_nothing_and_refuse_the_other(style, tmp_path, caplog):
    path = saved(tmp_path, PLAIN[style])
    with caplog.at_level(logging.WARNING):
        assert equal(load_state_dict(path), RAW) and not caplog.messages
    assert equal(load_state_dict(path, weights="raw"), RAW)
    with pytest.raises(UserError, match=r"w\.pth: it holds no averaged \(EMA\) weights, only raw ones"):
        load_state_dict(path, weights="ema")
    facts, weights = inspect_checkpoint(path)
    assert facts["weights"] == "raw" and "other weights" not in facts and equal(weights, RAW)


def test_a_networks_own_part_of_that_name_is_not_an_average():
    """EMANet and its kind: ``ema.`` has other names below it than the rest has."""
    content = {**RAW, "ema.bases": torch.ones(3)}
    found = weights_in(content, "x")
    assert found.weights.keys() == content.keys() and found.others is None


def test_unknown_kinds_and_weights_that_are_none_are_refused(tmp_path):
    path = saved(tmp_path, {"model": RAW, "ema": {"step": 3, **EMA}})
    with pytest.raises(UserError, match="unknown weights 'avg'"):
        load_state_dict(path, weights="avg")
    with pytest.raises(UserError, match="'step' is a int"):
        load_state_dict(path, weights="ema")


def test_conversion_writes_the_ones_asked_for(tmp_path):
    path = saved(tmp_path, BOTH["torchvision"][0])
    convert_checkpoint(path, tmp_path / "e.safetensors", weights="ema")
    assert equal(load_file(tmp_path / "e.safetensors"), EMA)
    convert_checkpoint(path, tmp_path / "r.safetensors")
    assert equal(load_file(tmp_path / "r.safetensors"), RAW)


def test_a_model_is_loaded_with_the_ones_asked_for(tmp_path):
    module = tiny_mmseg().module
    average = AveragedModel(module)
    content = {"state_dict": module.state_dict(), "model_ema": average.state_dict()}
    content["model_ema"]["module.decode_head.conv_seg.bias"] = torch.arange(5.0)
    path = saved(tmp_path, content)

    def bias(**options):
        return load_segmenter(mmseg_config(), path, device="cpu", **options).module.decode_head.conv_seg.bias

    assert torch.equal(bias(), module.decode_head.conv_seg.bias)
    assert torch.equal(bias(weights="ema"), torch.arange(5.0))
    with pytest.raises(UserError, match="there is no checkpoint to choose from"):
        load_segmenter(mmseg_config(), device="cpu", weights="ema")
