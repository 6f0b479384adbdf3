"""Data whose random numbers follow from (seed, visit, image) alone: the same with any number of workers, or resumed.

Sampler and dataset belong together; ``segrobust.hooks.exact_resume`` tells what else an exact resume needs.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sized
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.dataset import InfiniteSampler
from mmengine.dist import get_dist_info
from mmengine.registry import DATA_SAMPLERS, DATASETS
from torch.utils.data import Dataset, Sampler

from segrobust.core.errors import UserError
from segrobust.core.seeds import seed_of


class Draw(NamedTuple):
    """One visit to one image: its index in the data set, and the seed of its augmentation."""

    index: int
    seed: int


@DATA_SAMPLERS.register_module()
class SeededInfiniteSampler(Sampler):
    """Endless passes over the data, each in a new order, as :class:`Draw`; process r takes every world-size-th.

    The stream is a function of the seed alone, so ``skip`` jumps to any place of it at no cost.

    Args:
        dataset: a :class:`SeededDataset`.
        shuffle: a new random order on every pass instead of the data set's own.
        batch_size: the data loader's, per process, where batches are repeated.
        repeats: how often each batch comes in a row, augmented alike; for free adversarial training.
        seed: None is refused; the runner passes the one of ``randomness=dict(seed=...)``.
    """

    def __init__(
        self,
        dataset: Sized,
        shuffle: bool = True,
        seed: int | None = None,
        batch_size: int = 1,
        repeats: int = 1,
    ) -> None:
        if not isinstance(dataset, SeededDataset):
            raise UserError(f"SeededInfiniteSampler: expected dataset=dict(type='SeededDataset', dataset=...), "
                            f"got {type(dataset).__name__}")  # fmt: skip
        if seed is None:
            raise UserError("SeededInfiniteSampler: expected a seed; set randomness=dict(seed=0) in the config")
        for name, value in (("batch_size", batch_size), ("repeats", repeats)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UserError(f"SeededInfiniteSampler: expected {name} to be an integer >= 1, got {value!r}")
        self.size = len(dataset)
        self.batch_size, self.repeats = batch_size, repeats
        self.shuffle = shuffle
        self.seed = seed
        self.rank, self.world_size = get_dist_info()
        self.first = 0

    def __iter__(self) -> Iterator[Draw]:
        visit, order = -1, range(self.size)
        for draw in itertools.count(self.first):
            batch, place = divmod(draw, self.batch_size)
            position = (batch // self.repeats * self.batch_size + place) * self.world_size + self.rank
            if position // self.size != visit:
                visit = position // self.size
                order = self._order(visit)
            index = int(order[position % self.size])
            yield Draw(index, seed_of(self.seed, "augmentation", visit, index))

    def _order(self, visit: int) -> range | np.ndarray:
        if not self.shuffle:
            return range(self.size)
        return np.random.default_rng(seed_of(self.seed, "order", visit)).permutation(self.size)

    def skip(self, num_samples: int) -> None:
        """Start ``num_samples`` draws of this process after the beginning; mmengine calls it when it resumes."""
        self.first = num_samples

    def __len__(self) -> int:
        return self.size

    def set_epoch(self, epoch: int) -> None:
        """Nothing to do: the stream has no epochs."""


@DATA_SAMPLERS.register_module()
class SeededSampler(Sampler):
    """The very order of one of mmengine's samplers, as :class:`Draw`, from any place of it.

    Args:
        dataset: what is sampled.
        sampler: config of an ``InfiniteSampler`` or a ``DefaultSampler``.
        batch_size: the data loader's, per process.
        drop_last: the data loader's.
        seed: the runner passes its own; None, as under ``diff_rank_seed``: that of ``sampler``.
    """

    def __init__(
        self,
        dataset: Sized,
        sampler: Mapping[str, Any],
        batch_size: int = 1,
        drop_last: bool = False,
        seed: int | None = None,
    ) -> None:
        self.sampler = DATA_SAMPLERS.build(sampler, default_args=dict(dataset=dataset, seed=seed))
        self.seed = self.sampler.seed if seed is None else seed
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.rank, self.world_size = get_dist_info()
        self.epoch = self.first_epoch = self.first = 0

    def __iter__(self) -> Iterator[Draw]:
        self.sampler.set_epoch(self.epoch)
        first, self.first = self.first, 0
        for position, index in enumerate(itertools.islice(self.sampler, first, None), first):
            place = position * self.world_size + self.rank
            yield Draw(index, seed_of(self.seed, "augmentation", self.epoch, place))

    def skip(self, num_samples: int) -> None:
        """Start ``num_samples`` draws of this process after the beginning; mmengine's loop over iterations calls it."""
        if isinstance(self.sampler, InfiniteSampler):
            self.first = num_samples
            return
        batches = len(self.sampler) / self.batch_size
        batches = math.floor(batches) if self.drop_last else math.ceil(batches)
        self.first_epoch, done = divmod(num_samples // self.batch_size, batches)
        self.epoch, self.first = self.first_epoch, done * self.batch_size

    def set_epoch(self, epoch: int) -> None:
        """The pass over the data that comes next, counted from the one that ``skip`` went to."""
        self.epoch = self.first_epoch + epoch

    def __len__(self) -> int:
        return len(self.sampler)


@DATASETS.register_module()
class SeededDataset(Dataset):
    """A data set whose pipeline's randomness comes from the :class:`Draw` alone, not from the worker it runs in.

    Whatever else is asked of it, the data set itself answers.

    Args:
        dataset: config of the data set, or the data set itself.
    """

    def __init__(self, dataset: Mapping[str, Any] | Dataset) -> None:
        self.dataset = DATASETS.build(dataset) if isinstance(dataset, Mapping) else dataset
        if hasattr(self.dataset, "full_init"):
            self.dataset.full_init()

    def __getattr__(self, name: str) -> Any:
        if name == "dataset":  # not there yet: a copy is being made
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, draw: Draw | int) -> Any:
        """The item of a draw, augmented by its seed; of a plain index, with whatever randomness there is."""
        if not isinstance(draw, Draw):
            return self.dataset[draw]
        with seeded(draw.seed):
            return self.dataset[draw.index]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The random numbers of Python, numpy and torch (CPU) follow from ``seed`` inside, and are untouched outside."""
    state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        random.seed(seed)
        np.random.seed(seed_of(seed, "numpy", bits=32))
        torch.default_generator.manual_seed(seed)
        yield
    finally:
        random.setstate(state[0])
        np.random.set_state(state[1])
        torch.set_rng_state(state[2])
