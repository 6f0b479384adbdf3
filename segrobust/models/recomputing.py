"""Activation checkpointing of any network: its blocks are computed anew in the backward pass instead of kept.

Same logits and gradients, less memory, one more forward's time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

CONTAINERS = (nn.Sequential, nn.ModuleList)


def blocks(net: nn.Module) -> list[nn.Module]:
    """The parts of a network worth computing twice: the members of its lists and sequences of stages.

    Members with parts of their own (residual blocks, transformer layers) count one by one; a sequence of plain layers
    (a stem) counts as a whole. None lies inside another.
    """
    found: list[nn.Module] = []
    for part in net.children():
        plain = isinstance(part, nn.Sequential) and not any(_has_parts(layer) for layer in part)
        member = isinstance(net, CONTAINERS) and not isinstance(part, CONTAINERS) and _has_parts(part)
        found += [part] if plain or member else blocks(part)
    return found


def _has_parts(module: nn.Module) -> bool:
    return next(module.children(), None) is not None


@contextmanager
def recomputing(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Inside, the calls of these modules keep their inputs alone; ``torch.autograd.grad`` works (not reentrant)."""
    with ExitStack() as stack:
        for module in dict.fromkeys(modules):
            stack.enter_context(replaced(module, "forward", recomputed(module.forward)))
        yield


def recomputed(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, whose intermediate results are computed anew in the backward pass."""
    return lambda *arguments, **options: checkpoint(function, *arguments, use_reentrant=False, **options)


@contextmanager
def replaced(module: nn.Module, method: str, function: Callable[..., Any]) -> Iterator[None]:
    """A method of this one object, for a while."""
    own = vars(module).get(method)
    setattr(module, method, function)
    try:
        yield
    finally:
        if own is None:
            delattr(module, method)
        else:
            setattr(module, method, own)
