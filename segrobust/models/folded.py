"""Batch normalisation in eval mode as a part of the convolution before it: the same function up to rounding, without
the passes over the features, a twelfth of a ResNet's forward and backward on a CPU.
"""

from __future__ import annotations

import itertools
import logging
from collections import ChainMap, Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.parametrize import is_parametrized
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from segrobust.core.errors import first_line
from segrobust.models.failures import of_the_machine, out_of_memory
from segrobust.models.replayed import has_hooks
from segrobust.models.segmenter import frozen_eval

SAME = 1e-3  # of the logits' mean size: what rounding may change on average; another function changes far more
PLAIN = {nn.Conv2d: nn.Conv2d.forward, nn.BatchNorm2d: _BatchNorm.forward, nn.SyncBatchNorm: nn.SyncBatchNorm.forward}
_LOG = logging.getLogger(__name__)

Forwards = dict[nn.Module, Callable[[Tensor], Tensor]]


class Pair(NamedTuple):
    """A convolution whose output goes into a batch normalisation, which is ``scale * output + shift``, ``[K]`` each."""

    conv: nn.Conv2d
    norm: _BatchNorm

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        norm = self.norm
        scale = torch.rsqrt(norm.running_var + norm.eps)
        if norm.weight is not None:
            scale = scale * norm.weight
        shift = -norm.running_mean * scale
        return scale, shift if norm.bias is None else shift + norm.bias

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

    Nothing is folded on other devices than a CPU: on a GPU passes are replayed as graphs that read the weights from
    where they lie. Nor where that would be another function, as where a convolution's output has a second use, or where
    somebody has put a hook or a forward on one of the modules since.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.pairs: Sequence[Pair] | None = None

    def __call__(self, images: Tensor) -> AbstractContextManager[None]:
        """Inside, the network in eval mode is folded; its modules, weights and buffers stay what they are.

        Args:
            images: ``[N, 3, H, W]``, of which the first one is looked at, once.
        """
        if images.device.type != "cpu":
            return nullcontext()
        if self.pairs is None:
            self.pairs = foldable(self.network, images[:1])
        return folded(self.pairs) if all(map(_is_plain, itertools.chain(*self.pairs))) else nullcontext()


@contextmanager
def folded(pairs: Sequence[Pair]) -> Iterator[None]:
    """Inside, the convolutions do what their normalisations did, with their present weights and statistics."""
    with torch.no_grad():
        forwards = [pair.together(*pair.scale_and_shift()) for pair in pairs]
    with _replaced(*forwards):
        yield


def foldable(network: nn.Module, image: Tensor) -> list[Pair]:
    """The pairs that can be folded in eval mode; none where that changes the logits, or where the network does not take
    one image alone.

    Args:
        image: ``[1, 3, H, W]``.
    """
    exact = torch.autocast(image.device.type, enabled=False)
    try:
        with torch.no_grad(), frozen_eval(network), exact, torch.random.fork_rng(devices=[]):
            pairs = _seen(network, image)
            return pairs if _same(network, pairs, image) else []
    except Exception as error:  # of a network that trains without this there may be anything
        if out_of_memory(error) or of_the_machine(error):
            raise
        _LOG.info("nothing is folded: %s: %s", type(error).__name__, first_line(error)[:200])
        return []


def _same(network: nn.Module, pairs: Sequence[Pair], image: Tensor) -> bool:
    """Whether folding leaves the logits the same, at normalisations that scale and shift every channel in another way:
    those of a network that has not learnt yet do nothing, or nothing comes of them."""
    generator = torch.Generator().manual_seed(0)
    settings = [(pair, *_another(pair.norm, generator)) for pair in pairs]
    with _replaced(*(pair.apart(scale, shift) for pair, scale, shift in settings)):
        logits = network(image)
    with _replaced(*(pair.together(scale, shift) for pair, scale, shift in settings)):
        change = network(image) - logits
    return bool(change.abs().mean() <= SAME * logits.abs().mean())


@contextmanager
def _replaced(*of_pairs: Forwards) -> Iterator[None]:
    """Inside, the modules have these forwards."""
    forwards = ChainMap(*of_pairs)
    try:
        for module, forward in forwards.items():
            module.forward = forward
        yield
    finally:
        for module in forwards:
            vars(module).pop("forward", None)


def _another(norm: _BatchNorm, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Scale and shift from the same statistics and weights of their own."""
    weight, bias = torch.rand(2, norm.num_features, generator=generator).to(norm.running_var)
    scale = (0.5 + weight) * torch.rsqrt(norm.running_var + norm.eps)
    return scale, bias - norm.running_mean * scale


def _unchanged(features: Tensor) -> Tensor:
    return features


class _Uses(TorchDispatchMode):
    """Inside, counts the operations that take a tensor, by its identity."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[int] = Counter()

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {id(one) for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)}
        self.count.update(given)
        return operation(*args, **(kwargs or {}))


def _seen(network: nn.Module, image: Tensor) -> list[Pair]:
    """Plain modules, each called once, of which the second takes what the first has made, and nothing else does."""
    made: dict[int, tuple[nn.Module, Tensor]] = {}  # by the identity of outputs, which are kept so that it stays theirs
    uses = _Uses()
    calls: Counter[nn.Module] = Counter()
    taken: list[tuple[int, nn.Module]] = []

    def see(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        calls[module] += 1
        if isinstance(module, nn.Conv2d):
            made[id(output)] = (module, output)
            uses.count[id(output)] = 0  # those before were of another tensor there
        elif inputs and id(inputs[0]) in made:
            taken.append((id(inputs[0]), module))

    hooks = [module.register_forward_hook(see) for module in network.modules() if _is_plain(module)]
    try:
        with uses:
            network(image)
    finally:
        for hook in hooks:
            hook.remove()
    pairs = [Pair(made[output][0], norm) for output, norm in taken if uses.count[output] == 1]
    return [pair for pair in pairs if calls[pair.conv] == calls[pair.norm] == 1]


def _is_plain(module: nn.Module) -> bool:
    """Whether it computes what its torch class does, a normalisation from statistics of its own, and nobody watches."""
    forward = next((own for kind, own in PLAIN.items() if isinstance(module, kind)), None)
    if forward is None or type(module).forward is not forward or "forward" in vars(module):
        return False
    if is_parametrized(module) or has_hooks(module):
        return False
    return isinstance(module, nn.Conv2d) or module.running_var is not None
