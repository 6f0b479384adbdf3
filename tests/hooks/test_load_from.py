"""``load_from`` is read as strictly as evaluation reads a checkpoint, and its exceptions are named."""

from __future__ import annotations

import math

import pytest
import torch

from segrobust.commands.training import prepare, train
from segrobust.core.errors import UserError
from segrobust.models.pretrained import without_pretrained
from tests.hooks.toys import Before, hook_of, toy_config

CONV = "decode_head.conv_seg"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The weights of a short training."""
    runner = train(toy_config(iters=1, attack=None), work_dir=tmp_path_factory.mktemp("before"))
    return {key: value.clone() for key, value in runner.model.state_dict().items()}


def begun(weights, folder, *hooks, **changes):
    """The state in which a training from a file with these weights begins."""
    torch.save({"state_dict": weights}, folder / "weights.pth")
    config = toy_config(
        dict(type="Before"), *hooks, iters=1, attack=None, load_from=str(folder / "weights.pth"), **changes
    )
    return hook_of(train(config, work_dir=folder / "work"), Before).states[0]["tensors"]


def test_training_begins_with_the_weights_of_the_file(weights, tmp_path):
    state = begun(weights, tmp_path, dict(type="EMAHook", momentum=0.5))
    assert all(torch.equal(state[key], value) for key, value in weights.items())


def without(weights, key):
    return {name: value for name, value in weights.items() if name != key}


MISFITS = {
    "another model": (lambda weights: {f"{key}.other": value for key, value in weights.items()}, "no key fits"),
    "another prefix": (
        lambda weights: {f"student.{key}": value for key, value in weights.items()},
        "'student.' before the names of weights is in the way",
    ),
    "other classes": (
        lambda weights: {**weights, f"{CONV}.weight": weights[f"{CONV}.weight"][:2], f"{CONV}.bias": torch.zeros(2)},
        rf"wrong number of classes: 2 in the checkpoint, 3 in the model.*set load_from_except=\['{CONV}'\]",
    ),
    "a key too many": (lambda weights: {**weights, "extra.weight": torch.ones(2)}, "no place for extra.weight"),
    "a key too few": (lambda weights: without(weights, f"{CONV}.bias"), f"the file lacks {CONV}.bias"),
    "NaN": (lambda weights: {**weights, f"{CONV}.bias": torch.full((3,), math.nan)}, f"{CONV}.bias holds NaN"),
}


@pytest.mark.parametrize("kind", MISFITS)
def test_a_file_that_does_not_fit_is_refused(kind, weights, tmp_path):
    change, words = MISFITS[kind]
    with pytest.raises(UserError, match=f"^load_from: .*{words}") as caught:
        begun(change(weights), tmp_path)
    assert "\n" not in str(caught.value)


def test_named_parts_begin_anew(weights, tmp_path):
    """For other classes: all but the last layer is the file's, and that layer is random, not the file's."""
    other = {**weights, f"{CONV}.weight": weights[f"{CONV}.weight"][:2] + 1, f"{CONV}.bias": torch.ones(2)}
    state = begun(other, tmp_path, load_from_except=[CONV])
    for key, value in weights.items():
        assert torch.equal(state[key], value) != key.startswith(CONV), key
    assert not state[f"{CONV}.bias"].any()
    fitting = {key: value + 1 if key.startswith(CONV) else value for key, value in weights.items()}
    state = begun(fitting, tmp_path, load_from_except=CONV)
    assert not torch.equal(state[f"{CONV}.weight"], fitting[f"{CONV}.weight"])


@pytest.mark.parametrize("prefix", ["module.", "model.", "net.", "model.module.", "_orig_mod.net."])
def test_parts_are_named_as_in_the_model_whatever_wraps_the_file(prefix, weights, tmp_path):
    other = {**weights, f"{CONV}.weight": weights[f"{CONV}.weight"][:2], f"{CONV}.bias": torch.ones(2)}
    wrapped = {f"{prefix}{key}": value for key, value in other.items()}
    state = begun(wrapped, tmp_path, load_from_except=[CONV])
    assert {key for key, value in weights.items() if not torch.equal(state[key], value)} == {
        f"{CONV}.weight",
        f"{CONV}.bias",
    }
    with pytest.raises(UserError, match=rf"set load_from_except=\['{CONV}'\]$"):
        begun(wrapped, tmp_path)


@pytest.mark.parametrize(
    ("name", "words"),
    [(["decode_head.conv"], "has no 'decode_head.conv'"), (["head"], "has no 'head'"), ([1], "expected names such as")],
)
def test_a_part_that_is_not_there_is_told(name, words, weights, tmp_path):
    with pytest.raises(UserError, match=f"load_from_except: .*{words}"):
        begun(weights, tmp_path, load_from_except=name)


def test_the_command_line_can_set_it(tmp_path):
    toy_config().dump(tmp_path / "toy.py")
    config = prepare(tmp_path / "toy.py", None, False, False, {"load_from_except": [CONV]}, "none")
    (hook,) = (hook for hook in config.custom_hooks if hook.type == "LoadFromHook")
    assert hook.leave_out == [CONV]


def test_a_file_for_all_weights_makes_downloads_needless(tmp_path):
    asked = {"model.backbone.init_cfg": dict(type="Pretrained", checkpoint="https://example.org/a.pth")}
    with pytest.raises(UserError, match=r"model\.backbone\.init_cfg\.checkpoint='https.* asks for a download"):
        prepare(toy_config(**asked), tmp_path, False, False, None, "none")
    config = prepare(toy_config(**asked, load_from="a.pth"), tmp_path, False, False, None, "none")
    assert config.model.backbone.init_cfg is None
    with pytest.raises(UserError, match=r"^load_from='https.* asks for a download"):
        prepare(toy_config(load_from="https://example.org/a.pth"), tmp_path, False, False, None, "none")


def test_a_part_that_is_left_out_starts_from_its_own_file(weights, tmp_path):
    """In training: the backbone's file is read, that of the head, which load_from fills, is not."""
    own = {key.removeprefix("backbone."): value + 1 for key, value in weights.items() if key.startswith("backbone.")}
    torch.save(own, tmp_path / "backbone.pth")
    files = {
        "model.backbone.init_cfg": dict(type="Pretrained", checkpoint=str(tmp_path / "backbone.pth")),
        "model.decode_head.init_cfg": dict(type="Pretrained", checkpoint="not/there.pth"),
    }
    state = begun(weights, tmp_path, load_from_except="backbone", **files)
    for key, value in weights.items():
        assert torch.equal(state[key], value + 1 if key.startswith("backbone.") else value), key


