"""Counting, on a CPU, what would make the host wait for a GPU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten

WAITING = {  # a value, or the shape of a result, depends on the data
    aten._local_scalar_dense,
    aten.is_nonzero,
    aten.nonzero,
    aten.nonzero_numpy,
    aten.argwhere,
    aten.masked_select,
    aten.equal,
    aten.allclose,
    aten.bincount,
    aten.histc,
    aten.unique_dim,
    aten._unique,
    aten._unique2,
    aten.unique_consecutive,
}
INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index}
# of a tensor, in torch's deterministic mode on a GPU: the strides of the target are copied there
SCATTERING = {aten.scatter, aten.scatter_, aten.scatter_add, aten.scatter_add_}
COPYING = {aten._to_copy, aten.copy_, aten.copy}
READING = {Tensor.tolist, Tensor.numpy, Tensor.cpu, Tensor.__array__}  # on a CPU these never reach the dispatcher
MAKING = {torch.tensor, torch.as_tensor, torch.asarray, torch.from_numpy, Tensor.new_tensor}
ITEMS = {Tensor.__getitem__, Tensor.__setitem__}


class Dispatched(TorchDispatchMode):
    def __init__(self, seen: Counter[str]) -> None:
        super().__init__()
        self.seen = seen

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if self._waits(func.overloadpacket, args, kwargs, result):
            self.seen[str(func)] += 1
        return result

    @staticmethod
    def _waits(packet, args, kwargs, result) -> bool:
        if packet in INDEXING:
            return any(one is not None and one.dtype in (torch.bool, torch.uint8) for one in args[1])
        if packet in COPYING:  # from one device to another
            return args[-1 if packet is not aten._to_copy else 0].device != result.device
        if packet in SCATTERING:
            return isinstance(args[3], Tensor) and args[0].device.type == "cuda"
        if packet is aten.repeat_interleave:
            return kwargs.get("output_size") is None
        return packet in WAITING


class Called(TorchFunctionMode):
    def __init__(self, seen: Counter[str]) -> None:
        super().__init__()
        self.seen = seen

    def __torch_function__(self, func, types, args=(), kwargs=None):
        listed = func in ITEMS and _numbers_of_the_host(args[1])
        if func in READING or func in MAKING or listed:
            self.seen[getattr(func, "__name__", str(func))] += 1
        return func(*args, **(kwargs or {}))


def _numbers_of_the_host(index) -> bool:
    parts = index if isinstance(index, tuple) else (index,)
    return any(isinstance(one, list | range | np.ndarray) for one in parts)


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """What waits, by the name of the operation, while the block runs."""
    seen: Counter[str] = Counter()
    with Dispatched(seen), Called(seen):
        yield seen
