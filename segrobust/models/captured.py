"""CUDA graphs of a model's forward and backward, and the proof that they do what the eager passes do."""

from __future__ import annotations

import logging
import random
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

FASTER = 0.9  # of the eager time is what a replay may take
REPEATED = 0.01  # of the largest value: eager passes that differ by more are not the same computation
LIKE_EAGER = 4  # times the difference of two eager passes is that of a replay, where they differ
_MIB = 1 << 20
_LOG = logging.getLogger(__name__)


class NotReplayed(Exception):
    """Why passes of one shape stay eager."""


@dataclass
class Passes:
    """A forward and a backward in memory of their own.

    points, logits, ascent, gradient: what they read and write; the ascent in the layout of the logits.
    forward, backward: run them; without a forward since, a second backward is wrong.
    release: gives the memory back.
    kept: tensors of others that they read.
    """

    points: Tensor
    logits: Tensor
    ascent: Tensor
    gradient: Tensor
    forward: Callable[[], None]
    backward: Callable[[], None]
    release: Callable[[], None]
    kept: list[Tensor] = field(default_factory=list)


class Graph:
    """Passes of one shape with what they depend on.

    addresses: of the weights that they read.
    serves_no_grad: whether a forward without a gradient gives the same logits.
    waits_for: the forward whose activations are in memory, until its backward comes or it is given up.
    """

    def __init__(self, passes: Passes, addresses: list[int]) -> None:
        self.passes, self.addresses, self.serves_no_grad = passes, addresses, False
        self.waits_for: weakref.ref | None = None

    @property
    def is_waiting(self) -> bool:
        return self.waits_for is not None and self.waits_for() is not None

    def logits(self, points: Tensor) -> Tensor:
        """Of a replayed forward; a copy, which the next one does not change."""
        self.passes.points.copy_(points.detach())
        self.passes.forward()
        return self.passes.logits.clone()

    def gradient(self, forward: object, ascent: Tensor) -> Tensor:
        """Of a replayed backward, which belongs to the last forward; RuntimeError: another one came in between."""
        if self.waits_for is None or self.waits_for() is not forward:
            raise RuntimeError("a replayed forward has one backward, before the next forward; use the model itself")
        self.waits_for = None
        self.passes.ascent.copy_(ascent)
        self.passes.backward()
        return self.passes.gradient.clone()

    def release(self) -> None:
        """Give the memory back; nothing can be replayed any more."""
        release = self.passes.release
        del self.passes  # its tensors first
        release()


class CudaCapture:
    """How passes are captured, timed and weighed on one CUDA device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)

    @staticmethod
    def serves(images: Tensor) -> bool:
        return images.is_cuda and not torch.cuda.is_current_stream_capturing()

    @staticmethod
    def give_memory_back() -> None:
        torch.cuda.empty_cache()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """The stream of captures, where libraries set themselves up before them."""
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        try:
            with torch.cuda.device(self.device), torch.cuda.stream(self.stream):
                yield
        finally:
            current.wait_stream(self.stream)

    @contextmanager
    def without_waiting(self) -> Iterator[None]:
        """An error for what waits for the device, which no graph can hold."""
        before = torch.cuda.get_sync_debug_mode()
        with warnings.catch_warnings(action="ignore"):  # it tells that it is a prototype
            torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(before)

    def milliseconds(self, call: Callable[[], Any]) -> float:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)

    def random_state(self) -> bytes:
        return torch.cuda.get_rng_state(self.device).numpy().tobytes()

    def passes(self, model: nn.Module, points: Tensor) -> Passes:
        """The captured ones, on the stream of :meth:`aside`; memory must then do for the largest need so far beside
        them, and for one more pass.

        Raises:
            NotReplayed: it would not. Any error of torch: they cannot be captured.
        """
        needed = torch.cuda.max_memory_allocated(self.device) - torch.cuda.memory_allocated(self.device)
        torch.cuda.empty_cache()
        before = torch.cuda.memory_reserved(self.device)
        passes = self._captured(model, points)
        held = torch.cuda.memory_reserved(self.device) - before
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info(self.device)
        if free < max(needed, held):
            passes.release()
            raise NotReplayed(f"a graph leaves {free // _MIB} MiB of memory, {max(needed, held) // _MIB} are needed")
        return passes

    def _captured(self, model: nn.Module, points: Tensor) -> Passes:
        forward, backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        pool = torch.cuda.graph_pool_handle()
        # errors of this thread alone: others load data and watch connections meanwhile
        options = {"pool": pool, "stream": self.stream, "capture_error_mode": "thread_local"}
        points = points.detach().clone().requires_grad_()

        def release() -> None:
            torch.cuda.synchronize(self.device)
            for graph in (backward, forward):
                with suppress(RuntimeError):  # one that was not captured whole
                    graph.reset()
            self.give_memory_back()

        try:
            with torch.cuda.graph(forward, **options):
                logits = model(points)
            ascent = torch.zeros_like(logits, memory_format=layout_of(logits))
            with torch.cuda.graph(backward, **options):
                (gradient,) = torch.autograd.grad(logits, points, ascent)
        except BaseException:
            release()
            self._recover()
            raise

        return Passes(points.detach(), logits.detach(), ascent, gradient, forward.replay, backward.replay, release)

    def _recover(self) -> None:
        """After a capture that failed torch's random numbers wait for the end of one (pytorch issue 171263)."""
        options = {"stream": self.stream, "capture_error_mode": "thread_local"}
        with suppress(RuntimeError), torch.cuda.graph(torch.cuda.CUDAGraph(), **options):
            torch.zeros(1, device=self.device)


def checked_graph(model: nn.Module, images: Tensor, addresses: list[int], capture: CudaCapture) -> Graph:
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
        graph = Graph(capture.passes(model, images), addresses)
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


def layout_of(logits: Tensor) -> torch.memory_format:
    """The memory format that logit gradients have, or a backward could choose other kernels for each of them."""
    channels_last = logits.is_contiguous(memory_format=torch.channels_last) and not logits.is_contiguous()
    return torch.channels_last if channels_last else torch.contiguous_format


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
