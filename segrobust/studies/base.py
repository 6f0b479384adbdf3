"""What a study is: what is done to images before the model answers, for which conditions, and what it adds to rows."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from segrobust.core.rows import Condition
from segrobust.studies.bench import Bench, Group


@dataclass(frozen=True)
class Perturbed:
    """A group of images under one condition, as the model is to see them.

    images: ``[N, 3, H, W]`` in [0, 1].
    extra: per image, what its row takes from the study; without passes in it, the row has the one forward alone.
    void: ``[N, H, W]`` bool, pixels that do not count besides those without a label (under a patch).
    regions: ``[N, H, W]`` int64, the region of every pixel, from 0 (rings around a patch); counted one by one into
        ``extra["regions"]``.
    """

    condition: Condition
    images: Tensor
    extra: Sequence[Mapping[str, Any]]
    void: Tensor | None = None
    regions: Tensor | None = None


def free_name(name: str, taken: Collection[str]) -> str:
    """The name or, where it is taken, ``NAME#2`` and so on: tables tell conditions apart by their names."""
    names = itertools.chain([name], (f"{name}#{n}" for n in itertools.count(2)))
    return next(one for one in names if one not in taken)


def settings_key(norm: str | None, fields: Mapping[str, Any]) -> tuple[str | None, str]:
    """What conditions share that differ in nothing but radius and candidate, and so have one name."""
    return norm, Condition("", "", fields=fields).id


class Study(ABC):
    """One computation per group of images, and the conditions whose rows come of it.

    To add a study, write a subclass in a file of its own; the executor does the rest: batches, processes, resuming,
    predictions, counts.
    """

    @property
    @abstractmethod
    def conditions(self) -> tuple[Condition, ...]:
        """Those of its rows, always all of them for every image."""

    @property
    @abstractmethod
    def passes(self) -> int:
        """Forwards and backwards per image, those that are reported included; for progress and estimates."""

    @property
    def title(self) -> str:
        """What progress says is running."""
        return self.conditions[0].title

    @property
    def fit_passes(self) -> int:
        """Forwards and backwards of :meth:`fit` in all, over its images; for estimates."""
        return 0

    @property
    def logits_kept(self) -> int:
        """Tensors of the logits' size that are there at the same time, at least; those inside the model left out."""
        return 1

    @property
    def made_of(self) -> tuple[Any, ...]:
        """Objects (attacks, networks) whose classes a user may have written: their code decides rows too."""
        return (self,)

    def fit(self, bench: Bench) -> None:  # noqa: B027
        """What must be known before the first batch, such as a universal perturbation; nothing by default.

        Called by every process, before any row, only where a row of the study is missing.
        """

    @abstractmethod
    def perturbed(self, bench: Bench, group: Group) -> Iterator[Perturbed]:
        """The group under each of the conditions, in their order."""
