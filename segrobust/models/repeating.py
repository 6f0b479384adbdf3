"""Forms of torch's operations whose backward repeats bit for bit on a GPU, where torch's own adds up in any order.

Bilinear interpolation and adaptive average pooling are two matrix products each (rows, then columns) with the weights
of torch's own formulas; cross-entropy picks its logits without a sum over indices. They equal torch's within rounding.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional as F

KEPT = 128  # pairs of sizes whose weights are kept: more than a network with sliding windows has
_INTERPOLATE = F.interpolate  # torch's own, whatever is in its place later
_lock = threading.Lock()
_kept: OrderedDict[tuple, Tensor] = OrderedDict()
_in_graphs: dict[tuple, Tensor] = {}


def bilinear(
    x: Tensor,
    size: tuple[int, int],
    align_corners: bool = False,
    scales: tuple[float | None, float | None] = (None, None),
) -> Tensor:
    """``F.interpolate(x, size, mode="bilinear")`` as two matrix products.

    Args:
        x: ``[N, C, h, w]``, floating; half precision is computed in float32, as torch does.
        size: (height, width) of the result.
        scales: the factors that torch was asked for, where it is to use these in place of the ratio of the sizes.
    """
    if tuple(size) == tuple(x.shape[2:]) and scales == (None, None):
        return x.clone()
    exact = _exact(x.dtype)
    rows, columns = (
        _weights(_linear, x, (before, after, bool(align_corners), scale, exact))
        for before, after, scale in zip(x.shape[2:], size, scales, strict=True)
    )
    return _Product.apply(x, rows, columns)


def adaptive_average(x: Tensor, size: tuple[int, int]) -> Tensor:
    """``F.adaptive_avg_pool2d(x, size)`` of ``[N, C, h, w]`` as two matrix products."""
    exact = _exact(x.dtype)
    pairs = zip(x.shape[2:], size, strict=True)
    return _Product.apply(x, *(_weights(_averages, x, (before, after, exact)) for before, after in pairs))


def cross_entropy(
    logits: Tensor, labels: Tensor, weight: Tensor | None = None, ignore_index: int = -100, reduction: str = "mean"
) -> Tensor:
    """``F.cross_entropy`` of class ids: logits ``[N, K, ...]``, labels ``[N, ...]`` long."""
    counts = labels != ignore_index
    wanted = labels.masked_fill(~counts, 0)
    loss = -_Picked.apply(F.log_softmax(logits, 1), wanted)
    share = counts.to(loss.dtype) if weight is None else weight.to(loss.dtype)[wanted].mul(counts)
    loss = torch.where(counts, loss * share, 0)
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else loss.sum() / share.sum()


class _Product(torch.autograd.Function):
    """``rows @ x @ columns^T`` of every channel, forward and backward in true precision: neither TF32 nor autocast."""

    @staticmethod
    def forward(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        with _true_precision(x.device, rows.dtype):
            return _product(x.to(rows.dtype), rows, columns).to(x.dtype)

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        rows, columns = ctx.saved_tensors
        return _Product.apply(gradient, rows.mT, columns.mT), None, None


def _product(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """In the memory order of ``x``, without a copy of it; no view, so that what follows may work in place."""
    number, channels, height, width = x.shape
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    order = torch.channels_last if last else torch.contiguous_format
    made = torch.empty((number, channels, len(rows), len(columns)), dtype=x.dtype, device=x.device, memory_format=order)
    if last:
        flat = x.permute(0, 2, 3, 1).reshape(number, height, width * channels)
        high = torch.bmm(rows.expand(number, -1, -1), flat).reshape(-1, width, channels)
        wide = made.permute(0, 2, 3, 1).view(-1, len(columns), channels)
        torch.bmm(columns.expand(len(high), -1, -1), high, out=wide)
    else:
        flat = x.reshape(number * channels, height, width)
        high = torch.bmm(rows.expand(len(flat), -1, -1), flat).reshape(-1, width)
        torch.mm(high, columns.mT, out=made.view(-1, len(columns)))
    return made


class _Picked(torch.autograd.Function):
    """The values ``[N, ...]`` of ``[N, K, ...]`` at one class each; torch's own backward adds at indices."""

    @staticmethod
    def forward(values: Tensor, classes: Tensor) -> Tensor:
        return values.gather(1, classes.unsqueeze(1)).squeeze(1)

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        values, classes = inputs
        ctx.save_for_backward(classes)
        ctx.count = values.shape[1]

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        (classes,) = ctx.saved_tensors
        every = torch.arange(ctx.count, device=classes.device).view(1, -1, *[1] * (classes.ndim - 1))
        return torch.where(classes.unsqueeze(1) == every, gradient.unsqueeze(1), 0), None


@contextlib.contextmanager
def _true_precision(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Products as exact as their type: F.interpolate knows no TF32, and is no operation that autocast lowers."""
    with contextlib.ExitStack() as stack:
        if torch.is_autocast_enabled(device.type):
            stack.enter_context(torch.autocast(device.type, enabled=False))
        products = torch.backends.cuda.matmul
        if device.type == "cuda" and dtype == torch.float32 and products.fp32_precision == "tf32":
            stack.callback(setattr, products, "fp32_precision", "tf32")
            products.fp32_precision = "ieee"
        yield


def _exact(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _weights(make: Callable[..., Tensor], x: Tensor, key: tuple) -> Tensor:
    """What ``make`` gives for the key, ``[after, before]``, on the device of ``x``; the last ``KEPT`` are kept.

    A captured CUDA graph reads its memory again and again: what it has read stays.
    """
    if isinstance(x, FakeTensor):  # its weights are fake too
        return make(*key).to(x.device)
    place = (make, *key, x.device)
    capturing = x.device.type == "cuda" and torch.cuda.is_current_stream_capturing()
    with _lock:
        kept = _in_graphs.get(place, _kept.get(place))
        if kept is None:  # while a graph is captured this copy is an error, so its warm-up comes by here first
            with torch.inference_mode(False), torch.no_grad():  # kept for passes with a gradient too
                kept = make(*key).to(x.device)
            _kept[place] = kept
            while len(_kept) > KEPT:
                _kept.popitem(last=False)
        elif capturing:
            _in_graphs[place] = kept
        elif place in _kept:
            _kept.move_to_end(place)
    return kept


def _linear(before: int, after: int, align_corners: bool, scale: float | None, dtype: torch.dtype) -> Tensor:
    """Of torch's own linear interpolation, read off the unit vectors: its rounding of positions is in them."""
    asked = {"size": (after,)} if scale is None else {"scale_factor": (scale,)}
    unit = torch.eye(before, dtype=dtype, device="cpu")[None]
    return _INTERPOLATE(unit, **asked, mode="linear", align_corners=align_corners)[0].T.contiguous()


def _averages(before: int, after: int, dtype: torch.dtype) -> Tensor:
    """Of the mean over places floor(i n / m) to ceil((i + 1) n / m) - 1 of n, for each i of m."""
    number, place = torch.arange(after, device="cpu").unsqueeze(1), torch.arange(before, device="cpu")
    first, end = number * before // after, -(-(number + 1) * before // after)
    inside = (place >= first) & (place < end)
    return inside.to(dtype) / inside.sum(1, keepdim=True)
