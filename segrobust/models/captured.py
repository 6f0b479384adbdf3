"""CUDA graphs of a model's forward and backward: how they are captured, weighed and run."""

from __future__ import annotations

import functools
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

_MIB = 1 << 20


class NotReplayed(Exception):
    """Why passes of one shape stay eager."""


@dataclass
class Passes:
    """A forward and a backward in memory of their own.

    points, logits, ascent, gradient: what they read and write; the ascent in the layout of the logits.
    forward, backward: run them; without a forward since, a second backward is wrong.
    release: gives the memory back.
    kept: tensors of others that they read.
    held: bytes of a GPU that they take beside the first four.
    """

    points: Tensor
    logits: Tensor
    ascent: Tensor
    gradient: Tensor
    forward: Callable[[], None]
    backward: Callable[[], None]
    release: Callable[[], None]
    kept: list[Tensor] = field(default_factory=list)
    held: int = 0


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
        self.stream = _stream(device)

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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch tells that this is a prototype
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

    def needed(self) -> int:
        """The most bytes that tensors took beside the present ones, since somebody last began to measure that."""
        return torch.cuda.max_memory_allocated(self.device) - torch.cuda.memory_allocated(self.device)

    def passes(self, model: nn.Module, points: Tensor, needed: int = 0) -> Passes:
        """The captured ones, on the stream of :meth:`aside`; memory must then do for ``needed`` bytes beside them, for
        the largest need that is known here and for one more pass.

        Raises:
            NotReplayed: it would not. Any error of torch: they cannot be captured.
        """
        needed = max(needed, self.needed())
        torch.cuda.empty_cache()
        reserved, allocated = torch.cuda.memory_reserved(self.device), torch.cuda.memory_allocated(self.device)
        passes = self._captured(model, points)
        held = torch.cuda.memory_reserved(self.device) - reserved
        passes.held = max(0, held - (torch.cuda.memory_allocated(self.device) - allocated))
        torch.cuda.empty_cache()
        free = unreserved_bytes(self.device)
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


@functools.cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """One for all captures: libraries keep workspaces for every stream that they have seen."""
    return torch.cuda.Stream(device)


def unreserved_bytes(device: torch.device) -> int:
    """What a GPU has and this process may still take: processes that share one are kept to a part of it."""
    free, whole = torch.cuda.mem_get_info(device)
    allowed = int(whole * torch.cuda.get_per_process_memory_fraction(device))
    return min(free, allowed - torch.cuda.memory_reserved(device))


def layout_of(logits: Tensor) -> torch.memory_format:
    """The memory format that logit gradients have, or a backward could choose other kernels for each of them."""
    channels_last = logits.is_contiguous(memory_format=torch.channels_last) and not logits.is_contiguous()
    return torch.channels_last if channels_last else torch.contiguous_format
