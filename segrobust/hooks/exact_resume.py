"""Training that a resume continues bitwise, with any number of workers: nothing random depends on what ran before.

The order of the images and the augmentation of each one follow from (seed, visit, image), everything else that is
random in an iteration from (seed, iteration, rank). A config enables it with four settings::

    randomness = dict(seed=0)
    train_dataloader = dict(
        sampler=dict(type="SeededInfiniteSampler"), dataset=dict(type="SeededDataset", dataset=...), ...
    )
    train_cfg = dict(type="IterBasedTrainLoop", max_iters=5000)
    custom_hooks = [dict(type="ReseedHook")]

``segrobust train`` puts in what a config lacks, around mmengine's own samplers, and on a GPU has torch repeat itself
(:mod:`segrobust.models.deterministic`).
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.hooks import CheckpointHook, Hook
from mmengine.registry import DATA_SAMPLERS, DATASETS, HOOKS, LOOPS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop

from segrobust.core.errors import UserError
from segrobust.core.seeds import seed_of
from segrobust.datasets.pipeline import registered_type, type_name
from segrobust.datasets.seeded import Draw, SeededDataset, SeededInfiniteSampler, SeededSampler
from segrobust.hooks.distributed import EqualBuffersHook, RebuiltBucketsHook
from segrobust.models.deterministic import alerted

if TYPE_CHECKING:
    from mmengine import Config
    from mmengine.runner import Runner

SEEDED = (SeededInfiniteSampler, SeededSampler)
LOOKED_AT = 3  # images that are read twice
_NOT_KNOWN = "{} {} is not known to repeat itself"


@HOOKS.register_module()
class ReseedHook(Hook):
    """Gives every training iteration its own random numbers (dropout, ...), from (seed, iteration, rank).

    Raises:
        UserError: before training, where the config lacks what exact resume needs besides this hook.
    """

    priority = "VERY_HIGH"

    def before_train(self, runner: Any) -> None:
        sampler = runner.train_dataloader.sampler
        if not isinstance(sampler, SEEDED):
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


def make_exact(config: Config) -> list[str]:
    """Put the seeded sampler and data set into a training config; the reasons why a resume will not be exact.

    The order of the images stays that of the config's own sampler. :func:`complete` does the rest on the runner.
    """
    reasons = _state_that_is_not_saved(config)
    loader, loop = config.train_dataloader, config.train_cfg
    by_type = registered_type(loop, LOOPS) if "type" in loop else None
    if "type" in loop and by_type not in (EpochBasedTrainLoop, IterBasedTrainLoop):
        reasons.append(_NOT_KNOWN.format("the loop", type_name(loop)))
    if loop.get("fast_forward_on_resume"):  # leaves the images out of their order, to save time that ours does not need
        loop.fast_forward_on_resume = False
    if not isinstance(loader, Mapping) or not isinstance(loader.get("sampler"), Mapping):
        return [*reasons, "train_dataloader is not described by its settings"]
    if loader.get("batch_sampler"):
        return [*reasons, _NOT_KNOWN.format("the batch sampler", type_name(loader.batch_sampler))]
    kind = registered_type(loader.sampler, DATA_SAMPLERS)
    if kind in (DefaultSampler, InfiniteSampler):
        drop_last = loader.get("drop_last", False)
        loader.sampler = dict(
            type="SeededSampler", sampler=loader.sampler, batch_size=loader.get("batch_size", 1), drop_last=drop_last
        )
    elif kind not in SEEDED:
        return [*reasons, _NOT_KNOWN.format("the sampler", type_name(loader.sampler))]
    if not isinstance(loader.dataset, Mapping) or registered_type(loader.dataset, DATASETS) is not SeededDataset:
        loader.dataset = dict(type="SeededDataset", dataset=loader.dataset)
    return reasons


def _state_that_is_not_saved(config: Config) -> list[str]:
    schedulers = config.get("param_scheduler") or []
    schedulers = schedulers if isinstance(schedulers, list | tuple) else [schedulers]
    hooks = [*(config.get("custom_hooks") or []), *(config.get("default_hooks") or {}).values()]
    named = [type_name(part) for part in [*schedulers, *hooks] if part]
    waiting = sorted(name for name in {*named} if name.startswith("ReduceOnPlateau") or name == "EarlyStoppingHook")
    return [f"what {name} remembers of past validations is not in the checkpoints" for name in waiting]


def complete(runner: Runner, reasons: list[str]) -> None:
    """Add the hooks that an exact resume needs to a runner that lacks them, and the one that tells the reasons."""
    loader = runner.cfg.train_dataloader
    sampler = loader.get("sampler") if isinstance(loader, Mapping) else None
    seeded = registered_type(sampler, DATA_SAMPLERS) in SEEDED
    for kind in [ReseedHook] * seeded + [EqualBuffersHook, RebuiltBucketsHook] * runner.distributed:
        if not any(isinstance(hook, kind) for hook in runner.hooks):
            runner.register_hook(kind())
    runner.register_hook(ExactResumeHook(reasons))


@HOOKS.register_module()
class ExactResumeHook(Hook):
    """Keeps what mmengine's checkpoints lack, and says before training why a resume will not be bitwise, where so.

    Gradients that were accumulated and not yet used are saved (on one process); a resume with another number of
    processes or images per batch is told, and so are operations without a deterministic form on a GPU.

    Args:
        reasons: known from the config alone.
    """

    def __init__(self, reasons: list[str]) -> None:
        self.reasons = reasons
        self.gradients: dict[str, torch.Tensor] = {}
        self.named: set[str] = set()

    def before_train(self, runner: Any) -> None:
        parameters = _parameters(runner)
        for name, gradient in self.gradients.items():
            parameters[name].grad = gradient.to(parameters[name].device)
        self.gradients = {}
        if reasons := [*self.reasons, *_seen(runner)]:
            runner.logger.warning("a resumed training will not be bitwise the same: %s", "; ".join(reasons))

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Name the operations that torch has no deterministic form for, each once: they show when they run."""
        if new := alerted() - self.named:
            self.named |= new
            runner.logger.warning("torch has no deterministic form of %s on this GPU: where one of them does not "
                                  "repeat itself, a resumed training will not be bitwise the same",
                                  ", ".join(sorted(new)))  # fmt: skip

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["meta"].update(_shape(runner))
        if runner.world_size == 1 and "optimizer" in checkpoint:
            gradients = {name: p.grad.cpu() for name, p in _parameters(runner).items() if p.grad is not None}
            checkpoint.update({"gradients": gradients} if gradients else {})

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        if not runner._resume:
            return
        self.gradients = checkpoint.pop("gradients", {})
        for name, now in _shape(runner).items():
            before = checkpoint["meta"].get(name, now)
            if before != now:
                runner.logger.warning("the checkpoint was written with %s=%s, this training has %s: it goes on, but "
                                      "not as the first would have", name, before, now)  # fmt: skip


