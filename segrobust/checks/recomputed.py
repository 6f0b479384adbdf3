"""Rows of a run computed again, beside those that are stored."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from segrobust.analysis.broken import shares_of
from segrobust.checks.context import Context
from segrobust.checks.repeats import FACTOR, attacks_repeat, forwards_repeat
from segrobust.checks.verdicts import FAIL, INFO, NOISE, WARN
from segrobust.core.rows import CLEAN, Row
from segrobust.runs.executor import Executor
from segrobust.studies.base import Perturbed, Study
from segrobust.studies.bench import Bench, Group


@dataclass(frozen=True)
class Again:
    """How many rows of a study were compared.

    differing: names of those that are not as they were stored.
    repeats: the study gives the same each time, so that any difference counts. Else one of what is reached does, in
        points of an image's pixels: ``points``, the largest to what is stored, against ``measured``, that to one more
        run.
    """

    rows: int
    differing: list[str]
    repeats: bool = True
    points: float = 0.0
    measured: float = 0.0

    @property
    def level(self) -> str:
        if self.differing and self.repeats:
            return FAIL
        return WARN if self.points > max(NOISE, FACTOR * self.measured) else INFO


def computed_again(context: Context, study: Study, batches: Sequence[range]) -> Again:
    """The rows of a study on some batches beside the stored ones; computed once more where they are others."""
    by_key = {row.key: row for row in context.all_rows}
    again, images = _computed(context, study, batches)
    stored = [by_key[row.key] for row in again if row.key in by_key]
    differing = [f"{row.condition.name} image {row.image}" for row in again if by_key.get(row.key) != row]
    if not differing or len(stored) < len(again):
        return Again(len(again), differing)
    same = forwards_repeat if study.conditions[0].study == CLEAN else attacks_repeat
    once_more, others = _computed(context, study, batches)
    repeats = same(context) and all(map(torch.equal, images, others))
    return Again(len(again), differing, repeats, points_apart(again, stored), points_apart(again, once_more))


class _Keeping:
    """A study that keeps the images that it shows."""

    def __init__(self, study: Study) -> None:
        self.study, self.images = study, []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.study, name)

    def perturbed(self, bench: Bench, group: Group) -> Iterator[Perturbed]:
        for made in self.study.perturbed(bench, group):
            self.images.append(made.images)
            yield made


def _computed(context: Context, study: Study, batches: Sequence[range]) -> tuple[list[Row], list[Tensor]]:
    keeping = _Keeping(study)
    executor = Executor(context.bench, [study], context.folder, context.executor.batch_size)  # which saves no image
    return [row for batch in batches for row in executor.rows(keeping, batch)], keeping.images


def points_apart(some: Sequence[Row], others: Sequence[Row]) -> float:
    """The largest difference of any image, in points of its pixels at the goal; inf where one is not counted."""
    one, other = shares_of(some), shares_of(others)
    gaps = (
        abs(share - other.get(condition, {}).get(image, math.inf))
        for condition, shares in one.items()
        for image, share in shares.items()
    )
    return max(gaps, default=0.0)
