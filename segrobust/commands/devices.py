"""The processes of a run and their devices: one each, or shared, or refused before anything is loaded."""

from __future__ import annotations

import atexit
import functools
import os
from datetime import timedelta

import torch
from accelerate import PartialState

from segrobust.core.errors import UserError
from segrobust.core.processes import exchange
from segrobust.models.precision import check_precision
from segrobust.models.segmenter import Segmenter
from segrobust.runs.settings import Settings

APART = 2**30  # bytes of a GPU that a process takes besides its tensors, for CUDA's own


def own_device(share: bool) -> torch.device:
    """This process's own GPU or, where there is none, the CPU.

    A launcher's processes see the same GPUs and take one each, or each sees its own alone (CUDA_VISIBLE_DEVICES set per
    process): GPUs are the same where their UUIDs are. All processes of a run must call it.

    Args:
        share: processes may have a GPU together. Each is then kept to an equal part of its memory.

    Raises:
        UserError: several processes would use one GPU and ``share`` is not set, or there is no GPU to share.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    place = int(os.environ.get("LOCAL_RANK", "0"))
    own = place % gpus if gpus else None
    mine = "" if own is None else str(torch.cuda.get_device_properties(own).uuid)
    users = exchange(mine).count(mine)
    if own is None:
        if share:
            raise UserError("share_device: expected a GPU, and there is none; leave --share-device out")
        return torch.device("cpu")
    device = torch.device("cuda", own)
    if users > 1:
        if not share:
            raise UserError(
                f"expected at most one process per GPU, got {users} on one, {gpus} GPU(s) in all; start fewer, or "
                "let them share it with --share-device"
            )
        _keep_to_a_part(device, users)
    return device


def _keep_to_a_part(device: torch.device, parts: int) -> None:
    """Or ``--batch-size auto`` would find what fits while the others hold nothing yet."""
    whole = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(max(whole / parts - APART, APART / 2) / whole, device)


def processes_of(model: Segmenter, settings: Settings) -> PartialState:
    """The processes of this run, each with its model (and surrogate) on its own device.

    Raises:
        UserError: as :func:`own_device`, or the device does not have the precision.
    """
    on_gpu = next(model.parameters()).device.type == "cuda"
    if settings.share_device and not on_gpu:
        raise UserError("share_device: expected a model on a GPU, got one on the CPU; leave it out")
    own = own_device(settings.share_device) if on_gpu else torch.device("cpu")
    # NCCL refuses two processes on one GPU; gloo will do, what is exchanged are objects without tensors.
    # Early processes wait for late ones, and an attack may take hours
    state = PartialState(cpu=not on_gpu or settings.share_device, timeout=timedelta(days=7))
    if state.num_processes > 1:
        model.to(own)
        if on_gpu:
            torch.cuda.set_device(own)
    if torch.distributed.is_initialized():  # torchrun makes one for a single process, too
        _leave_group_at_exit()
    device = next(model.parameters()).device
    if settings.surrogate is not None:
        settings.surrogate.to(device)
    check_precision(settings.precision, device)
    return state


@functools.cache
def _leave_group_at_exit() -> None:
    """A group that still stands when Python ends makes gloo abort the process now and then, after all is done."""
    atexit.register(PartialState().destroy_process_group)
