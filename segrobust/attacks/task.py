"""What a model is asked, as far as attacks and rows must know: the one place for a task beside segmentation."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from segrobust.attacks.segmentation import Goal


class Task(Protocol):
    """Engine, attacks, studies and checks know labels and predictions through these three alone.

    ``segmentation.Segmentation`` is the one there is; its counts are scored in ``segrobust.analysis.metrics``.
    """

    def goal(self, images: Tensor, labels: Tensor, targets: Tensor | None, targeted: bool, mask: Any = None) -> Goal:
        """What the attack of a batch is after: which pixels count, the logit gradient towards the goal, and which
        pixels are there. The public methods of :class:`Goal` are all that the engine calls."""

    def counts(self, prediction: Tensor, labels: Tensor) -> list[dict[str, list[int]]]:
        """Per image the integers that its row stores and every score is computed from."""

    def at_goal(self, prediction: Tensor, labels: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Pixels at the goal of an attack, and pixels that count, ``[N]`` integers each, on the CPU."""
