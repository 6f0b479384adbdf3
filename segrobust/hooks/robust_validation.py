"""Validation that also reports what an attack leaves of it, at a radius or as the distance to the nearest failure::

    custom_hooks = [
        dict(type="RobustValidationHook", attack=dict(type="TsallisPGD", eps="4/255", steps=10), num_images=32),
        dict(type="RobustValidationHook", attack=dict(type="ALMAProx", steps=100), num_images=16),
    ]
    default_hooks = dict(checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=500, save_best="robust/mIoU"))

A setting of any config with an mmseg model or a segmenter of segrobust; loop and clean metrics stay what they are.
Unlike accuracy at one radius, a minimum norm neither saturates nor has to be chosen beforehand: it falls when a model
overfits to the attack that it trains with (``save_best="min_norm/median", rule="greater"``).
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_reduce
from mmengine.hooks import EarlyStoppingHook, Hook, IterTimerHook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop
from mmengine.runner.amp import autocast
from torch import Tensor, nn

from segrobust.analysis.metrics import pooled
from segrobust.attacks import Attack, build_attack
from segrobust.attacks.segmentation import confusion_counts
from segrobust.core.errors import UserError
from segrobust.core.groups import of_equal_size
from segrobust.core.seeds import seed_of
from segrobust.datasets.source import MMSegSource, evenly_spaced
from segrobust.hooks.validation_pictures import Attacked, with_pictures
from segrobust.models.precision import float32_unless_autocast
from segrobust.models.replayed import Replayed
from segrobust.models.segmenter import Segmenter
from segrobust.models.trainable import live_segmenter

FREE_SECONDS = 60.0  # of all validations under attack together, which no bound counts


@HOOKS.register_module()
class RobustValidationHook(Hook):
    """Attacks the same few images after every validation and adds to its metrics.

    Attacked are the images as they enter the network, after the pipeline's resizing; labels of another size follow by
    nearest neighbour. An image's random numbers depend on (seed, image), so validations of one training are comparable.
    With EMAHook the averaged weights are judged. Attack and measurement are in true float32, without TF32, or in the
    validation loop's own autocast (``fp16=True``).

    A bounded attack gives ``robust/mIoU`` and ``robust/aAcc``, percent over the pixels of all attacked images, void
    excluded. A minimum-norm attack gives ``min_norm/median``, the median over the images, in 1/255 for Linf and in
    image units for the other norms, and ``min_norm/found``, the percentage of images on which it succeeds. Where it
    fails, an image counts as infinitely far: the median is ``inf`` (``Infinity`` in scalars.json) where that is half of
    them or more, for ``save_best`` with ``rule="greater"`` the best there is.

    Args:
        attack: name or config of an untargeted attack; see ``segrobust.attacks.build_attack``.
        num_images: attack so many images, evenly spaced over the validation data; None: all.
        interval: attack in every ``interval``-th validation and in the last one; in the others both numbers are None,
            which ``save_best`` skips.
        seed: of the attack's random numbers.
        max_share: of the training's time so far, above which a due validation under attack is skipped (not the last
            one, not within the first minute that they take, and not where an ``EarlyStoppingHook`` or a scheduler
            watches a number of theirs, which has to have every one); None: no bound.
        pictures: keep so many of the first images, clean and attacked with their predictions, under
            ``WORK_DIR/pictures``, for ``segrobust report``; for a bounded attack.
        cuda_graphs: on a GPU, replay the attack's passes as CUDA graphs, which changes nothing but the time.

    Raises:
        UserError: a value outside its range, a targeted attack, data without labels, a model under FSDP, or before the
            run another of these hooks that would write the same two numbers, or early stopping or a scheduler on
            one of them that would not have it from every validation.
    """

    priority = "HIGHEST"  # the first after validation: before the metrics are logged and the averaged weights go

    def __init__(
        self,
        attack: str | Mapping[str, Any] | Attack,
        num_images: int | None = 32,
        interval: int = 1,
        seed: int = 0,
        cuda_graphs: bool = True,
        max_share: float | None = 0.2,
        pictures: int = 3,
    ) -> None:
        self.attack = build_attack(attack)
        if self.attack.targeted:
            raise UserError(f"RobustValidationHook: {self.attack.name} must be untargeted; set targeted=False")
        for name, value in {"num_images": 1 if num_images is None else num_images, "interval": interval}.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UserError(f"RobustValidationHook: expected {name} to be an integer >= 1, got {value!r}")
        if max_share is not None and not 0 < max_share <= 1:
            raise UserError(f"RobustValidationHook: expected max_share to be in (0, 1] or None, got {max_share!r}")
        if isinstance(pictures, bool) or not isinstance(pictures, int) or pictures < 0:
            raise UserError(f"RobustValidationHook: expected pictures to be an integer >= 0, got {pictures!r}")
        self.max_share = self.bound = max_share
        self.pictures = pictures
        self.began: float | None = None  # the training, by the clock
        self.spent = 0.0  # seconds in this hook since then
        self.num_images = num_images
        self.interval = interval
        self.seed = seed
        self.cuda_graphs = cuda_graphs
        minimum_norm = ("min_norm/median", "min_norm/found")
        self.names = minimum_norm if self.attack.minimum_norm else ("robust/mIoU", "robust/aAcc")

    def before_run(self, runner: Any) -> None:
        same = [hook for hook in runner.hooks if isinstance(hook, RobustValidationHook) and hook.names == self.names]
        if len(same) > 1:
            raise UserError(f"RobustValidationHook: {' and '.join(hook.attack.name for hook in same)} would both write "
                            f"{self.names[0]}; keep one bounded and one minimum-norm attack")  # fmt: skip

    def before_train(self, runner: Any) -> None:
        self.began, self.spent = time.perf_counter(), 0.0
        watched = _watched(runner) & {*self.names}
        if watched and self.interval > 1:
            raise UserError(f"RobustValidationHook: {min(watched)} is watched after every validation, by early "
                            f"stopping or a scheduler; expected interval=1, got {self.interval}")  # fmt: skip
        self.bound = None if watched else self.max_share

    def after_val_epoch(self, runner: Any, metrics: dict[str, Any] | None = None) -> None:
        """Add the two numbers to the validation's own ``metrics``, which mmengine logs afterwards."""
        _forget(runner, self.names)
        if not _is_due(runner, self.interval) or self._takes_too_long(runner):
            metrics.update(dict.fromkeys(self.names))
            return
        begin = time.perf_counter()
        try:
            metrics.update(zip(self.names, self.measure(runner), strict=True))
        except TypeError as problem:  # mmengine would raise it anew without its traceback
            raise RuntimeError(f"{type(self).__name__}: {problem}") from problem
        took = time.perf_counter() - begin
        self.spent += took
        runner.logger.info(f"validation under {self.attack.name} took {took:.1f} s")
        _restart_timers(runner)

    def _takes_too_long(self, runner: Any) -> bool:
        """Whether a validation is to be skipped for the time of those before it; all processes agree."""
        if self.bound is None or self.began is None or _is_last(runner):
            return False
        share = self.spent / max(time.perf_counter() - self.began, 1e-9)
        over = torch.tensor(float(self.spent > FREE_SECONDS and share > self.bound))
        all_reduce(over, "max")
        if over:
            runner.logger.info(
                f"robust validation skipped after {runner.iter} iterations: those under {self.attack.name} took "
                f"{share:.0%} of the time so far, max_share={self.bound:g}"
            )
        return bool(over)

    def measure(self, runner: Any) -> tuple[float, float]:
        """The two numbers, the same on every process."""
        loop = runner.val_loop
        dataset = loop.dataloader.dataset
        source = MMSegSource(dataset, evenly_spaced(len(dataset), self.num_images))
        segmenter = live_segmenter(runner.model)
        device = next(segmenter.parameters()).device
        replayed = Replayed(segmenter)
        model = replayed if self.cuda_graphs else segmenter
        with contextlib.ExitStack() as stack, autocast(enabled=loop.fp16), float32_unless_autocast(device):
            stack.callback(replayed.release)  # training needs the memory
            size = loop.dataloader.batch_size or 1
            results = _attacked(runner, source, size, self.attack, model, self.seed)
            if not self.attack.minimum_norm:
                if self.pictures and runner.train_loop is not None:
                    results = with_pictures(results, runner, source, segmenter, self.pictures)
                return scores(results, segmenter, source.ignore_index)
            norms = minimum_norms(results, len(source))
        unit = 255 if self.attack.norm == "Linf" else 1
        return float(np.median(norms)) * unit, 100 * float(norms.isfinite().double().mean())


