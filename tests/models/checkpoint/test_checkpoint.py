"""Weights load only where all of them fit, whatever wrapping they came in, and survive conversion."""

from __future__ import annotations

import errno
import logging
import os
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from segrobust.core.errors import UserError
from segrobust.models.checkpoint import loading as checkpoint_module
from segrobust.models.checkpoint.inspection import inspect_checkpoint
from segrobust.models.checkpoint.loading import (
    convert_checkpoint,
    load_state_dict,
    load_strict,
    sha256,
)
from tests.models.tiny import TinyNet


def equal(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(
        first[key].dtype == second[key].dtype and torch.equal(first[key], second[key]) for key in first
    )


@pytest.fixture
def net() -> nn.Module:
    net = TinyNet()
    net.norm.num_batches_tracked.fill_(1234567)
    return net


WRAPPINGS = {
    "flat": lambda weights: weights,
    "mmengine": lambda weights: {"meta": {"iter": 3}, "state_dict": weights, "optimizer": {}},
    "DDC-AT": lambda weights: {"epoch": 50, "state_dict": {f"module.{key}": weights[key] for key in weights}},
    "timm": lambda weights: {"model": weights, "args": {"lr": 0.1}},
    "lightning": lambda weights: {"model_state_dict": weights},
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_weights_come_out_of_every_wrapping(wrapping, zipped, net, tmp_path):
    path = tmp_path / "model.pth"
    torch.save(WRAPPINGS[wrapping](net.state_dict()), path, _use_new_zipfile_serialization=zipped)
    assert equal(load_state_dict(path), net.state_dict())
    other = TinyNet()
    other.first.weight.data.zero_()
    load_strict(other, load_state_dict(path), path)
    assert equal(other.state_dict(), net.state_dict())


def test_module_is_removed_once_and_only_where_all_keys_have_it(tmp_path):
    path = tmp_path / "model.pth"
    torch.save({"module.module.a": torch.ones(1), "module.b": torch.ones(1)}, path)
    assert set(load_state_dict(path)) == {"module.a", "b"}
    torch.save({"module.a": torch.ones(1), "b": torch.ones(1)}, path)
    assert set(load_state_dict(path)) == {"module.a", "b"}


def without(weights: dict, *keys: str) -> dict:
    return {key: value for key, value in weights.items() if key not in keys}


def refitted(weights: dict, key: str, value: torch.Tensor) -> dict:
    return {**weights, key: value}


MISFITS = {
    "missing": (lambda w: without(w, "last.bias", "norm.bias"), "the file lacks norm.bias and 1 more"),
    "unexpected": (lambda w: {**w, "aux.weight": torch.ones(1)}, "the model has no place for aux.weight"),
    "both": (
        lambda w: {**without(w, "last.bias"), "x": torch.ones(1)},
        "lacks last.bias, the model has no place for x",
    ),
    "other model": (lambda w: {"encoder.weight": torch.ones(1)}, "another model: no key fits"),
    "classes": (
        lambda w: {**w, "last.weight": torch.ones(19, 8, 1, 1), "last.bias": torch.ones(19)},
        r"wrong number of classes: 19 in the checkpoint, 5 in the model \(last.weight and 1 more\)",
    ),
    "shape": (
        lambda w: refitted(w, "first.weight", torch.ones(8, 3, 5, 5)),
        r"first.weight has shape \[8, 3, 5, 5\], the model expects \[8, 3, 3, 3\]",
    ),
    "two shapes": (
        lambda w: {**w, "last.weight": torch.ones(19, 8, 1, 1), "norm.bias": torch.ones(9)},
        r"norm.bias has shape \[9\]",
    ),
    "integers": (lambda w: refitted(w, "last.bias", torch.ones(5, dtype=torch.int64)), "last.bias: integers"),
    "not a number": (lambda w: refitted(w, "last.bias", torch.full((5,), float("nan"))), "last.bias holds NaN"),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_weights_that_do_not_fit_are_refused_and_change_nothing(misfit, net):
    change, words = MISFITS[misfit]
    before = {key: value.clone() for key, value in net.state_dict().items()}
    altered = change({key: value + 1 for key, value in before.items()})
    with pytest.raises(UserError, match=rf"^x\.pth: .*{words}") as refusal:
        load_strict(net, altered, "x.pth")
    assert "\n" not in str(refusal.value)
    assert equal(net.state_dict(), before)


def test_only_step_counters_may_be_missing(net):
    other = TinyNet()
    load_strict(other, without(net.state_dict(), "norm.num_batches_tracked"), "old.pth")
    assert torch.equal(other.norm.running_mean, net.norm.running_mean)
    with pytest.raises(UserError, match=r"lacks norm\.running_mean"):
        load_strict(other, without(net.state_dict(), "norm.running_mean"), "old.pth")


@pytest.mark.parametrize("half", [False, True])
def test_conversion_keeps_every_value_and_half_precision_touches_floats_alone(half, net, tmp_path):
    source, target = tmp_path / "in.pth", tmp_path / "new" / "out.safetensors"
    torch.save({"state_dict": net.state_dict(), "meta": {}}, source)
    convert_checkpoint(source, target, half=half)
    stored = load_file(target)
    expected = {
        key: value.half() if half and value.is_floating_point() else value for key, value in net.state_dict().items()
    }
    assert equal(stored, expected)
    assert stored["norm.num_batches_tracked"].item() == 1234567
    other = TinyNet()
    load_strict(other, load_state_dict(target), target)
    assert equal(other.state_dict(), {key: value.to(net.state_dict()[key].dtype) for key, value in expected.items()})
    assert [file.name for file in target.parent.iterdir()] == ["out.safetensors"]


def test_conversion_handles_tensors_that_share_memory_or_are_views(tmp_path):
    base = torch.arange(12.0).view(3, 4)
    torch.save({"a": base, "b": base, "c": base.t(), "d": base[1]}, tmp_path / "in.pth")
    convert_checkpoint(tmp_path / "in.pth", tmp_path / "out.safetensors")
    assert equal(load_file(tmp_path / "out.safetensors"), {"a": base, "b": base, "c": base.t(), "d": base[1]})


def test_a_failed_conversion_leaves_the_old_file_and_nothing_else(net, tmp_path, monkeypatch):
    source, target = tmp_path / "in.pth", tmp_path / "out.safetensors"
    target.write_bytes(b"the old file")
    torch.save({"a": torch.tensor([1.0, 70000.0])}, source)
    with pytest.raises(UserError, match="a does not fit in half precision"):
        convert_checkpoint(source, target, half=True)

    def fail(handle: int, data: bytes) -> None:
        os.write(handle, b"half a file")
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr("segrobust.core.files._write_all", fail)
    with pytest.raises(UserError, match="no space left"):
        convert_checkpoint(source, target)
    assert target.read_bytes() == b"the old file"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["in.pth", "out.safetensors"]


def test_inspection_tells_what_is_inside(net, tmp_path):
    path = tmp_path / "model.pth"
    meta = {"iter": 400, "dataset_meta": {"classes": ("sky", "road")}, "cfg": "secret = 1"}
    torch.save({"meta": meta, "state_dict": net.state_dict(), "optimizer": {}}, path)
    facts, weights = inspect_checkpoint(path)
    assert equal(weights, net.state_dict())
    assert facts["sha256"] == sha256(path)
    assert (facts["format"], facts["bytes"], facts["tensors"]) == ("torch.save", path.stat().st_size, 9)
    assert facts["parameters"] == 8 * 27 + 8 + 2 * 8 + 5 * 8 + 5 == sum(one.numel() for one in net.parameters())
    assert facts["parts"] == {"first": 8 * 27 + 8, "norm": 2 * 8, "last": 5 * 8 + 5}
    assert facts["dtypes"] == {"float32": 8, "int64": 1}
    assert (facts["first"], facts["last"]) == ("first.weight [8, 3, 3, 3]", "last.bias [5]")
    assert (facts["iter"], facts["classes"], facts["besides"]) == (400, ["sky", "road"], ["optimizer"])
    assert (facts["envelope"], facts["weights"]) == ("state_dict", "raw")
    convert_checkpoint(path, tmp_path / "model.safetensors")
    facts, stored = inspect_checkpoint(tmp_path / "model.safetensors")
    assert (facts["format"], facts["envelope"], facts["tensors"]) == ("safetensors", "the whole file", 9)
    assert facts["classes"] == ["sky", "road"] and equal(stored, weights)
    assert not facts.keys() & {"besides", "iter"}


@pytest.mark.parametrize("dtype", ["b1", "i1", "u2", "i8", "f2", "f4", "f8", ">f4", ">i2"])
def test_numpy_values_beside_the_weights_come_back_as_they_were(dtype, tmp_path):
    values = np.array([[0, 1, 2], [3, 4, 100]]).astype(dtype)
    notes = {"c": values, "fortran": np.asfortranarray(values), "number": values[1, 2], "empty": values[:0]}
    path = tmp_path / "model.pth"
    torch.save({"state_dict": OrderedDict(a=torch.ones(1)), "meta": {"notes": [notes]}}, path)
    (loaded,) = checkpoint_module.load_from_strict(str(path))["meta"]["notes"]
    for key, value in notes.items():
        assert loaded[key].dtype == value.dtype
        assert np.array_equal(loaded[key], value)
        assert loaded[key].shape == value.shape


def test_a_hash_in_the_name_is_checked(tmp_path, caplog):
    torch.save({"a": torch.ones(1)}, tmp_path / "x.pth")
    right = tmp_path / f"net-{sha256(tmp_path / 'x.pth')[:8]}.pth"
    wrong = tmp_path / "net-01234567.pth"
    for path in (right, wrong):
        path.write_bytes((tmp_path / "x.pth").read_bytes())
    with caplog.at_level(logging.WARNING):
        load_state_dict(right)
        assert not caplog.records
        load_state_dict(wrong)
    assert "01234567" in caplog.text
