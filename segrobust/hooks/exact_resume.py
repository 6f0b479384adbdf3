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

``segrobust train`` puts the three in where a config lacks them, around mmengine's own samplers (``make_exact``).
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop

from segrobust.core.errors import UserError
from segrobust.core.seeds import seed_of
from segrobust.datasets.seeded import SeededInfiniteSampler, SeededSampler


@HOOKS.register_module()
class ReseedHook(Hook):
    """Gives every training iteration its own random numbers (dropout, ...), from (seed, iteration, rank).

    Raises:
        UserError: before training, where the config lacks what exact resume needs besides this hook.
    """

    priority = "VERY_HIGH"

    def before_train(self, runner: Any) -> None:
        sampler = runner.train_dataloader.sampler
        if not isinstance(sampler, SeededInfiniteSampler | SeededSampler):
            raise UserError(f"ReseedHook: exact resume needs sampler=dict(type='SeededInfiniteSampler') and "
                            f"dataset=dict(type='SeededDataset', ...) in train_dataloader, got "
                            f"{type(sampler).__name__}")  # fmt: skip

    def before_train_epoch(self, runner: Any) -> None:
        """Go on inside an epoch where a checkpoint was written there; mmengine would begin the epoch anew."""
        loop, sampler = runner.train_loop, runner.train_dataloader.sampler
        if isinstance(loop, EpochBasedTrainLoop) and isinstance(sampler, SeededSampler):
            sampler.set_epoch(runner.epoch)
            done = runner.iter - runner.epoch * len(loop.dataloader)
            sampler.first = max(0, done) * sampler.batch_size

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        seed = seed_of(runner.seed, "iteration", runner.iter, runner.rank)
        random.seed(seed)
        np.random.seed(seed_of(seed, "numpy", bits=32))
        torch.manual_seed(seed)
