"""A model whose passes are replayed as CUDA graphs where shapes repeat, and which is the model itself everywhere else.

A small network waits for the CPU that starts its kernels one by one; a graph starts all of them at once. Forward and
backward are two graphs, since an attack decides on the logit gradient between them from a state of its own: one capture
serves every attack, batch and iteration. Weights are read from where they lie, so they may change in place.
"""

from __future__ import annotations

import logging
import weakref
from collections import Counter, OrderedDict
from collections.abc import Hashable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.modules.module import _has_any_global_hook

from segrobust.core.errors import first_line
from segrobust.models.captured import CudaCapture, Graph, NotReplayed
from segrobust.models.failures import out_of_memory
from segrobust.models.graph_check import checked_graph

EAGER_CALLS = 3  # with a gradient, before a shape is captured
MOST_GRAPHS = 4  # kept at a time; each holds the memory of a pass
MOST_CAPTURES = 3  # of one shape, whose graph made place for others or whose weights moved
SHARED = ("_parameters", "_buffers", "_non_persistent_buffers_set", "_modules")
_LOG = logging.getLogger(__name__)


class Replayed(nn.Module):
    """A model, to be attacked under ``frozen_eval``; its modules, parameters and attributes are those of the model.

    What Python does in a forward is not replayed. So passes are eager where a module has hooks, is in training mode or
    has parameters with gradients, in activation checkpointing, under a dispatch mode, and for ever where a graph does
    not repeat the eager pass, is not faster or takes memory that is needed; the log then says why. A forward is eager,
    too, while the backward of the one before may still come.

    Args:
        capture: what makes graphs on a device.
    """

    def __init__(self, model: nn.Module, capture: type[CudaCapture] | None = None) -> None:
        super().__init__()
        own = vars(self)
        own["_model"] = model  # no part: names of modules and weights stay the model's own
        own |= {name: vars(model)[name] for name in SHARED}
        del own["training"]
        self._capture = capture or CudaCapture
        self._graphs: OrderedDict[Hashable, Graph] = OrderedDict()
        self._calls: Counter[Hashable] = Counter()
        self._captures: Counter[Hashable] = Counter()
        self._refused: set[Hashable] = set()
        self._needed = 0  # bytes, of what else is done; mmengine's log begins to measure anew at every entry

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["_model"], name)

    def named_modules(self, *arguments: Any, **options: Any) -> Iterator[tuple[str, nn.Module]]:
        return self._model.named_modules(*arguments, **options)

    def train(self, mode: bool = True) -> Replayed:
        self._model.train(mode)
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Images ``[N,3,H,W]`` -> logits ``[N,K,H,W]``, as the model gives them."""
        graph = self._graph(images)
        if graph is None:
            return self._model(images)
        return _Replay.apply(images, graph) if _wants_gradient(images) else graph.logits(images)

    @property
    def held(self) -> int | None:
        """Bytes that graphs take and no tensor does; None: there are no graphs."""
        return sum(graph.passes.held for graph in self._graphs.values()) if self._graphs else None

    def release(self) -> None:
        """Give the memory of all graphs back; they are captured anew where they are needed again."""
        for key in list(self._graphs):
            self._graphs.pop(key).release()
            self._calls[key] = self._captures[key] = 0

    def _graph(self, images: Tensor) -> Graph | None:
        """The one that stands for this pass; None: it is eager."""
        if not self._capture.serves(images) or _is_watched() or getattr(self._model, "checkpointing", False):
            return None
        key = _key(images)
        if key in self._refused or (addresses := _addresses(self._model)) is None:
            return None
        graph = self._graphs.get(key)
        if graph is not None and not graph.is_waiting and graph.addresses != addresses:
            self._graphs.pop(key).release()
            graph, self._calls[key] = None, 0
        if graph is None:
            graph = self._captured(key, images, addresses) if _wants_gradient(images) else None
        if graph is None or graph.is_waiting or not (graph.serves_no_grad or _wants_gradient(images)):
            return None
        self._graphs.move_to_end(key)
        return graph

    def _captured(self, key: Hashable, images: Tensor, addresses: list[int]) -> Graph | None:
        """A new graph, where the shape has repeated often enough and everything speaks for it."""
        self._calls[key] += 1
        capture = self._capture(images.device)
        self._needed = max(self._needed, capture.needed())
        if self._calls[key] <= EAGER_CALLS or not self._has_place():
            return None
        try:
            if self._captures[key] == MOST_CAPTURES:
                raise NotReplayed(f"it was captured {MOST_CAPTURES} times and had to go again")
            self._make_place()
            self._captures[key] += 1
            graph = checked_graph(self._model, images, addresses, capture, self._needed)
            self._graphs[key] = graph
            return graph
        except NotReplayed as refusal:
            reason = str(refusal)
        except Exception as error:  # a network may do anything; where it is wrong itself, the eager pass says so
            reason = "memory is full" if out_of_memory(error) else f"{type(error).__name__}: {first_line(error)[:200]}"
        self._refused.add(key)
        self._capture.give_memory_back()
        _LOG.info("no CUDA graph for images %s, passes stay eager: %s", tuple(images.shape), reason)
        return None

    def _has_place(self) -> bool:
        return len(self._graphs) < MOST_GRAPHS or not next(iter(self._graphs.values())).is_waiting

    def _make_place(self) -> None:
        """For one more graph; the one that was not used for the longest time goes."""
        if len(self._graphs) == MOST_GRAPHS:
            key, oldest = self._graphs.popitem(last=False)
            oldest.release()
            self._calls[key] = 0


class _Replay(torch.autograd.Function):
    """The two graphs as one differentiable step."""

    @staticmethod
    def forward(ctx: Any, points: Tensor, graph: Graph) -> Tensor:
        ctx.graph, ctx.forward = graph, _Forward()
        logits = graph.logits(points)
        graph.waits_for = weakref.ref(ctx.forward)
        return logits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, ascent: Tensor) -> tuple[Tensor, None]:
        return ctx.graph.gradient(ctx.forward, ascent), None


class _Forward:
    """One forward, which lives as long as its backward may come."""


def _wants_gradient(images: Tensor) -> bool:
    return torch.is_grad_enabled() and images.requires_grad


def _is_watched() -> bool:
    """Whether somebody looks at single operations or modules, or forbids autograd."""
    return torch.is_inference_mode_enabled() or torch._C._len_torch_dispatch_stack() > 0 or _has_any_global_hook()


def _key(images: Tensor) -> Hashable:
    """All that decides which kernels a pass starts, besides the model."""
    device = images.device.type
    return (
        *(images.shape, images.stride(), images.dtype, images.device),
        *(torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)),
        *(torch.are_deterministic_algorithms_enabled(), F.interpolate),  # which deterministic attacks exchange
        *(torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark),
        *(torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision),
    )


def has_hooks(part: nn.Module) -> bool:
    """Whether somebody looks at a module's passes, or changes them."""
    return bool(part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks)


def _addresses(model: nn.Module) -> list[int] | None:
    """Where the parameters and buffers lie; None where a pass is more than its kernels."""
    parts, found = [model], []
    try:
        for part in parts:
            if part.training or has_hooks(part):
                return None
            for tensor in (*part._parameters.values(), *part._buffers.values()):
                if tensor is not None and tensor.requires_grad:
                    return None
                found.append(0 if tensor is None else tensor.data_ptr())
            parts += [child for child in part._modules.values() if child is not None]
    except RuntimeError:  # a tensor without an address
        return None
    return found