def scores(results: Attacked, segmenter: Segmenter, ignore_index: int) -> tuple[float, float]:
    """mIoU and aAcc of the attacked images of all processes, in percent with two decimals."""
    counts = torch.zeros(3, segmenter.num_classes, dtype=torch.int64)
    for _, labels, result in results:
        with torch.no_grad():
            predictions = segmenter(result.images).argmax(1)
        found = confusion_counts(predictions, labels, segmenter.num_classes, ignore_index)
        counts += torch.stack(found).sum(1)
    all_reduce(counts)
    found = pooled(*counts.numpy())
    return round(float(found.mIoU), 2), round(float(found.aAcc), 2)


def minimum_norms(results: Attacked, count: int) -> Tensor:
    """The images' minimum norms in image units, float64 ``[M]`` on every process; inf where none was found."""
    distance = torch.zeros(count, dtype=torch.float64)
    for places, _, result in results:
        distance[places] = result.distance.double().masked_fill(~result.found, math.inf).cpu()
    all_reduce(distance)  # every image is zero on all processes but one
    return distance


def _attacked(runner: Any, source: MMSegSource, size: int, attack: Attack, segmenter: nn.Module, seed: int) -> Attacked:
    """Attack this process's share of the source in batches of ``size``.

    Every batch is the same on any number of processes, and an image's random numbers follow from (seed, image).

    Returns:
        Per group of equal image size: places in the source, labels ``[N, H, W]`` and the attack's result.
    """
    device = next(segmenter.parameters()).device
    for first in range(runner.rank * size, len(source), runner.world_size * size):
        samples = {place: source[place] for place in range(first, min(first + size, len(source)))}
        for group in of_equal_size({place: sample.image.shape for place, sample in samples.items()}):
            images = torch.stack([samples[place].image for place in group]).to(device)
            labels = torch.stack([samples[place].label for place in group]).to(device)
            seeds = [seed_of(seed, "attack", source.indices[place]) for place in group]
            yield group, labels, attack(segmenter, images, labels, ignore_index=source.ignore_index, seeds=seeds)


