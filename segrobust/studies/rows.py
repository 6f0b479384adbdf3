"""From a group under a condition to its rows: predicted once more, and counted."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from segrobust.analysis.metrics import confusion_counts, sparse_counts
from segrobust.core.rows import Row
from segrobust.datasets.resizing import resize_nearest
from segrobust.studies.base import Perturbed
from segrobust.studies.bench import Bench, Group


def rows_of(bench: Bench, group: Group, made: Perturbed) -> Iterator[Row]:
    """One row per image of the group, at the size of the metric."""
    prediction, void = bench.measured(made.images, group), bench.source.ignore_index
    labels = group.labels if group.originals is None else group.originals
    if made.void is not None:
        labels = labels.masked_fill(_resized(made.void.long(), group.size).bool(), void)
    counts = confusion_counts(prediction, labels, bench.source.num_classes, void)
    more = [dict(extra) for extra in made.extra]
    if group.targets is not None:
        targets = _resized(group.targets, group.size)
        for extra, reached, judged in zip(more, *at_target(prediction, labels, targets, void), strict=True):
            extra |= {"at_target": int(reached), "target_pixels": int(judged)}
    if made.regions is not None:
        for extra, regions in zip(more, _by_region(prediction, labels, made, group, void), strict=True):
            extra["regions"] = regions
    for n, image in enumerate(group.ids):
        yield Row(image, made.condition, sparse_counts(*(count[n] for count in counts)), more[n])


def at_target(prediction: Tensor, labels: Tensor, targets: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Pixels predicted as their target, and pixels with both a label and a target; ``[N]`` each, on the CPU."""
    valid = (labels != ignore_index) & (targets != ignore_index)
    hit = valid & (prediction == targets)
    return torch.stack([hit.flatten(1).sum(1), valid.flatten(1).sum(1)]).cpu().unbind()


def _by_region(prediction: Tensor, labels: Tensor, made: Perturbed, group: Group, void: int) -> list[list[list[int]]]:
    """Per image and region ``[right, counted]`` pixels."""
    regions, count = _resized(made.regions, group.size), int(made.regions.max()) + 1
    inside = [(regions == region) & (labels != void) for region in range(count)]
    right = torch.stack([(part & (prediction == labels)).flatten(1).sum(1) for part in inside], 1)
    counted = torch.stack([part.flatten(1).sum(1) for part in inside], 1)
    return torch.stack([right, counted], 2).tolist()


def _resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return maps if tuple(maps.shape[1:]) == size else torch.stack([resize_nearest(one, size) for one in maps])
