"""Passes that repeat bit for bit on a GPU: what cannot repeat there is exchanged for what can, as far as there is.

    with deterministic(device):
        ...     # forwards and backwards; on a CPU, which repeats anyway, nothing changes

torch's own switch takes care of most operations. Three that segmenters live on it serves slowly or not at all: bilinear
interpolation, adaptive average pooling and cross-entropy of maps; these are exchanged in ``torch.nn.functional``.
Compiled and scripted networks call torch's inner functions and are not reached.
"""

from __future__ import annotations

import contextlib
import numbers
import os
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import has_torch_function_unary

from segrobust.models.repeating import adaptive_average, bilinear, cross_entropy

__all__ = ["alerted", "bilinear", "deterministic", "exchanged", "operation_in"]

# cuBLAS repeats only with a workspace of its own, and reads this once, at its first use in the process
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

_OWN = (F.interpolate, F.adaptive_avg_pool2d, F.cross_entropy)
# modules that hold a reference of their own to F.interpolate
_HOLDERS = ("torchvision.transforms._functional_tensor", "torchvision.transforms.v2.functional._geometry")
_ALERT = re.compile(r"(\w+)(\(\))?( CUDA)?( with .+)? does not have a deterministic implementation")


@contextlib.contextmanager
def deterministic(device: torch.device, enabled: bool = True) -> Iterator[None]:
    """Passes on a GPU repeat, as far as torch has a form for it; all settings are as before afterwards.

    Where an operation has no such form torch would warn each time: the warnings are kept from the user, and
    :func:`alerted` names the operations. May be nested, and entered by several threads: the last one out puts back.
    """
    if not enabled or device.type != "cuda":
        yield
        return
    _SWITCH.enter()
    try:
        yield
    finally:
        _SWITCH.leave()


def alerted() -> set[str]:
    """Operations without a deterministic form, as torch said since the outermost ``deterministic`` was entered."""
    return set(_SWITCH.alerts)


def operation_in(warning: str) -> str:
    """The operation that a warning of torch says to have no deterministic form, by its name there; empty: another."""
    found = _ALERT.search(warning)
    return re.sub(r"(_out)?_cuda(_\w+)?$", "", found[1]) if found else ""


class _Switch:
    """Counts who is inside, and holds what is put back when nobody is."""

    def __init__(self) -> None:
        self.lock, self.inside, self.undo = threading.Lock(), 0, contextlib.ExitStack()
        self.alerts: set[str] = set()

    def enter(self) -> None:
        with self.lock:
            if not self.inside:
                with contextlib.ExitStack() as stack:
                    self.alerts = set()
                    _switch_on(stack, self.alerts)
                    self.undo = stack.pop_all()
            self.inside += 1

    def leave(self) -> None:
        with self.lock:
            self.inside -= 1
            if not self.inside:
                self.alerts = set()
                self.undo.close()


_SWITCH = _Switch()


def _switch_on(stack: contextlib.ExitStack, alerts: set[str]) -> None:
    """Everything that a process shares; ``stack`` puts it back."""
    before, only_warned = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    stack.callback(torch.use_deterministic_algorithms, before, warn_only=only_warned)
    torch.use_deterministic_algorithms(True, warn_only=True)
    # filling every new tensor helps to find reads of what was never written, at the price of a pass over all memory
    _set(stack, torch.utils.deterministic, "fill_uninitialized_memory", False)
    _set(stack, torch.backends.cudnn, "benchmark", False)  # it chooses by the clock
    stack.enter_context(exchanged())
    _set(stack, warnings, "showwarning", _collecting(alerts, warnings.showwarning))


def _set(stack: contextlib.ExitStack, owner: Any, name: str, value: Any) -> None:
    stack.callback(setattr, owner, name, getattr(owner, name))
    setattr(owner, name, value)


