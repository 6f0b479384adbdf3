"""Training that a resume continues bitwise, with any number of workers: nothing random depends on what ran before.

The order of the images and the augmentation of each one follow from (seed, visit, image), everything else that is
random in an iteration from (seed, iteration, rank). A config enables it with four settings::

    randomness = dict(seed=0)
    train_dataloader = dict(
        batch_size=8,
        num_workers=2,
        sampler=dict(type="SeededInfiniteSampler"),
        dataset=dict(type="SeededDataset", dataset=dict(type="CamVidDataset", split="train", pipeline=train_pipeline)),
    )
    train_cfg = dict(type="IterBasedTrainLoop", max_iters=5000)
    custom_hooks = [dict(type="ReseedHook")]

Then the same run with 0 or with 2 workers, in one go or resumed from any of its checkpoints, gives the same weights,
optimizer state and EMA weights on the same hardware and libraries (on a GPU with ``randomness=dict(seed=0,
deterministic=True)``, where the model has deterministic kernels). Sampler and dataset belong together.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sized
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.dist import get_dist_info
from mmengine.hooks import Hook
from mmengine.registry import DATA_SAMPLERS, DATASETS, HOOKS
from torch.utils.data import Dataset, Sampler

from segrobust.errors import UserError
from segrobust.hooks.seeds import seed_of


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
        seed: None is refused; the runner passes the one of ``randomness=dict(seed=...)``.
    """

    def __init__(self, dataset: Sized, shuffle: bool = True, seed: int | None = None) -> None:
        if not isinstance(dataset, SeededDataset):
            raise UserError(f"SeededInfiniteSampler: expected dataset=dict(type='SeededDataset', dataset=...), "
                            f"got {type(dataset).__name__}")  # fmt: skip
        if seed is None:
            raise UserError("SeededInfiniteSampler: expected a seed; set randomness=dict(seed=0) in the config")
        self.size = len(dataset)
        self.shuffle = shuffle
        self.seed = seed
        self.rank, self.world_size = get_dist_info()
        self.first = 0

    def __iter__(self) -> Iterator[Draw]:
        visit, order = -1, range(self.size)
        for position in itertools.count(self.first * self.world_size + self.rank, self.world_size):
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


@DATASETS.register_module()
class SeededDataset(Dataset):
    """A data set whose pipeline's randomness comes from the :class:`Draw` alone, not from the worker it runs in.

    Args:
        dataset: config of the data set, or the data set itself.
    """

    def __init__(self, dataset: Mapping[str, Any] | Dataset) -> None:
        self.dataset = DATASETS.build(dataset) if isinstance(dataset, Mapping) else dataset
        if hasattr(self.dataset, "full_init"):
            self.dataset.full_init()

    @property
    def metainfo(self) -> dict[str, Any]:
        return self.dataset.metainfo

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


@HOOKS.register_module()
class ReseedHook(Hook):
    """Gives every training iteration its own random numbers (dropout, ...), from (seed, iteration, rank).

    Raises:
        UserError: before training, where the config lacks what exact resume needs besides this hook.
    """

    priority = "VERY_HIGH"

    def before_train(self, runner: Any) -> None:
        sampler = runner.train_dataloader.sampler
        if not isinstance(sampler, SeededInfiniteSampler):
            raise UserError(f"ReseedHook: exact resume needs sampler=dict(type='SeededInfiniteSampler') and "
                            f"dataset=dict(type='SeededDataset', ...) in train_dataloader, got "
                            f"{type(sampler).__name__}")  # fmt: skip

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        seed = seed_of(runner.seed, "iteration", runner.iter, runner.rank)
        random.seed(seed)
        np.random.seed(seed_of(seed, "numpy", bits=32))
        torch.manual_seed(seed)
