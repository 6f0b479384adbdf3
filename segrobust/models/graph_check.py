"""The proof that a CUDA graph does what the eager passes do, and faster, before it may stand for them."""

from __future__ import annotations

import logging
import random
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from segrobust.models.captured import CudaCapture, Graph, NotReplayed, layout_of

FASTER = 0.9  # of the eager time is what a replay may take
REPEATED = 0.01  # of the largest value: eager passes that differ by more are not the same computation
LIKE_EAGER = 4  # times the difference of two eager passes is that of a replay, where they differ
_LOG = logging.getLogger(__name__)


def checked_graph(
    model: nn.Module, images: Tensor, addresses: list[int], capture: CudaCapture, needed: int = 0
) -> Graph:
    """A graph that repeats the eager passes bit for bit (where these do not repeat themselves: as well as they do), and
    faster.

    Raises:
        NotReplayed: it does not, or the model draws random numbers. Any error of the model or of torch.
    """
    device = images.device.type
    autocast = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    other = images.detach().flip(0, -1)  # other points than those of the capture, so that nothing in it is fixed
    outside = _OutsideTensors()
    # weights cast by a forward must be cast anew in every replay
    uncached = torch.autocast(device, enabled=autocast[0], dtype=autocast[1], cache_enabled=False)
    with uncached, capture.aside(), torch.enable_grad():
        with torch.no_grad(), outside:
            alone = model(other)
        first, states = _eager(model, other), _random_states(capture)
        with capture.without_waiting():
            second = _eager(model, other)
        if _random_states(capture) != states:
            raise NotReplayed("the model draws random numbers")
        noise = _difference(first, second)
        if noise > REPEATED:
            raise NotReplayed(f"two eager passes differ by {noise:.2g} of their largest value")
        graph = Graph(capture.passes(model, images, needed), addresses)
        graph.passes.kept = outside.tensors
        try:
            replayed = _replayed(graph, other)
            if (away := _difference(second, replayed)) > LIKE_EAGER * noise:
                raise NotReplayed(f"a replay differs from the eager pass by {away:.2g} of the largest value")
            graph.serves_no_grad = _difference([alone], replayed[:1]) == 0
            eager, fast = _least_time(capture, _eager, model, other), _least_time(capture, _replayed, graph, other)
            if fast > FASTER * eager:
                raise NotReplayed(f"a replay takes {fast:.2f} ms, an eager pass {eager:.2f}")
        except BaseException:
            graph.release()
            raise
    _LOG.info("CUDA graphs for images %s: a pass takes %.2f ms, eager %.2f", tuple(images.shape), fast, eager)
    return graph


def _eager(model: nn.Module, points: Tensor) -> list[Tensor]:
    """Logits and input gradient."""
    points = points.clone().requires_grad_()
    logits = model(points)
    if not isinstance(logits, Tensor) or not logits.requires_grad:
        raise NotReplayed("the model returns no tensor that depends on the images")
    return [logits.detach(), *torch.autograd.grad(logits, points, _ascent(logits))]


def _replayed(graph: Graph, points: Tensor) -> list[Tensor]:
    logits = graph.logits(points)
    forward = _ascent  # any object that lives
    graph.waits_for = weakref.ref(forward)
    return [logits, graph.gradient(forward, _ascent(logits))]


def _ascent(logits: Tensor) -> Tensor:
    """Some logit gradient, neither constant nor of one sign."""
    return logits.detach().sin().contiguous(memory_format=layout_of(logits))


def _difference(one: list[Tensor], other: list[Tensor]) -> float:
    """The largest one, as a share of the largest value of its tensor; 0 where all bits are equal."""
    found = 0.0
    for a, b in zip(one, other, strict=True):
        a, b = a.nan_to_num(), b.nan_to_num()
        if not torch.equal(a, b):
            scale = a.abs().amax().clamp_min(torch.finfo(a.dtype).tiny)
            found = max(found, float((a - b).abs().amax() / scale))
    return found


def _least_time(capture: CudaCapture, passes: Callable[..., Any], *arguments: Any) -> float:
    return min(capture.milliseconds(lambda: passes(*arguments)) for _ in range(3))


def _random_states(capture: CudaCapture) -> tuple:
    numbers = np.random.get_state()
    of_torch = capture.random_state(), torch.get_rng_state().numpy().tobytes()
    return of_torch, numbers[1].tobytes(), numbers[2], random.getstate()


class _OutsideTensors(TorchDispatchMode):
    """Collects the tensors that operations read and none of them has made: what a module computed once and keeps, and
    may forget for another one while a graph still reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.tensors: list[Tensor] = []
        self._known: set[int] = set()
        self._made: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for tensor in _tensors((args, kwargs)):
            if (place := tensor.untyped_storage()._cdata) not in self._known | self._made:
                self._known.add(place)
                self.tensors.append(tensor)
        made = function(*args, **kwargs)
        self._made |= {tensor.untyped_storage()._cdata for tensor in _tensors(made)} - self._known
        return made


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]