def _collecting(alerts: set[str], show: Callable[..., None]) -> Callable[..., None]:
    """A ``warnings.showwarning`` that keeps torch's alerts to itself.

    No filter is touched: that would make Python show every other warning again that it has shown once.
    """

    def collect(message: Warning | str, *where: Any, **more: Any) -> None:
        if operation := operation_in(str(message)):
            alerts.add(operation)
        else:
            show(message, *where, **more)

    return collect


@contextlib.contextmanager
def exchanged() -> Iterator[None]:
    """``torch.nn.functional`` with the forms of :mod:`segrobust.models.repeating`, on whatever device."""
    own, forms = _OWN, (_interpolate, _adaptive_avg_pool2d, _cross_entropy)
    with contextlib.ExitStack() as stack:
        for function, form in zip(own, forms, strict=True):
            for place in (F, *(sys.modules[name] for name in _HOLDERS if name in sys.modules)):
                if getattr(place, function.__name__, None) is function:  # somebody's own exchange stays
                    _set(stack, place, function.__name__, form)
        yield


def _interpolate(
    input: Tensor,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Tensor:
    """``F.interpolate``; the bilinear one of maps by matrix products."""
    given = (size, scale_factor, mode, align_corners, recompute_scale_factor, antialias)
    target = None
    if mode == "bilinear" and not antialias and _is_plain_map(input):
        target = _target(input.shape[2:], size, scale_factor, recompute_scale_factor)
    return _OWN[0](input, *given) if target is None else bilinear(input, target[0], bool(align_corners), target[1])


def _target(before: torch.Size, size: Any, factor: Any, recompute: bool | None) -> tuple[tuple, tuple] | None:
    """The size, and the factors where torch uses these in place of the sizes' ratio; None: leave it to torch."""
    if (size is None) == (factor is None) or (size is not None and recompute):
        return None
    wanted = _pair(factor if size is None else size)
    kind = numbers.Real if size is None else numbers.Integral
    if len(wanted) != 2 or not all(isinstance(one, kind) and one > 0 for one in wanted):
        return None
    if size is not None:
        return tuple(map(int, wanted)), (None, None)
    after = tuple(int(length * one) for length, one in zip(before, wanted, strict=True))
    scales = (None, None) if recompute else tuple(map(float, wanted))
    return (after, scales) if all(after) else None


def _pair(value: Any) -> tuple:
    return tuple(value) if isinstance(value, list | tuple) else (value, value)


def _adaptive_avg_pool2d(input: Tensor, output_size: Any) -> Tensor:
    """``F.adaptive_avg_pool2d`` by matrix products; to one pixel it is a mean, which repeats."""
    size = _pair(output_size)
    if _is_plain_map(input) and len(size) == 2:
        size = tuple(before if one is None else one for before, one in zip(input.shape[2:], size, strict=True))
        if all(isinstance(one, numbers.Integral) and one > 0 for one in size) and size != (1, 1):
            return adaptive_average(input, tuple(map(int, size)))
    return _OWN[1](input, output_size)


def _cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """``F.cross_entropy``; that of maps with class ids without a sum over indices."""
    of_ids = _is_plain(input) and _is_plain(target) and target.dtype == torch.long
    of_maps = of_ids and input.ndim > 2 and input.shape[:1] + input.shape[2:] == target.shape
    usual = size_average is None and reduce is None and not label_smoothing and reduction in ("none", "mean", "sum")
    if of_maps and usual and input.is_floating_point():
        return cross_entropy(input, target, weight, ignore_index, reduction)
    return _OWN[2](input, target, weight, size_average, ignore_index, reduce, reduction, label_smoothing)


def _is_plain_map(x: Any) -> bool:
    """A floating ``[N, C, H, W]`` with something in it; what torch would refuse is left to torch."""
    return _is_plain(x) and x.ndim == 4 and x.is_floating_point() and x.numel() > 0


def _is_plain(x: Any) -> bool:
    return isinstance(x, Tensor) and not has_torch_function_unary(x) and not torch._C._get_tracing_state()
