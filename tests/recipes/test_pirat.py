"""PIR-AT: the backbone of a segmenter starts from a robust classifier's file, by timm's names."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from mmengine.registry import MODELS
from safetensors.torch import save_file

from segrobust.commands.training import train
from segrobust.core.errors import UserError
from segrobust.hooks import AdversarialTrainingHook
from segrobust.models.mm import load_config
from tests.hooks.toys import Before, history, hook_of, toy_config

FOLDER = Path(__file__).resolve().parents[2] / "configs" / "upernet"
(FILE,) = FOLDER.glob("*-pirat-*.py")
VARIABLE = "SEGROBUST_ROBUST_BACKBONE"


def classifier(name, path):
    """A classifier with random weights, saved under timm's own names; its weights."""
    torch.manual_seed(7)
    weights = timm.create_model(name, pretrained=False, num_classes=10).state_dict()
    save_file(weights, path)
    return weights


def assert_from(backbone, weights):
    """All weights of the feature extractor are the classifier's."""
    own = {key.removeprefix("timm_model."): value for key, value in backbone.items()}
    renamed = {key.replace(".", "_", 1): value for key, value in weights.items()} | weights
    assert len(own) > 20
    for key, value in own.items():
        assert torch.equal(value, renamed[key]), key


def test_the_shipped_config_takes_the_file_that_the_environment_names(tmp_path, monkeypatch):
    weights = classifier("convnext_tiny", tmp_path / "robust.safetensors")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "robust.safetensors"))
    config = load_config(FILE)
    assert_from(MODELS.build(config.model.backbone).state_dict(), weights)
    (hook,) = [one for one in config.custom_hooks if one["type"] == "AdversarialTrainingHook"]
    attack = AdversarialTrainingHook(**{key: value for key, value in hook.items() if key != "type"})
    assert attack.clean_ratio == 0 and not attack.attack.random_start
    assert (attack.attack.steps, attack.attack.eps, attack.attack.step_size) == (5, 4 / 255, 0.01)


def test_without_a_file_nothing_begins(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    config = load_config(FILE)
    with pytest.raises(UserError, match=r"robust_convnext_tiny\.safetensors"):
        MODELS.build(config.model.backbone)


def pirat(path):
    """The recipe with a miniature backbone of the same kind."""
    config = toy_config(dict(type="Before"), attack=None, iters=3)
    shipped = load_config(FILE)
    hooks = [one for one in shipped.custom_hooks if one["type"] == "AdversarialTrainingHook"]
    config.custom_hooks = [*config.custom_hooks, *hooks]
    backbone = {**shipped.model.backbone, "model_name": "test_convnext", "checkpoint_path": str(path)}
    config.model.backbone = backbone
    widths = timm.create_model("test_convnext", features_only=True).feature_info.channels()
    config.model.decode_head.update(in_channels=widths[-1], in_index=len(widths) - 1)
    return config


def test_training_begins_with_the_classifiers_weights(tmp_path):
    weights = classifier("test_convnext", tmp_path / "robust.safetensors")
    runner = train(pirat(tmp_path / "robust.safetensors"), work_dir=tmp_path / "run")
    first = hook_of(runner, Before).states[0]["tensors"]
    assert_from({key.removeprefix("backbone."): value for key, value in first.items() if "backbone." in key}, weights)
    losses = history(runner, "loss")
    assert len(losses) == 3 and all(map(torch.isfinite, torch.tensor(losses)))
    moved = runner.model.state_dict()
    assert any(not torch.equal(moved[key], first[key]) for key in first if key.startswith("backbone."))


def test_a_file_of_another_network_is_refused(tmp_path):
    classifier("test_resnet", tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=r"other\.safetensors"):
        train(pirat(tmp_path / "other.safetensors"), work_dir=tmp_path / "run")
