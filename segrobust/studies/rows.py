"""From a group under a condition to its rows: predicted once more, and counted."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from segrobust.core.rows import ATTACK, CLEAN, SIZE_BOUNDS, Row
from segrobust.datasets.labels import resize_nearest
from segrobust.studies.base import Perturbed
from segrobust.studies.bench import Bench, Group


def rows_of(bench: Bench, group: Group, made: Perturbed) -> Iterator[Row]:
    """One row per image of the group, at the size of the metric."""
    prediction, task, labels = bench.measured(made.images, group), bench.task, group.measured_labels
    if made.void is not None:
        labels = labels.masked_fill(_resized(made.void.long(), group.size).bool(), bench.source.ignore_index)
    more = [{"forwards": 1, "backwards": 0, **extra} for extra in made.extra]
    if group.targets is not None:
        at_target = task.at_goal(prediction, labels, _resized(group.targets, group.size))
        for extra, reached, judged in zip(more, *at_target, strict=True):
            extra |= {"at_target": int(reached), "target_pixels": int(judged)}
    if group.kept is not None:
        at_clean = task.at_goal(prediction, labels, _resized(group.kept, group.size))
        for extra, kept, rest in zip(more, *at_clean, strict=True):
            extra |= {"kept": int(kept), "rest_pixels": int(rest)}
    if made.regions is not None:
        regions = _resized(made.regions, group.size)
        for n, extra in enumerate(more):  # as many as the image has itself, whatever the others of its batch have
            extra["regions"] = _by_region(bench, prediction[n], labels[n], regions[n], int(regions[n].max()) + 1)
    for n, extra in enumerate(more if made.condition.study in (CLEAN, ATTACK) else ()):
        extra["sizes"] = _by_region(bench, prediction[n], labels[n], group.size_classes[n], len(SIZE_BOUNDS) + 1)
    for n, counts in enumerate(task.counts(prediction, labels)):
        yield Row(group.ids[n], made.condition, counts, more[n])


def _by_region(bench: Bench, prediction: Tensor, labels: Tensor, regions: Tensor, count: int) -> list[list[int]]:
    """Per region ``[right, counted]`` pixels of one image."""
    inside = torch.arange(count, device=labels.device).view(-1, 1, 1) == regions
    alone = labels.masked_fill(~inside, bench.source.ignore_index)  # [R, H, W], each with the labels of its region
    wrong, counted = bench.task.at_goal(prediction.expand_as(alone), alone)
    return torch.stack([counted - wrong, counted], 1).tolist()


def _resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return maps if tuple(maps.shape[1:]) == size else torch.stack([resize_nearest(one, size) for one in maps])
