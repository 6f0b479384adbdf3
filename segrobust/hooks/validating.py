"""What validations under attack share: when they run, on which images, and how their numbers enter the log."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from mmengine.hooks import IterTimerHook
from mmengine.runner import EpochBasedTrainLoop
from torch import Tensor
from torch.utils.data import DataLoader

from segrobust.attacks import Attack, AttackResult
from segrobust.core.errors import UserError
from segrobust.core.seeds import seed_of
from segrobust.datasets.source import MMSegSource, Sample
from segrobust.hooks.batches import equal_sizes
from segrobust.models.adapters.mmseg import MMSegSegmenter


def check_settings(owner: str, attack: Attack, **counts: int) -> None:
    """Refuse, in the name of ``owner``, a targeted attack and counts that are no integers of at least 1."""
    if attack.targeted:
        raise UserError(f"{owner}: {attack.name} must be untargeted; set targeted=False")
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UserError(f"{owner}: expected {name} to be an integer >= 1, got {value!r}")


def is_due(runner: Any, interval: int) -> bool:
    """Whether this validation is an ``interval``-th one or the last; a function of the training's progress alone."""
    loop = runner.train_loop
    if loop is None:
        return True
    by_epoch = isinstance(loop, EpochBasedTrainLoop)
    done, last = (loop.epoch, loop.max_epochs) if by_epoch else (loop.iter, loop.max_iters)
    return done >= last or (done // loop.val_interval) % interval == 0


def forget(runner: Any, names: Iterable[str]) -> None:
    """mmengine keeps the last number and the last None of a metric, and would log both."""
    for name in names:
        runner.message_hub.log_scalars.pop(f"val/{name}", None)
        runner.message_hub.pop_info(f"val/{name}")


def restart_timers(runner: Any) -> None:
    """Or the next iteration's data_time would contain the attack."""
    for hook in runner.hooks:
        if isinstance(hook, IterTimerHook):
            hook.before_val_epoch(runner)


def attacked(
    runner: Any, source: MMSegSource, loader: DataLoader, attack: Attack, segmenter: MMSegSegmenter, seed: int
) -> Iterator[tuple[list[int], Tensor, AttackResult]]:
    """Attack this process's share of the source in the batches and with the workers of ``loader``.

    Every batch is the same on any number of processes, and an image's random numbers follow from (seed, image).

    Returns:
        Per group of equal image size: places in the source, labels ``[N, H, W]`` and the attack's result.
    """
    device = next(segmenter.parameters()).device
    for places, samples in _batches(runner, source, loader):
        for group in equal_sizes([sample.image for sample in samples], range(len(samples))):
            images = torch.stack([samples[index].image for index in group]).to(device)
            labels = torch.stack([samples[index].label for index in group]).to(device)
            seeds = [seed_of(seed, "attack", source.indices[places[index]]) for index in group]
            result = attack(segmenter, images, labels, ignore_index=source.ignore_index, seeds=seeds)
            yield [places[index] for index in group], labels, result


def _batches(runner: Any, source: MMSegSource, like: DataLoader) -> Iterator[tuple[list[int], list[Sample]]]:
    """This process's batches and their places in the source."""
    size = like.batch_size or 1
    batches = [list(range(first, min(first + size, len(source)))) for first in range(0, len(source), size)]
    mine = batches[runner.rank :: runner.world_size]
    loader = DataLoader(
        source, batch_sampler=mine, collate_fn=list, num_workers=like.num_workers, generator=torch.Generator()
    )
    yield from zip(mine, loader, strict=True)
