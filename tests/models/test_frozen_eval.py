"""frozen_eval gives everything back exactly, whatever happens inside."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from segrobust.models.segmenter import Segmenter, frozen_eval
from tests.models.tiny import CLASSES, TinyNet


class Checkpointed(nn.Module):
    """Reentrant gradient checkpointing behind ``with_cp``, as in mmseg's backbones."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(3, CLASSES, 1)
        self.with_cp = True

    def forward(self, x):
        return checkpoint(self.inner, x, use_reentrant=True) if self.with_cp else self.inner(x)


class WithEffect(nn.Module):
    """``train()`` freezes and merges, as LoRA layers and mmseg's frozen stages do."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.calls = 0

    def train(self, mode: bool = True):
        self.calls += 1
        return super().train(mode)


def mixed_model() -> nn.Module:
    """Mixed training flags, frozen and unfrozen parameters, accumulated gradients."""
    model = nn.ModuleList([TinyNet(), Checkpointed(), WithEffect()])
    model.train()
    model[0].norm.eval()
    model[0].first.weight.requires_grad = False
    model[0].last.weight.grad = torch.full_like(model[0].last.weight, 7.0)
    model[2].calls = 0
    return model


def state(model: nn.Module) -> dict:
    return {
        "training": [part.training for part in model.modules()],
        "with_cp": [part.with_cp for part in model.modules() if hasattr(part, "with_cp")],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "grad": [None if p.grad is None else (p.grad, p.grad.clone().tolist()) for p in model.parameters()],
        "tensors": [value.clone().tolist() for value in model.state_dict().values()],
    }


def same(first: dict, second: dict) -> bool:
    grads = zip(first.pop("grad"), second.pop("grad"), strict=True)
    return first == second and all(a is b or (a[0] is b[0] and a[1] == b[1]) for a, b in grads)


def test_everything_is_off_inside_and_back_afterwards():
    model = mixed_model()
    before = state(model)
    with frozen_eval(model) as inside:
        assert inside is model
        assert not any(part.training for part in model.modules())
        assert not any(p.requires_grad for p in model.parameters())
        assert not model[1].with_cp
        images = torch.rand(2, 3, 8, 8, requires_grad=True)
        torch.autograd.grad(model[0](images).sum() + model[1](images).sum(), images)
    assert same(before, state(model))
    assert model[2].calls == 0


def test_nested_use_gives_each_level_its_own_state_back():
    model = mixed_model()
    before = state(model)
    with frozen_eval(model):
        outer = state(model)
        with frozen_eval(model):
            pass
        assert same(outer, state(model))
    assert same(before, state(model))


def test_what_is_switched_on_inside_is_off_again_afterwards():
    model = mixed_model()
    with frozen_eval(model):
        before = state(model)
        with frozen_eval(model):
            for part in model.modules():
                part.training = True
            model[1].with_cp = True
            for parameter in model.parameters():
                parameter.requires_grad = True
        assert same(before, state(model))


class Counting(nn.Module):
    """Counts the attributes that are set."""

    set_ = 0

    def __setattr__(self, name, value):
        Counting.set_ += 1
        super().__setattr__(name, value)


def test_flags_that_are_off_are_not_set():
    """Setting one costs a module ten times as much as a look at it."""
    model = nn.Sequential(Counting(), Counting()).train()
    with frozen_eval(model):
        before = Counting.set_
        with frozen_eval(model):
            pass
        assert Counting.set_ == before
    assert Counting.set_ == before + 2 and model[0].training


@pytest.mark.parametrize("problem", [ValueError, KeyboardInterrupt])
def test_an_exception_passes_through_and_the_state_comes_back(problem):
    model = mixed_model()
    before = state(model)
    with pytest.raises(problem), frozen_eval(model):
        raise problem
    assert same(before, state(model))


def test_reentrant_checkpointing_needs_frozen_eval():
    model = Segmenter.wrap(Checkpointed(), num_classes=CLASSES)
    images = torch.rand(1, 3, 4, 4, requires_grad=True)
    with pytest.raises(RuntimeError, match="checkpoint"):
        torch.autograd.grad(model(images).sum(), images)
    with frozen_eval(model):
        (gradient,) = torch.autograd.grad(model(images).sum(), images)
    expected = model.net.inner.weight.sum(0).view(1, 3, 1, 1).expand_as(images)
    torch.testing.assert_close(gradient, expected)


def test_shared_modules_and_parameters_are_restored_once_and_right():
    layer = nn.Linear(2, 2)
    layer.weight.requires_grad = False
    model = nn.Sequential(layer, nn.Dropout(), layer)
    model[1].eval()
    with frozen_eval(model), frozen_eval(layer):
        assert not layer.bias.requires_grad
    assert (layer.training, model[1].training, model.training) == (True, False, True)
    assert (layer.weight.requires_grad, layer.bias.requires_grad) == (False, True)
