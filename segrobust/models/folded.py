"""Batch normalisation in eval mode as a part of the convolution before it: the same function up to rounding, without
the passes over the features that take a tenth of a forward and backward on a CPU.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from segrobust.models.segmenter import frozen_eval

SAME = 1e-3  # of the logits' mean size: what rounding may change on average; another function changes far more
PLAIN = {nn.Conv2d: nn.Conv2d.forward, nn.BatchNorm2d: _BatchNorm.forward, nn.SyncBatchNorm: nn.SyncBatchNorm.forward}

Forwards = dict[nn.Module, Callable[[Tensor], Tensor]]


class Pair(NamedTuple):
    """A convolution whose output goes into a batch normalisation, which is ``scale * output + shift``, ``[K]`` each."""

    conv: nn.Conv2d
    norm: _BatchNorm

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        norm = self.norm
        scale = torch.rsqrt(norm.running_var + norm.eps)
        if not norm.affine:
            return scale, -norm.running_mean * scale
        scale = scale * norm.weight
        return scale, norm.bias - norm.running_mean * scale

    def together(self, scale: Tensor, shift: Tensor) -> Forwards:
        """The convolution does both."""
        conv = self.conv
        bias = shift if conv.bias is None else torch.addcmul(shift, conv.bias, scale)
        weight = conv.weight * scale.view(-1, 1, 1, 1)
        return {conv: partial(conv._conv_forward, weight=weight, bias=bias), self.norm: _unchanged}

    def apart(self, scale: Tensor, shift: Tensor) -> Forwards:
        scale, shift = scale.view(-1, 1, 1), shift.view(-1, 1, 1)
        return {self.norm: lambda features: torch.addcmul(shift, features, scale)}


class Folding:
    """The pairs of a network whose weights are still learnt, which are found at the first images.

    Nothing is folded on a GPU, where passes are replayed as graphs that read the weights from where they lie, nor where
    that would be another function, as where a convolution's output has a second use.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.pairs: Sequence[Pair] | None = None

    def __call__(self, images: Tensor) -> AbstractContextManager[None]:
        """Inside, the network in eval mode is folded; its modules, weights and buffers stay what they are.

        Args:
            images: ``[N, 3, H, W]``, of which the first one is looked at, once.
        """
        if images.is_cuda:
            return nullcontext()
        if self.pairs is None:
            self.pairs = foldable(self.network, images[:1])
        return folded(self.pairs)


@contextmanager
def folded(pairs: Sequence[Pair]) -> Iterator[None]:
    """Inside, the convolutions do what their normalisations did, with their present weights and statistics."""
    with torch.no_grad():
        forwards = [pair.together(*pair.scale_and_shift()) for pair in pairs]
    with _replaced(forwards):
        yield


def foldable(network: nn.Module, image: Tensor) -> list[Pair]:
    """The pairs that can be folded in eval mode; none where that changes the logits.

    They are compared in float32 at normalisations that scale and shift every channel in another way: those of a network
    that has not learnt yet do nothing, or nothing comes of them.

    Args:
        image: ``[1, 3, H, W]``.
    """
    exact = torch.autocast(image.device.type, enabled=False)
    with torch.no_grad(), frozen_eval(network), exact, torch.random.fork_rng(devices=[]):
        pairs = _seen(network, image)
        if not pairs:
            return []
        torch.manual_seed(0)
        settings = [(pair, *_another(pair.norm)) for pair in pairs]
        with _replaced([pair.apart(scale, shift) for pair, scale, shift in settings]):
            logits = network(image)
        with _replaced([pair.together(scale, shift) for pair, scale, shift in settings]):
            change = network(image) - logits
    return pairs if change.abs().mean() <= SAME * logits.abs().mean() else []


@contextmanager
def _replaced(forwards: Sequence[Mapping[nn.Module, Callable[[Tensor], Tensor]]]) -> Iterator[None]:
    """Inside, the modules have these forwards."""
    try:
        for module, forward in (one for of_pair in forwards for one in of_pair.items()):
            module.forward = forward
        yield
    finally:
        for module in (module for of_pair in forwards for module in of_pair):
            vars(module).pop("forward", None)


def _another(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Scale and shift from the same statistics and weights of their own."""
    scale = (0.5 + torch.rand_like(norm.running_var)) * torch.rsqrt(norm.running_var + norm.eps)
    return scale, torch.rand_like(scale) - norm.running_mean * scale


def _unchanged(features: Tensor) -> Tensor:
    return features


def _seen(network: nn.Module, image: Tensor) -> list[Pair]:
    """Plain modules, each called once, of which the second takes what the first has made."""
    made: dict[int, tuple[nn.Module, Tensor]] = {}  # by the identity of outputs, which are kept so that it stays theirs
    calls: Counter[nn.Module] = Counter()
    pairs = []

    def see(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        calls[module] += 1
        if isinstance(module, nn.Conv2d):
            made[id(output)] = (module, output)
        elif inputs and id(inputs[0]) in made:
            pairs.append(Pair(made[id(inputs[0])][0], module))

    hooks = [module.register_forward_hook(see) for module in network.modules() if _is_plain(module)]
    try:
        network(image)
    finally:
        for hook in hooks:
            hook.remove()
    return [pair for pair in pairs if calls[pair.conv] == calls[pair.norm] == 1]


def _is_plain(module: nn.Module) -> bool:
    """Whether it computes what its torch class does, a normalisation from statistics of its own, and nobody watches."""
    forward = next((own for kind, own in PLAIN.items() if isinstance(module, kind)), None)
    if forward is None or type(module).forward is not forward or "forward" in vars(module):
        return False
    watched = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
    return not watched and (isinstance(module, nn.Conv2d) or module.running_var is not None)
