"""Adaptive segmentation mask attack: steps along the targets' logits that grow with the overlap already reached."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from segrobust.attacks.base import Problem
from segrobust.attacks.gradient import Engine
from segrobust.attacks.minimum_norm import Closest, MinNormAttack
from segrobust.attacks.per_class import count, write
from segrobust.attacks.registry import register_attack
from segrobust.attacks.segmentation import Goal
from segrobust.core.errors import UserError
from segrobust.core.threats import per_image


@register_attack
class ASMA(MinNormAttack):
    """Adaptive segmentation mask attack, targeted only (Ozbulak et al., 2019, arXiv 1907.13124).

    A step is ``(step_size + iou_step * IoU)`` times the gradient of the targets' logits, of pixels that are not yet
    there, less that of the squared norm; IoU is the image's mean over all classes of the model, where a class that
    occurs neither among the targets nor in the prediction counts 0. The published code pools the IoU over a batch.

    Args:
        step_size: of the first step, per unit of gradient.
        iou_step: what a mean IoU of 1 adds to it.
        first_change: root mean square change of a channel value in the first step, in image units, to which both are
            scaled, with one factor per image; None: they are taken as they are, which suits the published models.
    """

    norm: str = "L2"
    targeted: bool = True
    step_size: float = 1e-7
    iou_step: float = 1e-6
    first_change: float | None = 3e-4

    norms: ClassVar[tuple[str, ...]] = ("L2",)
    paper: ClassVar[str] = "arXiv 1907.13124"
    published: ClassVar = {"first_change": None}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.targeted:
            raise UserError(f"{self.name} has no untargeted form; leave targeted out and give targets")
        self._numbers("step_size", "first_change", above=0)
        self._numbers("iou_step", least=0)

    def search(self, problem: Problem, closest: Closest) -> None:
        engine, clean = problem.engine, problem.clean
        points, factor = clean, torch.ones_like(closest.distance)
        for step in range(self.steps):
            gradient, (reached, iou) = target_gradient(engine, points)
            closest.update(points, reached)
            if step == 0 and self.first_change is not None:
                factor = self._factor(gradient)
            size = (self.step_size + (self.iou_step * iou if step else 0)) * factor
            gradient = gradient - 2 * (points - clean)
            points = (points + gradient * per_image(size)).clamp_(0, 1)
        closest.update(points, engine.measure(points).reached)

    def _factor(self, gradient: Tensor) -> Tensor:
        wanted = self.first_change * gradient[0].numel() ** 0.5
        length = self.threat.distance(gradient)
        return (wanted / (self.step_size * length)).masked_fill(length == 0, 1)


def target_gradient(engine: Engine, points: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Input gradient of the targets' logits, summed over the pixels that are not at their target.

    Returns:
        The gradient, and the pixels at their target with the mean IoU ``[N]``.
    """

    def logit_gradient(logits: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        goal = engine.goal
        targets = goal.labels.unsqueeze(1)
        top = logits == logits.amax(1, keepdim=True)
        reached = top.gather(1, targets).squeeze(1) & goal.valid
        iou = mean_iou(goal, top, reached)
        missing = (goal.valid & ~reached).to(logits.dtype)
        return write(engine.memory(logits).zero_(), goal.labels, missing), (reached, iou)

    return engine.backward(points, logit_gradient)


def mean_iou(goal: Goal, predicted: Tensor, reached: Tensor) -> Tensor:
    """Of targets and prediction, per image over all classes, of which those in neither count 0, ``[N]``.

    Args:
        predicted: ``[N, K, H, W]`` bool, one-hot.
        reached: ``[N, H, W]`` bool, valid pixels that are predicted as their target.
    """
    both, wanted = (count(goal.labels, pixels, predicted.shape[1]) for pixels in (reached, goal.valid))
    union = (predicted & goal.valid.unsqueeze(1)).flatten(2).sum(2) + wanted - both
    return (both / union.clamp_min(1)).mean(1)
