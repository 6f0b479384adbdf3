"""Validation that also reports accuracy under attack, as ``robust/mIoU`` and ``robust/aAcc``::

    val_cfg = dict(type="RobustValLoop", attack=dict(type="TsallisPGD", eps="4/255", steps=10), num_images=32)
    default_hooks = dict(checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=500, save_best="robust/mIoU"))

Two settings of any config with an mmseg model; the clean metrics stay what they are.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import IterTimerHook
from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop, ValLoop
from mmengine.runner.amp import autocast
from torch import Tensor
from torch.utils.data import DataLoader

from segrobust.attacks import Attack, build_attack
from segrobust.datasets.source import MMSegSource, Sample, evenly_spaced
from segrobust.errors import UserError
from segrobust.evaluation.metrics import confusion_counts, pooled
from segrobust.hooks.batches import equal_sizes, plain_module
from segrobust.hooks.seeds import seed_of
from segrobust.models.mmseg import MMSegSegmenter

METRICS = ("mIoU", "aAcc")


@LOOPS.register_module()
class RobustValLoop(ValLoop):
    """mmengine's validation, then the same under attack on some of the images.

    Attacked are the images as they enter the network, after the pipeline's resizing; labels of another size follow by
    nearest neighbour. Numbers are percent over the pixels of all attacked images, void excluded. An image's random
    numbers depend on (seed, image), so validations of one training are comparable.

    Args:
        attack: name or config of an untargeted attack; see ``segrobust.attacks.build_attack``.
        interval: the robust part runs in every ``interval``-th validation and in the last one; in the others
            ``robust/mIoU`` and ``robust/aAcc`` are None, which ``save_best`` skips.
        num_images: attack so many images, evenly spaced over the data set; None: all.
        seed: of the attack's random numbers.
        fp16: validate, and attack, under autocast.

    Raises:
        UserError: a value outside its range, a targeted attack, data without labels, or a model under FSDP.
    """

    def __init__(
        self,
        runner: Any,
        dataloader: DataLoader | dict,
        evaluator: Any,
        attack: str | Mapping[str, Any] | Attack,
        interval: int = 1,
        num_images: int | None = None,
        seed: int = 0,
        fp16: bool = False,
    ) -> None:
        super().__init__(runner, dataloader, evaluator, fp16)
        self.attack = build_attack(attack)
        if self.attack.targeted:
            raise UserError(f"RobustValLoop: {self.attack.name} must be untargeted; set targeted=False")
        for name, value in (("interval", interval), ("num_images", 1 if num_images is None else num_images)):
            if not isinstance(value, int) or value < 1:
                raise UserError(f"RobustValLoop: expected {name} to be an integer >= 1, got {value!r}")
        self.interval = interval
        self.num_images = num_images
        self.seed = seed

    def run(self) -> dict[str, float | None]:
        """Validate; the metrics of both parts."""
        self.runner.call_hook("before_val")
        self.runner.call_hook("before_val_epoch")
        self.runner.model.eval()
        for index, batch in enumerate(self.dataloader):
            self.run_iter(index, batch)
        metrics = self.evaluator.evaluate(len(self.dataloader.dataset))
        metrics.update(self._robust_metrics())
        for hook in self.runner.hooks:
            if isinstance(hook, IterTimerHook):  # or the next iteration's data_time would contain the attack
                hook.before_val_epoch(self.runner)
        self.runner.call_hook("after_val_epoch", metrics=metrics)
        self.runner.call_hook("after_val")
        return metrics

    def is_due(self) -> bool:
        """Whether this validation has a robust part; a function of the training's progress, so resume-proof."""
        loop = self.runner.train_loop
        if loop is None:
            return True
        by_epoch = isinstance(loop, EpochBasedTrainLoop)
        done, last = (loop.epoch, loop.max_epochs) if by_epoch else (loop.iter, loop.max_iters)
        return done >= last or (done // loop.val_interval) % self.interval == 0

    def _robust_metrics(self) -> dict[str, float | None]:
        for name in METRICS:  # mmengine keeps the last number and the last None, and would log both
            self.runner.message_hub.log_scalars.pop(f"val/robust/{name}", None)
            self.runner.message_hub.pop_info(f"val/robust/{name}")
        if not self.is_due():
            return {f"robust/{name}": None for name in METRICS}
        begin = time.perf_counter()
        dataset = self.dataloader.dataset
        source = MMSegSource(dataset, evenly_spaced(len(dataset), self.num_images))
        segmenter = MMSegSegmenter.live(plain_module(self.runner.model))
        counts = torch.zeros(3, segmenter.num_classes, dtype=torch.int64)
        with autocast(enabled=self.fp16):
            for places, samples in self._batches(source):
                counts += self._attacked_counts(segmenter, source, places, samples)
        all_reduce(counts)
        self.runner.logger.info(
            f"attacked {len(source)} validation images with {self.attack.name} in {time.perf_counter() - begin:.1f} s"
        )
        scores = pooled(*counts.numpy())
        return {f"robust/{name}": round(float(getattr(scores, name)), 2) for name in METRICS}

    def _batches(self, source: MMSegSource) -> Iterator[tuple[list[int], list[Sample]]]:
        """This process's batches and their places in the source; every batch is the same on any number of processes."""
        size = self.dataloader.batch_size or 1
        batches = [list(range(first, min(first + size, len(source)))) for first in range(0, len(source), size)]
        mine = batches[self.runner.rank :: self.runner.world_size]
        workers = self.dataloader.num_workers
        loader = DataLoader(
            source, batch_sampler=mine, collate_fn=list, num_workers=workers, generator=torch.Generator()
        )
        yield from zip(mine, loader, strict=True)

    def _attacked_counts(
        self, segmenter: MMSegSegmenter, source: MMSegSource, places: list[int], samples: list[Sample]
    ) -> Tensor:
        """True positives, false positives and false negatives per class of one batch, ``[3, K]``."""
        device = next(segmenter.parameters()).device
        counts = torch.zeros(3, segmenter.num_classes, dtype=torch.int64)
        for group in equal_sizes([sample.image for sample in samples], range(len(samples))):
            images = torch.stack([samples[index].image for index in group]).to(device)
            labels = torch.stack([samples[index].label for index in group]).to(device)
            seeds = [seed_of(self.seed, "attack", source.indices[places[index]]) for index in group]
            result = self.attack(segmenter, images, labels, ignore_index=source.ignore_index, seeds=seeds)
            with torch.no_grad():
                predictions = segmenter(result.images).argmax(1)
            found = confusion_counts(predictions, labels, segmenter.num_classes, source.ignore_index)
            counts += torch.stack(found).sum(1)
        return counts
