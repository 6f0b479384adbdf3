"""From a batch under attack to its rows: what the attack returned, predicted once more and counted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from segrobust.attacks.base import AttackResult
from segrobust.attacks.segmentation import Segmentation
from segrobust.core.rows import Row
from segrobust.core.units import FOUND_SHARE
from segrobust.datasets.resizing import resize_nearest
from segrobust.datasets.source import Sample, Source
from segrobust.studies.jobs import Job


@dataclass(frozen=True)
class Group:
    """Images of one size: ids and samples ``[N]``, images ``[N, 3, H, W]``, labels and targets ``[N, H, W]``.

    originals: the labels as their files have them, ``[N, h, w]``, where these are what is measured against.
    """

    ids: Sequence[int]
    samples: Sequence[Sample]
    images: Tensor
    labels: Tensor
    targets: Tensor | None = None
    originals: Tensor | None = None

    def measured(self) -> Group:
        """The same with labels and targets at the size of the metric."""
        if self.originals is None:
            return self
        size = self.originals.shape[1:]
        targets = self.targets if self.targets is None else torch.stack([resize_nearest(t, size) for t in self.targets])
        return replace(self, labels=self.originals, targets=targets, originals=None)


@dataclass(frozen=True)
class Outcome:
    """What a job made of a group at one radius.

    eps: the radius; None for clean images and for the result of a minimum-norm attack.
    points: ``[N, 3, H, W]``.
    fields: per image, what its row takes from the attack: passes and, of a minimum-norm result, ``found`` and more.
    candidate: name of what is not the attack's answer but another attacked image of the same call.
    """

    eps: float | None
    points: Tensor
    fields: list[dict[str, Any]]
    candidate: str = ""


def clean_outcome(group: Group) -> Outcome:
    """The images as they are."""
    return Outcome(None, group.images, [{"forwards": 1, "backwards": 0, "found": False} for _ in group.ids])


def outcomes_of(job: Job, result: AttackResult) -> list[Outcome]:
    """What a job's rows are made from, in the order of ``job.radii``."""
    passes = _per_image(forwards=result.forwards, backwards=result.backwards)
    if not job.minimum_norm:
        more = (Outcome(one.eps, one.images, passes, one.name) for one in result.candidates)
        return [Outcome(job.radii[0], result.images, passes), *more]
    measured = {"error_of_correct": result.error_of_correct, "distance_8bit": result.distance_8bit}
    own = _per_image(found=result.found, **{name: one for name, one in measured.items() if one is not None})
    smallest = Outcome(None, result.images, [a | b for a, b in zip(passes, own, strict=True)])
    within = {one.eps: one.images for one in result.candidates if not one.name}
    return [smallest, *(Outcome(eps, within[eps], passes) for eps in job.budgets)]


def _per_image(**fields: Tensor) -> list[dict[str, Any]]:
    columns = {name: values.tolist() for name, values in fields.items()}
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def rows_of(job: Job, group: Group, outcome: Outcome, prediction: Tensor, source: Source) -> Iterator[Row]:
    """One row per image of the group.

    ``found``: of a minimum-norm result, the attack's own verified answer; elsewhere counted here, whether at least
    99 % of the pixels are wrong or, targeted, at their target.

    Args:
        prediction: class ids on the outcome's images, at the size of the metric.
    """
    group = group.measured()
    task = Segmentation(source.num_classes, source.ignore_index)
    counts = task.counts(prediction, group.labels)
    reached, judged = task.at_goal(prediction, group.labels, group.targets)
    found = (reached >= FOUND_SHARE * judged) & (judged > 0)
    distance = job.attack.threat.distance(outcome.points - group.images).tolist() if job.attack else None
    for n, (image, sample) in enumerate(zip(group.ids, group.samples, strict=True)):
        row = Row(
            image=image,
            name=sample.name,
            attack=job.label,
            norm=job.attack.norm if job.attack else None,
            eps=outcome.eps,
            height=group.labels.shape[1],
            width=group.labels.shape[2],
            **counts[n],
            distance=distance[n] if distance else 0.0,
            **{"found": bool(found[n]), **outcome.fields[n]},
        )
        if group.targets is not None:
            row |= {"at_target": int(reached[n]), "target_pixels": int(judged[n])}
        if outcome.candidate:
            row["candidate"] = outcome.candidate
        yield row
