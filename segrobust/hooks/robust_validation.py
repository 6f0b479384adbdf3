"""Validation that also reports accuracy under attack, as ``robust/mIoU`` and ``robust/aAcc``::

    val_cfg = dict(type="RobustValLoop", attack=dict(type="TsallisPGD", eps="4/255", steps=10), num_images=32)
    default_hooks = dict(checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=500, save_best="robust/mIoU"))

Two settings of any config with an mmseg model; the clean metrics stay what they are.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.registry import LOOPS
from mmengine.runner import ValLoop
from mmengine.runner.amp import autocast
from torch.utils.data import DataLoader

from segrobust.analysis.metrics import pooled
from segrobust.attacks import Attack, build_attack
from segrobust.attacks.counting import confusion_counts
from segrobust.datasets.source import MMSegSource, evenly_spaced
from segrobust.hooks.batches import plain_module
from segrobust.hooks.validating import attacked, check_settings, forget, is_due, restart_timers
from segrobust.models.adapters.mmseg import MMSegSegmenter

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
        counts = {"interval": interval, "num_images": 1 if num_images is None else num_images}
        check_settings("RobustValLoop", self.attack, **counts)
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
        restart_timers(self.runner)
        self.runner.call_hook("after_val_epoch", metrics=metrics)
        self.runner.call_hook("after_val")
        return metrics

    def _robust_metrics(self) -> dict[str, float | None]:
        forget(self.runner, [f"robust/{name}" for name in METRICS])
        if not is_due(self.runner, self.interval):
            return {f"robust/{name}": None for name in METRICS}
        begin = time.perf_counter()
        dataset = self.dataloader.dataset
        source = MMSegSource(dataset, evenly_spaced(len(dataset), self.num_images))
        segmenter = MMSegSegmenter.live(plain_module(self.runner.model))
        counts = torch.zeros(3, segmenter.num_classes, dtype=torch.int64)
        with autocast(enabled=self.fp16):
            for _, labels, result in attacked(self.runner, source, self.dataloader, self.attack, segmenter, self.seed):
                with torch.no_grad():
                    predictions = segmenter(result.images).argmax(1)
                found = confusion_counts(predictions, labels, segmenter.num_classes, source.ignore_index)
                counts += torch.stack(found).sum(1)
        all_reduce(counts)
        self.runner.logger.info(
            f"attacked {len(source)} validation images with {self.attack.name} in {time.perf_counter() - begin:.1f} s"
        )
        scores = pooled(*counts.numpy())
        return {f"robust/{name}": round(float(getattr(scores, name)), 2) for name in METRICS}
