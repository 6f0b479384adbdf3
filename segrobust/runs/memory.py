"""Memory for logits, estimated before it is asked for: a full memory of the CPU ends the process without a word."""

from __future__ import annotations

import contextlib
from pathlib import Path

import torch

from segrobust.core.errors import UserError
from segrobust.models.captured import unreserved_bytes
from segrobust.studies.base import Study
from segrobust.studies.bench import Bench, Group

BYTES = 4  # of a logit, in float32
MEMINFO, PROCESS = Path("/proc/meminfo"), Path("/proc/self")
GIB = 2**30


def check_memory(bench: Bench, study: Study, group: Group) -> None:
    """Refuse a group whose logits alone do not fit into the memory that is free; UserError, with what would help."""
    if logits_fit(bench, study, group):
        return
    needed, free = logits_bytes(bench, study, group), free_bytes(bench.device)
    count, (height, width) = len(group.ids), group.labels.shape[1:]
    kept = study.logits_kept
    smaller = f"--batch-size {count // 2} and another --work-dir, " if count > 1 else ""
    raise UserError(
        f"{study.title}: the logits of {count} image{'s' * (count > 1)} of {height}x{width} with "
        f"{bench.model.num_classes} classes take {needed / GIB:.1f} GiB ({kept} of their size at a time), and "
        f"{free / GIB:.1f} GiB are free; what was computed is kept; free memory, or try {smaller}smaller images, and "
        "--checkpointing and a config with slide inference, which leave more of it to them"
    )


def logits_fit(bench: Bench, study: Study, group: Group) -> bool:
    """Whether there is memory for them, as far as the system tells."""
    free = free_bytes(bench.device)
    return free is None or logits_bytes(bench, study, group) <= free


def logits_bytes(bench: Bench, study: Study, group: Group) -> int:
    """Of the tensors of the logits' size that a study has at the same time, the model's own left out."""
    return study.logits_kept * len(group.ids) * bench.model.num_classes * group.labels[0].numel() * BYTES


def free_bytes(device: torch.device) -> int | None:
    """What this process can still get on the device; None where the system does not tell."""
    if device.type == "cuda":
        return unreserved_bytes(device) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return _of_the_system(MEMINFO, "MemAvailable:")


def reset_peak(device: torch.device) -> None:
    """The memory in use now becomes the most so far, where the system can forget it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):
            (PROCESS / "clear_refs").write_text("5")


def peak_bytes(device: torch.device) -> int | None:
    """The most so far, of torch's tensors on a GPU or of the whole process; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _of_the_system(PROCESS / "status", "VmHWM:")


def _of_the_system(file: Path, name: str) -> int | None:
    """An entry of one of Linux's files, in bytes."""
    if not file.is_file():
        return None
    lines = (line.split() for line in file.read_text().splitlines())
    return next((int(words[1]) * 1024 for words in lines if words and words[0] == name), None)
