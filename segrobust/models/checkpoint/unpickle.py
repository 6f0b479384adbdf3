"""Reading torch's pickles without running anything: torch's own weights-only reader plus a few inert stand-ins.

mmengine's checkpoints hold numpy arrays and log histories beside the weights. Allowing numpy's own reconstructors
would trust them with bytes from the file, so the names are mapped to stand-ins that only keep what they are given;
real arrays, numbers and ``HistoryBuffer`` objects are built from that afterwards, from plain numeric types alone.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from typing import Any

import numpy as np
import torch

NUMERIC = frozenset({"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"})


class InertDtype:
    """What ``numpy.dtype`` leaves in a pickle: a code such as ``f8`` and the byte order."""

    def __init__(self, code: str, *_: Any) -> None:
        if code not in NUMERIC:
            raise pickle.UnpicklingError(f"numpy dtype {code!r}")
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple) -> None:
        self.order = {"<": "<", ">": ">"}.get(state[1], "=")

    def resolve(self) -> np.dtype:
        return np.dtype(self.order + self.code)


class InertArray:
    """What ``numpy.ndarray`` leaves in a pickle: (version, shape, dtype, Fortran order, bytes)."""

    state: tuple = ()

    def __setstate__(self, state: tuple) -> None:
        self.state = state

    def resolve(self) -> np.ndarray:
        _, shape, dtype, fortran, data = self.state
        kind = dtype.resolve()
        if len(data) != prod(shape) * kind.itemsize:
            raise ValueError("a numpy array has another number of bytes than its shape says")
        return np.frombuffer(data, kind).reshape(shape, order="F" if fortran else "C").copy()


class InertHistory:
    """What mmengine's ``HistoryBuffer`` leaves in a pickle: two arrays and a length."""

    def __setstate__(self, state: dict) -> None:
        self.state = state

    def resolve(self) -> Any:
        from mmengine.logging.history_buffer import HistoryBuffer

        values, counts = (self.state[key].resolve() for key in ("_log_history", "_count_history"))
        return HistoryBuffer(values, counts, int(self.state.get("max_length", len(values) + 1)))


def _inert_reconstruct(*_: Any) -> InertArray:
    return InertArray()


def _inert_scalar(dtype: InertDtype, data: bytes) -> np.generic:
    return np.frombuffer(data, dtype.resolve())[0]


def _inert_getattr(owner: type, method: str) -> None:
    """mmengine pickles four methods of HistoryBuffer as ``getattr``; they are not needed to build one."""
    if owner is not InertHistory or method not in ("min", "max", "mean", "current"):
        raise pickle.UnpicklingError(f"builtins.getattr of {method!r}")


def _no_bytes() -> bytes:
    """Protocol 2 writes empty bytes, as in an empty array, as a call of ``bytes`` without arguments."""
    return b""


_CORES = ("numpy.core.multiarray", "numpy._core.multiarray")
STAND_INS = (
    (InertDtype, "numpy.dtype"),
    (InertArray, "numpy.ndarray"),
    (InertHistory, "mmengine.logging.history_buffer.HistoryBuffer"),
    (_inert_getattr, "builtins.getattr"),
    (_no_bytes, "builtins.bytes"),
    *((_inert_reconstruct, f"{core}._reconstruct") for core in _CORES),
    *((_inert_scalar, f"{core}.scalar") for core in _CORES),
)


@contextmanager
def only_stand_ins() -> Iterator[None]:
    """Inside, torch's weights-only reader knows its own types and our stand-ins, whatever others have allowed."""
    others = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(list(STAND_INS))
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(others)


def resolved(node: Any) -> Any:
    """The same tree with every stand-in replaced by the real object."""
    if isinstance(node, InertDtype | InertArray | InertHistory):
        return node.resolve()
    if isinstance(node, OrderedDict):  # keeps attributes such as a state dict's _metadata
        for key, value in node.items():
            node[key] = resolved(value)
        return node
    if type(node) is dict:
        return {key: resolved(value) for key, value in node.items()}
    if type(node) in (list, tuple):
        return type(node)(resolved(value) for value in node)
    return node
