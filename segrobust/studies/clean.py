"""The images as they are."""

from __future__ import annotations

from collections.abc import Iterator

from segrobust.core.rows import CLEAN, Condition
from segrobust.studies.base import Perturbed, Study
from segrobust.studies.bench import Bench, Group


class Clean(Study):
    """What the model answers on the images as they are."""

    conditions = (Condition(CLEAN, CLEAN),)
    passes = 1

    def perturbed(self, bench: Bench, group: Group) -> Iterator[Perturbed]:
        yield Perturbed(self.conditions[0], group.images, [{"distance": 0.0}] * len(group.ids))
