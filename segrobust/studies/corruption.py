"""Images under common corruptions: what is left of a model's score in noise, blur, weather and bad pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from segrobust.analysis.corruption import CORRUPTION
from segrobust.core.rows import Condition
from segrobust.core.seeds import seed_of
from segrobust.datasets.corruption_names import corruption_name, corruptions_named, severity
from segrobust.datasets.corruptions import corrupt
from segrobust.studies.base import Perturbed, Study
from segrobust.studies.bench import Bench, Group


@dataclass(frozen=True, eq=False)
class CorruptionStudy(Study):
    """One corruption at one severity (Hendrycks and Dietterich, 2019).

    An image's random numbers follow from the run's seed and its place in the run, not from its batch.
    """

    name: str
    severity: int
    passes = 1

    @property
    def conditions(self) -> tuple[Condition, ...]:
        return (Condition(CORRUPTION, self.name, severity=self.severity, fields={"type": self.name}),)

    def perturbed(self, bench: Bench, group: Group) -> Iterator[Perturbed]:
        seeds = [seed_of(bench.seed, f"{CORRUPTION} {self.name}", image, self.severity) for image in group.ids]
        images = [self._corrupted(sample.image, seed) for sample, seed in zip(group.samples, seeds, strict=True)]
        yield Perturbed(self.conditions[0], torch.stack(images).to(bench.device), [{}] * len(images))

    def _corrupted(self, image: Tensor, seed: int) -> Tensor:
        changed = corrupt(image.permute(1, 2, 0).numpy(), self.name, self.severity, seed)
        return torch.from_numpy(changed).permute(2, 0, 1)


def plan_corruptions(names: Sequence[str], severities: Sequence[int]) -> list[CorruptionStudy]:
    """One study per corruption and severity.

    Args:
        names: of corruptions, of their groups (``"weather"``), or ``"all"``.
        severities: 1 to 5.

    Raises:
        UserError: no such corruption or severity.
    """
    chosen = sorted(set(map(severity, severities)))
    return [CorruptionStudy(name, one) for name in corruptions_named(map(corruption_name, names)) for one in chosen]
