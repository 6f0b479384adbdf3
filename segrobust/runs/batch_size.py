"""The automatic batch size: the largest of a halving series that fits, found before the first row and then kept.

accelerate's ``find_executable_batch_size`` would start the whole run again at every failure, and takes an error of
cuDNN for lack of memory; here a few passes of each attack are tried, and only lack of memory makes a batch smaller.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from accelerate.utils.memory import clear_device_cache

from segrobust.core.errors import UserError
from segrobust.models.failures import out_of_memory
from segrobust.studies.jobs import Job

LARGEST = 64
LARGEST_ON_CPU = 4  # more gains nothing there, and a full memory kills the process instead of raising an error
SPARE = 8  # tried with an eighth more images: a long run scatters its memory, and some attacks need more later on
PASSES = 6  # after so many calls of the model an attack holds all that it keeps from step to step
_LOG = logging.getLogger(__name__)


def settle_batch_size(evaluation: Any, fresh: bool) -> int:
    """The size that the run in the folder was begun with or, in a new run, the largest that every process can take.

    All processes must call it, and all get the same answer, which depends on their memory and not on their number.

    Args:
        evaluation: the run; its own ``batch_size`` is not looked at.
        fresh: a run that is in the folder already will be discarded.

    Raises:
        UserError: not even one image fits.
    """
    state = PartialState()
    stored = [None if fresh or not state.is_main_process else _stored(evaluation.folder)]
    if (size := broadcast_object_list(stored)[0]) is not None:
        return size
    image = _largest_image(evaluation, state.process_index, state.num_processes)
    size = min(gather_object([_largest_size(evaluation, image)]))
    _LOG.info("batch size %d, found automatically", size)
    return size


def _stored(folder: Any) -> int | None:
    if not (folder.path / "run.json").is_file() or not folder.has_results():
        return None
    run = folder.read_json("run.json")
    size = (run.get("identity") or {}).get("batch_size") if isinstance(run, dict) else None
    return size if type(size) is int and size > 0 else None


def _largest_image(evaluation: Any, rank: int, world: int) -> int:
    """The image with the most pixels, for which each process looks through its share of them."""
    source = evaluation.source
    own = ((source[i].label.numel(), -i) for i in range(rank, len(source), world))
    return -max(gather_object([max(own, default=(0, 0))]))[1]


def _largest_size(evaluation: Any, image: int) -> int:
    most = LARGEST_ON_CPU if evaluation.device.type == "cpu" else LARGEST
    size = 1 << (min(most, len(evaluation.source)).bit_length() - 1)
    while (failed := _fails(evaluation, image, size)) is not None:
        if size == 1:
            height, width = evaluation.source[image].label.shape
            raise UserError(
                f"{failed}: one image of {height}x{width} does not fit into memory; try --checkpointing, --amp or a "
                "config with slide inference"
            )
        size //= 2
    return size


def _fails(evaluation: Any, image: int, size: int) -> str | None:
    """The first attack that runs out of memory with batches of this size."""
    for label, job in {job.label: job for job in evaluation.jobs}.items():
        try:
            _try(evaluation, job, image, size)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            fits = False
        else:
            fits = True
        clear_device_cache(garbage_collection=True)  # only here, where the error no longer holds its frames' tensors
        if not fits:
            return label
    return None


class _Enough(Exception):
    pass


def _try(evaluation: Any, job: Job, image: int, size: int) -> None:
    """The first passes of an attack on ``size`` copies of an image, and on some more."""
    size += -(-size // SPARE) if size > 1 else 0
    calls = iter(range(PASSES))

    def count(*_: object) -> None:
        if next(calls, None) is None:
            raise _Enough

    group = evaluation.group([image] * size, [evaluation.source[image]] * size)
    handle = evaluation.attacked.register_forward_pre_hook(count)
    try:
        for outcome in evaluation.outcomes(job, group):
            evaluation.measured(outcome.points, group)
    except _Enough:
        pass
    finally:
        handle.remove()


@contextlib.contextmanager
def clear_memory_errors(batch_size: int) -> Iterator[None]:
    """Turn lack of memory within a run into a one-line ``UserError``; every other error goes through."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        smaller = f"--batch-size {batch_size // 2} and another --work-dir, " if batch_size > 1 else ""
        raise UserError(
            f"out of memory with batches of {batch_size}; what was computed is kept; free memory and run the command "
            f"again, or try {smaller}--checkpointing or --amp"
        ) from error
