"""What a batch costs: seconds, and on a GPU its memory at the highest."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch


@dataclass
class Cost:
    """seconds: of the batch. peak_bytes: most memory that torch's tensors took on the GPU, the model's included.

    None on a CPU: there only the peak of the whole process could be asked for, which later attacks cannot get below.
    """

    seconds: float = 0.0
    peak_bytes: int | None = None


@contextlib.contextmanager
def measured(device: torch.device) -> Iterator[Cost]:
    """Measure what happens inside; the numbers are there afterwards."""
    cost, began = Cost(), time.perf_counter()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    yield cost
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        cost.peak_bytes = torch.cuda.max_memory_allocated(device)
    cost.seconds = time.perf_counter() - began