PRETRAINED = dict(type="Pretrained", checkpoint="own.pth")
KAIMING = dict(type="Kaiming", layer="Conv2d")
GIVEN = dict(
    pretrained="whole.pth",
    init_cfg=PRETRAINED,
    backbone=dict(type="TIMMBackbone", model_name="resnet18", checkpoint_path="timm.pth", init_cfg=PRETRAINED),
    auxiliary_head=[dict(init_cfg=PRETRAINED), dict(init_cfg=[KAIMING, PRETRAINED])],
)


@pytest.mark.parametrize(
    ("names", "kept"),
    [
        ([], ""),
        (["backbone.layer4"], "pretrained init_cfg backbone"),
        (["auxiliary_head.1"], "init_cfg auxiliary_head"),
        (["other", "auxiliary_head"], "init_cfg auxiliary_head"),
    ],
)
def test_files_stay_in_the_entries_of_the_parts_that_are_left_out_alone(names, kept):
    bare = dict(
        pretrained=None,
        init_cfg=None,
        backbone=dict(
            type="TIMMBackbone", model_name="resnet18", checkpoint_path=None, init_cfg=None, pretrained=False
        ),
        auxiliary_head=[dict(init_cfg=None), dict(init_cfg=[KAIMING])],
    )
    assert without_pretrained(GIVEN, names) == bare | {name: GIVEN[name] for name in kept.split()}


def test_a_part_that_is_left_out_is_not_downloaded_either(tmp_path):
    asked = {"model.backbone.init_cfg": dict(type="Pretrained", checkpoint="https://example.org/a.pth")}
    changes = dict(**asked, load_from="a.pth", load_from_except=["backbone"])
    with pytest.raises(UserError, match=r"model\.backbone\.init_cfg\.checkpoint='https.* asks for a download"):
        prepare(toy_config(**changes), tmp_path, False, False, None, "none")
    (tmp_path / "last_checkpoint").write_text(str(tmp_path / "iter_1.pth"))
    torch.save({"state_dict": {"a": torch.ones(1)}, "meta": {"seed": 0}}, tmp_path / "iter_1.pth")
    config = prepare(toy_config(**changes), tmp_path, True, False, None, "none")  # a checkpoint holds all parts
    assert config.model.backbone.init_cfg is None
