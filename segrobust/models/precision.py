"""What products are computed in: the one place that sets torch's switches.

    with computing_in("float32", device):
        logits = model(images)      # no TF32 and no autocast, whatever is set outside

torch has two sets of switches, ``fp32_precision`` per operation and the older ``allow_tf32``; where they contradict
each other, reading the older one is an error, within torch.compile too. So both are set, and both put back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from segrobust.core.errors import UserError, unknown_name
from segrobust.core.precision_names import FLOAT32, PRECISIONS, TF32

IEEE = "ieee"  # torch's name for products without rounded factors
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def check_precision(precision: str, device: torch.device) -> None:
    """UserError: no such precision, or one that the device would compute in another."""
    if precision not in PRECISIONS:
        raise unknown_name("precision", precision, PRECISIONS)
    if precision == TF32 and not _has_tf32(device):
        raise UserError(
            f"precision tf32: expected a GPU of compute capability 8.0 or more, got {_told(device)}; leave it out, or "
            f"choose {' or '.join(DTYPES)}"
        )


def _has_tf32(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def _told(device: torch.device) -> str:
    if device.type != "cuda":
        return f"the device {device.type!r}"
    return f"{torch.cuda.get_device_name(device)} with {'.'.join(map(str, torch.cuda.get_device_capability(device)))}"


@contextmanager
def computing_in(precision: str, device: torch.device) -> Iterator[None]:
    """A context in which a network on ``device`` computes in one of ``PRECISIONS``; everything as before afterwards.

    float32: products of float32 numbers as they are, without autocast. tf32: with factors of ten bits, on the GPU.
    bf16, fp16: what torch's autocast computes in them, the rest in float32.

    Raises:
        UserError: as :func:`check_precision`.
    """
    check_precision(precision, device)
    half = DTYPES.get(precision)
    with _products(tf32=precision == TF32), torch.autocast(device.type, half, enabled=half is not None):
        yield


@contextmanager
def float32_unless_autocast(device: torch.device) -> Iterator[None]:
    """``computing_in("float32", device)``, but where a caller's autocast is on, all stays as it is."""
    if torch.is_autocast_enabled(device.type):
        yield
    else:
        with computing_in(FLOAT32, device):
            yield


def products() -> dict[str, str]:
    """torch's present switch for float32 products by operation, such as ``{"cuda.conv": "ieee"}``."""
    return {name: owner.fp32_precision for name, owner in _owners().items()}


def _owners() -> dict[str, Any]:
    cuda, cudnn, cpu = torch.backends.cuda, torch.backends.cudnn, torch.backends.mkldnn
    on_gpu = {"cuda.matmul": cuda.matmul, "cuda.conv": cudnn.conv, "cuda.rnn": cudnn.rnn}
    return {**on_gpu, "cpu.matmul": cpu.matmul, "cpu.conv": cpu.conv, "cpu.rnn": cpu.rnn}


def _set(wanted: Mapping[str, str]) -> None:
    for name, owner in _owners().items():
        if name in wanted:
            owner.fp32_precision = wanted[name]


@contextmanager
def _products(tf32: bool) -> Iterator[None]:
    before = products()
    _set(dict.fromkeys(before, IEEE))  # the older switches can be read now, whatever they were mixed with
    matmul, convolutions = torch.get_float32_matmul_precision(), _cudnn_allows_tf32()
    try:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
        _set({name: TF32 if tf32 and name.startswith("cuda") else IEEE for name in before})
        yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = convolutions
        _set(dict.fromkeys(before, "none"))
        inherited = products()  # what stays "none" follows torch.backends.fp32_precision, as it did before
        _set({name: value for name, value in before.items() if value != inherited[name]})


def _cudnn_allows_tf32() -> bool:
    try:
        return torch.backends.cudnn.allow_tf32
    except RuntimeError:  # it contradicts the operations, which say no here
        return True
