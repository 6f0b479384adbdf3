"""Weights load under whatever names wrappers gave them, in any nesting; else the prefix in the way is named."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from segrobust.core.errors import UserError
from segrobust.models.checkpoint.loading import load_state_dict, load_strict
from tests.models.checkpoint.test_checkpoint import equal
from tests.models.tiny import TinyNet

PREFIXES = (
    "module.", "_orig_mod.", "model.", "net.", "module._orig_mod.", "_orig_mod.module.", "module.module.",
    "model._orig_mod.module.", "module.net.model.", "net.module._orig_mod.module.model.",
)  # fmt: skip


class Holder(nn.Module):
    """A network that has another as its part ``name``."""

    def __init__(self, name: str, net: nn.Module) -> None:
        super().__init__()
        self.add_module(name, net)


def trained() -> TinyNet:
    net = TinyNet()
    nn.init.uniform_(net.last.bias)
    return net


def zeroed(net: nn.Module) -> nn.Module:
    for value in net.state_dict().values():
        value.zero_()
    return net


def loaded(tmp_path, content: dict, module: nn.Module) -> dict:
    path = tmp_path / "w.pth"
    torch.save(content, path)
    load_strict(module, load_state_dict(path), path)
    return module.state_dict()


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes_of_all_keys_are_taken_off_in_any_nesting(prefix, tmp_path):
    weights = trained().state_dict()
    content = {"state_dict": {prefix + key: value for key, value in weights.items()}}
    assert equal(loaded(tmp_path, content, zeroed(TinyNet())), weights)


def wrapped_in_parts(net: TinyNet) -> nn.Module:
    net.first, net.last = torch.compile(net.first), torch.compile(net.last)
    return net


REAL = {
    "compiled": torch.compile,
    "compiled parts": wrapped_in_parts,
    "data parallel, compiled": lambda net: torch.compile(nn.DataParallel(net)),
    "averaged": AveragedModel,  # has a counter beside module.*
    "averaged, of a parallel one": lambda net: AveragedModel(nn.DataParallel(net)),
}


@pytest.mark.parametrize("wrapper", REAL)
def test_states_of_torchs_own_wrappers_are_read_and_nothing_else_is_left_out(wrapper, tmp_path):
    weights = trained().state_dict()
    content = REAL[wrapper](trained()).state_dict()
    assert content.keys() != weights.keys()
    assert equal(loaded(tmp_path, content, zeroed(TinyNet())), weights)
    with pytest.raises(UserError, match=r"extra\.bias|module\.' before the names"):
        loaded(tmp_path, {**content, "extra.bias": torch.ones(2)}, TinyNet())
    with pytest.raises(UserError, match="no place for scale"):  # a number that is no counter
        loaded(tmp_path, {**weights, "scale": torch.tensor(2.0)}, TinyNet())
    with pytest.raises(UserError, match="no place for steps"):  # a counter of what? nothing wraps these keys
        loaded(tmp_path, {**weights, "steps": torch.tensor(2)}, TinyNet())


@pytest.mark.parametrize("prefix", ["", "module.", "net."])
@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile, lambda net: Holder("model", Holder("net", net))])
def test_a_prefix_that_only_the_model_has_is_put_on(wrap, prefix, tmp_path):
    weights = {prefix + key: value for key, value in trained().state_dict().items()}
    assert equal(loaded(tmp_path, weights, zeroed(wrap(TinyNet()))), wrap(trained()).state_dict())


def test_names_that_fit_as_they_are_stay():
    """Two networks in one: stripping ``model.`` would give both the same names."""
    net = Holder("model", Holder("model", nn.Conv2d(3, 2, 1)))
    net.add_module("head", nn.Conv2d(2, 2, 1))
    weights = {key: value + 1 for key, value in net.state_dict().items()}
    load_strict(net, {f"module.{key}": value for key, value in weights.items()}, "x")
    assert equal(net.state_dict(), weights)
    inner = Holder("model", nn.Conv2d(3, 2, 1))
    inner.register_buffer("steps", torch.tensor(0))  # the network's own counter
    own = {"model.weight": torch.ones(2, 3, 1, 1), "model.bias": torch.ones(2), "steps": torch.tensor(7)}
    load_strict(inner, own, "x")
    assert equal(inner.state_dict(), own)


def test_two_weights_never_become_one():
    with pytest.raises(UserError, match="no place for weight"):
        load_strict(Holder("model", nn.Linear(1, 1, bias=False)), {
            "weight": torch.ones(1, 1), "model.weight": torch.zeros(1, 1)}, "x")  # fmt: skip
    weights = TinyNet().state_dict()
    doubled = {prefix + key: value for key, value in weights.items() for prefix in ("", "_orig_mod.")}
    with pytest.raises(UserError, match="no place for _orig_mod"):
        load_strict(TinyNet(), doubled, "x")


@pytest.mark.parametrize(
    ("rename", "words"),
    [
        (lambda key: [f"student.{key}"], "'student.' before the names of weights is in the way"),
        (lambda key: [f"module.student.{key}"], "'module.student.' before the names"),
        (lambda key: [f"student.{key}", f"teacher.{key}"], "'student.' and 'teacher.' before the names"),
        (lambda key: [f"module.{key}" if "norm" not in key else key], "'module.' before the names"),
        (lambda key: [f"other.{key}.deeper"], "another model: no key fits"),
    ],
)
def test_a_prefix_that_no_wrapper_explains_is_named(rename, words):
    given = {name: value for key, value in trained().state_dict().items() for name in rename(key)}
    with pytest.raises(UserError, match=f"^x.pth: .*{words}") as refusal:
        load_strict(TinyNet(), given, "x.pth")
    assert "\n" not in str(refusal.value)


def test_what_lies_deeper_than_one_entry_is_found(tmp_path):
    weights = trained().state_dict()
    for content in ({"model": {"state_dict": weights}}, {"module": weights, "step": 3}):
        assert equal(loaded(tmp_path, content, zeroed(TinyNet())), weights)
