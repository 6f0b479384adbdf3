"""The automatic batch size: the largest of a halving series that fits, found before the first row and then kept.

accelerate's ``find_executable_batch_size`` would start the whole run again at every failure, and takes an error of
cuDNN for lack of memory; here a few passes of each attack are tried, and only lack of memory makes a batch smaller.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence

from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from accelerate.utils.memory import clear_device_cache
from torch import nn

from segrobust.core.errors import UserError
from segrobust.datasets.source import Source
from segrobust.models.failures import out_of_memory
from segrobust.runs.folder import RunFolder
from segrobust.runs.memory import logits_fit
from segrobust.studies.base import Study
from segrobust.studies.bench import Bench

LARGEST = 64
LARGEST_ON_CPU = 4  # more gains nothing there, and a full memory kills the process instead of raising an error
SPARE = 8  # tried with an eighth more images: a long run scatters its memory, and some attacks need more later on
PASSES = 6  # after so many calls of the model an attack holds all that it keeps from step to step
_LOG = logging.getLogger(__name__)


def settle_batch_size(bench: Bench, studies: Sequence[Study], folder: RunFolder, fresh: bool) -> int:
    """The size that the run in the folder was begun with or, in a new run, the largest that every process can take.

    All processes must call it, and all get the same answer, which depends on their memory and not on their number.

    Args:
        fresh: a run that is in the folder already will be discarded.

    Raises:
        UserError: not even one image fits.
    """
    state = PartialState()
    goes_on = state.is_main_process and not fresh and folder.has_results()
    size = broadcast_object_list([folder.identity().get("batch_size") if goes_on else None])[0]
    if type(size) is int and size > 0:
        return size
    image = _largest_image(bench.source, state.process_index, state.num_processes)
    size = min(gather_object([_largest_size(bench, studies, image)]))
    _LOG.info("batch size %d, found automatically", size)
    return size


def _largest_image(source: Source, rank: int, world: int) -> int:
    """The image with the most pixels, for which each process looks through its share of them."""
    own = ((source[i].label.numel(), -i) for i in range(rank, len(source), world))
    return -max(gather_object([max(own, default=(0, 0))]))[1]


def _largest_size(bench: Bench, studies: Sequence[Study], image: int) -> int:
    most = LARGEST_ON_CPU if bench.device.type == "cpu" else LARGEST
    size = 1 << (min(most, len(bench.source)).bit_length() - 1)
    while (failed := _fails(bench, studies, image, size)) is not None:
        if size == 1:
            height, width = bench.source[image].label.shape
            raise UserError(
                f"{failed}: one image of {height}x{width} does not fit into memory; try --checkpointing, --amp or a "
                "config with slide inference"
            )
        size //= 2
    return size


def _fails(bench: Bench, studies: Sequence[Study], image: int, size: int) -> str | None:
    """The first study that runs out of memory with batches of this size; one of each name is tried."""
    for name, study in {study.conditions[0].name: study for study in studies}.items():
        fits = _fits(bench, study, image, size)
        clear_device_cache(garbage_collection=True)  # only here, where no error holds its frames' tensors any more
        if not fits:
            return name
    return None


class _Enough(Exception):
    pass


def _fits(bench: Bench, study: Study, image: int, size: int) -> bool:
    """Whether memory does for the first passes of a study on ``size`` copies of an image, and on some more."""
    size += -(-size // SPARE) if size > 1 else 0
    calls = iter(range(PASSES * bench.eot))

    def count(*_: object) -> None:
        if next(calls, None) is None:
            raise _Enough

    networks = [bench.model, *(part for part in study.made_of if isinstance(part, nn.Module))]
    with contextlib.ExitStack() as stack, contextlib.suppress(_Enough):
        try:
            group = bench.group([image] * size, [bench.source[image]] * size)
            if not logits_fit(bench, study, group):
                return False
            for network in networks:
                stack.callback(network.register_forward_pre_hook(count).remove)
            for made in study.perturbed(bench, group):
                bench.measured(made.images, group)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            return False
    return True


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
