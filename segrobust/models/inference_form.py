"""Faster forms of a network whose weights are fixed: batch normalisation folded away, channels-last memory.

    faster = inference_form(model, images, fold_bn=True, channels_last=True)

The predictions are checked against those of the model itself, so what the network does between its layers need not
be known.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from contextlib import ExitStack
from copy import deepcopy
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.nn.utils.parametrize import is_parametrized

from segrobust.core.errors import UserError
from segrobust.models.expectation import drawing
from segrobust.models.segmenter import frozen_eval

TOLERANCE = 1e-3  # of the logits' range: what rounding may do where two classes are as good as equal
Model = TypeVar("Model", bound=nn.Module)


@torch.no_grad()
def inference_form(model: Model, images: Tensor, *, fold_bn: bool = False, channels_last: bool = False) -> Model:
    """A copy of the model that computes the same with other weights or in another memory format.

    Args:
        images: ``[N, 3, H, W]`` in [0, 1], on which the predictions are compared.
        fold_bn: merge each batch normalisation into the convolution before it, as far as that feeds nothing else.
        channels_last: keep weights, and so activations, with the channels next to each other.

    Raises:
        UserError: there is nothing to fold, or a pixel is predicted otherwise although the model's two best logits
            differ there by more than ``TOLERANCE`` of the range of all logits.
    """
    form, name = deepcopy(model), getattr(model, "name", type(model).__name__)
    with frozen_eval(model):
        expected = _logits(model, images)
    with frozen_eval(form):
        if fold_bn and not fold_batch_norms(form, images[:1]):
            raise UserError(f"{name}: no batch normalisation follows a convolution directly; leave out --fold-bn")
        if channels_last:
            form.to(memory_format=torch.channels_last)
        found = _logits(form, images)
    wrong = differing_pixels(expected, found)
    if wrong:
        what = " and ".join(["--fold-bn"] * fold_bn + ["--channels-last"] * channels_last)
        raise UserError(
            f"{name}: expected equal predictions with {what}, got {wrong} other pixels of {found[:, 0].numel()}; leave "
            f"out {what}"
        )
    return form


def differing_pixels(expected: Tensor, found: Tensor) -> int:
    """Pixels whose class changes from the first logits ``[N, K, H, W]`` to the second by more than rounding."""
    best = expected.topk(2, 1).values
    clear = best[:, 0] - best[:, 1] > TOLERANCE * (expected.amax() - expected.amin())
    other = (expected.argmax(1) != found.argmax(1)) | ~torch.isfinite(found).all(1)
    return int((other & clear).sum())


def _logits(model: nn.Module, images: Tensor) -> Tensor:
    """Logits, with the same random numbers in every call where the model draws any."""
    with drawing((0,), images.device):
        return model(images)


def fold_batch_norms(model: nn.Module, images: Tensor) -> int:
    """Fold in place what one forward shows to belong together; returns how many pairs that were."""
    pairs = _pairs(model, images)
    for norm, conv in pairs.items():
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if child in pairs:
                setattr(parent, name, nn.Identity().eval())
    return len(pairs)


def _pairs(model: nn.Module, images: Tensor) -> dict[nn.Module, nn.Module]:
    """Batch normalisations with the convolution whose output, untouched, is their input in every call of both."""
    outputs: dict[int, tuple[nn.Module, Tensor, int]] = {}
    calls: Counter[nn.Module] = Counter()
    sources: dict[nn.Module, list[nn.Module | None]] = defaultdict(list)

    def made(conv: nn.Module, _: object, output: Tensor) -> None:
        calls[conv] += 1
        outputs[id(output)] = conv, output, output._version  # kept alive, so that no other tensor gets its id

    def taken(norm: nn.Module, inputs: tuple) -> None:
        conv, _, version = outputs.get(id(inputs[0]), (None, None, None))
        sources[norm].append(conv if version == inputs[0]._version else None)  # in-place layers leave the id

    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, nn.Conv2d) and not is_parametrized(module):
                stack.callback(module.register_forward_hook(made).remove)
            elif _is_plain(module):
                stack.callback(module.register_forward_pre_hook(taken).remove)
        _logits(model, images)
    pairs = {norm: convs[0] for norm, convs in sources.items() if convs[0] and len(set(convs)) == 1}
    return {norm: conv for norm, conv in pairs.items() if calls[conv] == len(sources[norm])}


def _is_plain(module: nn.Module) -> bool:
    """A batch normalisation with fixed statistics that does nothing else (timm's also activate)."""
    known = isinstance(module, _BatchNorm) and type(module).forward is _BatchNorm.forward
    return known and module.running_mean is not None and not module.training
