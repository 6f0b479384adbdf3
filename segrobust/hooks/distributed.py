"""What several processes need besides DDP: one model on all of them, and gradients that a resume sums in one order."""

from __future__ import annotations

import copy
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch.nn.parallel import DistributedDataParallel


@HOOKS.register_module()
class EqualBuffersHook(Hook):
    """Averages the model's floating-point buffers over all processes after every iteration.

    DDP averages gradients only: each process would keep the statistics of its own images, attack in eval mode with
    them, and lose them where rank 0's are saved. ``segrobust train`` adds this hook to every distributed run.
    """

    priority = "VERY_HIGH"  # before the weights are averaged, checkpoints written and the model validated

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        buffers = [buffer for buffer in runner.model.buffers() if buffer.is_floating_point()]
        if runner.world_size == 1 or not buffers:
            return
        # summed in float64, where the mean of equal numbers is that number: constants stay what they are
        means = torch.cat([buffer.detach().flatten() for buffer in buffers]).double()
        all_reduce(means)
        means /= runner.world_size
        for buffer, mean in zip(buffers, means.split([buffer.numel() for buffer in buffers]), strict=True):
            buffer.copy_(mean.view(buffer.shape))


@HOOKS.register_module()
class RebuiltBucketsHook(Hook):
    """Lets DDP arrange its buckets before a resumed training's first iteration, by one whose gradients are dropped.

    DDP sums gradients in buckets that it arranges anew after its first backward pass, and where a number lies in its
    bucket decides in which order three or more processes are summed. A training in one go does that at its beginning.
    """

    priority = "HIGHEST"  # before the iteration's random numbers are set

    def __init__(self) -> None:
        self.rebuilt = False

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if self.rebuilt or not runner._resume or runner.world_size < 3:
            return
        self.rebuilt = True
        model = runner.model
        if not isinstance(model, DistributedDataParallel):
            return
        buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
        with runner.optim_wrapper.optim_context(model.module):
            data = model.module.data_preprocessor(copy.deepcopy(data_batch), True)
            losses = model(**data, mode="loss")
        model.module.parse_losses(losses)[0].backward()
        runner.optim_wrapper.zero_grad()
        for buffer, kept in buffers:
            buffer.copy_(kept)