def _parameters(runner: Any) -> dict[str, torch.nn.Parameter]:
    return {name.removeprefix("module."): parameter for name, parameter in runner.model.named_parameters()}


def _shape(runner: Any) -> dict[str, int]:
    return {"world_size": runner.world_size, "batch_size": runner.train_dataloader.batch_size}


def _seen(runner: Any) -> list[str]:
    """The reasons that show only in a runner."""
    reasons = []
    dataset = runner.train_dataloader.dataset
    if isinstance(dataset, SeededDataset) and runner.rank == 0 and not _repeats(dataset):
        reasons.append("the pipeline has random numbers of its own: an image read twice with one seed differs")
    counts = getattr(runner.optim_wrapper, "_accumulative_counts", 1)
    if runner.world_size > 1 and any(_steps(hook, runner) % counts for hook in runner.hooks):
        reasons.append(f"checkpoints fall between the {counts} iterations whose gradients are summed; choose their "
                       f"interval a multiple of {counts}")  # fmt: skip
    if next(runner.model.parameters()).is_cuda and not torch.are_deterministic_algorithms_enabled():
        reasons.append("operations on a GPU may not repeat themselves; leave out --no-deterministic, and "
                       "deterministic=False in the config's randomness")  # fmt: skip
    return reasons


def _repeats(dataset: SeededDataset) -> bool:
    for index in range(min(LOOKED_AT, len(dataset))):
        first, second = (dataset[Draw(index, seed=index)] for _ in range(2))
        readable = isinstance(first, Mapping) and isinstance(first.get("inputs"), torch.Tensor)
        if readable and not torch.equal(first["inputs"], second["inputs"]):
            return False
    return True


def _steps(hook: Hook, runner: Any) -> int:
    """Iterations between two checkpoints of a hook; 0 where it writes none."""
    if not isinstance(hook, CheckpointHook) or hook.interval < 1:
        return 0
    return hook.interval * (len(runner.train_dataloader) if hook.by_epoch else 1)