def _watched(runner: Any) -> set[str]:
    """Metrics that have to be there after every validation: of early stopping, and of ReduceOnPlateau schedulers."""
    schedulers = runner.param_schedulers or []
    of_all = [one for many in schedulers.values() for one in many] if isinstance(schedulers, dict) else schedulers
    watching = [one for one in runner.hooks if isinstance(one, EarlyStoppingHook)]
    watching += [one for one in of_all if getattr(one, "need_val_args", False)]
    return {one.monitor for one in watching}


def _is_due(runner: Any, interval: int) -> bool:
    """Whether this validation is an ``interval``-th one or the last; a function of the training's progress alone."""
    loop = runner.train_loop
    return loop is None or _is_last(runner) or (_progress(loop)[0] // loop.val_interval) % interval == 0


def _is_last(runner: Any) -> bool:
    done, end = _progress(runner.train_loop)
    return done >= end


def _progress(loop: Any) -> tuple[int, int]:
    """Epochs or iterations, those done and all."""
    by_epoch = isinstance(loop, EpochBasedTrainLoop)
    return (loop.epoch, loop.max_epochs) if by_epoch else (loop.iter, loop.max_iters)


def _forget(runner: Any, names: Iterable[str]) -> None:
    """mmengine keeps the last number and the last None of a metric, and would log both."""
    for name in names:
        runner.message_hub.log_scalars.pop(f"val/{name}", None)
        runner.message_hub.pop_info(f"val/{name}")


def _restart_timers(runner: Any) -> None:
    """Or the next iteration's data_time would contain the attack."""
    for hook in runner.hooks:
        if isinstance(hook, IterTimerHook):
            hook.before_val_epoch(runner)
