"""How far the validation images are from being fooled, as ``min_norm/median`` and ``min_norm/found``::

    custom_hooks = [dict(type="MinNormValidationHook", attack=dict(type="ALMAProx", steps=100), num_images=32)]
    default_hooks = dict(checkpoint=dict(type="CheckpointHook", save_best="min_norm/median", rule="greater"))

Unlike accuracy at one radius, a minimum norm neither saturates nor has to be chosen beforehand: it falls when a model
overfits to the attack that it trains with.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner.amp import autocast
from torch import Tensor

from segrobust.attacks import Attack, build_attack
from segrobust.core.errors import UserError
from segrobust.datasets.source import MMSegSource, evenly_spaced
from segrobust.hooks.batches import plain_module
from segrobust.hooks.validating import attacked, check_settings, forget, is_due, restart_timers
from segrobust.models.adapters.mmseg import MMSegSegmenter

METRICS = ("min_norm/median", "min_norm/found")


@HOOKS.register_module()
class MinNormValidationHook(Hook):
    """Measures minimum norms on the same few images in every validation, of a ValLoop or a RobustValLoop.

    ``min_norm/median`` is the median over the images, in 1/255 for Linf and in image units for the other norms. An
    image on which the attack fails counts as infinitely far, so the median is ``inf`` (``Infinity`` in scalars.json)
    where it fails on half of them or more: for ``save_best`` with ``rule="greater"`` the best there is.
    ``min_norm/found`` is the percentage of images on which it succeeds. With EMAHook the averaged weights are measured.

    Args:
        attack: name or config of an untargeted minimum-norm attack; see ``segrobust.attacks.build_attack``.
        num_images: attack so many images, evenly spaced over the validation data; None: all.
        interval: measure in every ``interval``-th validation and in the last one; in the others both numbers are None,
            which ``save_best`` skips.
        seed: of the attack's random numbers, which follow from (seed, image).

    Raises:
        UserError: a value outside its range, an attack that is targeted or looks for no minimum norm, data without
            labels, or a model under FSDP.
    """

    priority = "HIGHEST"  # the first after validation: before the metrics are logged and the averaged weights go

    def __init__(
        self,
        attack: str | Mapping[str, Any] | Attack,
        num_images: int | None = 32,
        interval: int = 1,
        seed: int = 0,
    ) -> None:
        self.attack = build_attack(attack)
        if not self.attack.minimum_norm:
            raise UserError(f"MinNormValidationHook: expected a minimum-norm attack such as ALMAProx, got "
                            f"{self.attack.name}; for attacks at a radius take RobustValLoop")  # fmt: skip
        counts = {"interval": interval, "num_images": 1 if num_images is None else num_images}
        check_settings("MinNormValidationHook", self.attack, **counts)
        self.num_images = num_images
        self.interval = interval
        self.seed = seed

    def after_val_epoch(self, runner: Any, metrics: dict[str, Any] | None = None) -> None:
        """Add the two numbers to the validation's own ``metrics``, which mmengine logs afterwards."""
        forget(runner, METRICS)
        if not is_due(runner, self.interval):
            metrics.update(dict.fromkeys(METRICS))
            return
        begin = time.perf_counter()
        try:
            norms = self.norms(runner)
        except TypeError as problem:  # mmengine would raise it anew without its traceback
            raise RuntimeError(f"{type(self).__name__}: {problem}") from problem
        unit = 255 if self.attack.norm == "Linf" else 1
        found = norms.isfinite().double().mean()
        metrics.update(zip(METRICS, (float(np.median(norms)) * unit, 100 * float(found)), strict=True))
        runner.logger.info(
            f"minimum norms of {len(norms)} validation images with {self.attack.name} "
            f"in {time.perf_counter() - begin:.1f} s"
        )
        restart_timers(runner)

    def norms(self, runner: Any) -> Tensor:
        """The images' minimum norms in image units, float64 ``[M]`` on every process; inf where none was found."""
        loop = runner.val_loop
        dataset = loop.dataloader.dataset
        source = MMSegSource(dataset, evenly_spaced(len(dataset), self.num_images))
        segmenter = MMSegSegmenter.live(plain_module(runner.model))
        distance = torch.zeros(len(source), dtype=torch.float64)
        with autocast(enabled=loop.fp16):
            for places, _, result in attacked(runner, source, loop.dataloader, self.attack, segmenter, self.seed):
                lost = result.distance.double().masked_fill(~result.found, math.inf)
                distance[places] = lost.cpu()
        all_reduce(distance)  # every image is zero on all processes but one
        return distance
