"""DAG: steps along the margins of the pixels that are not at their goal, until enough of them are."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from segrobust.attacks.base import Problem
from segrobust.attacks.margins import margin_gradient, unreached
from segrobust.attacks.minimum_norm import Closest, MinNormAttack
from segrobust.attacks.registry import register_attack
from segrobust.attacks.selection import selected
from segrobust.core.threats import per_image

GAMMA = {"Linf": 0.003, "L2": 0.1}


@register_attack
class DAG(MinNormAttack):
    """Dense Adversary Generation (Xie et al., 2017, arXiv 1703.08603): nothing keeps the norm small but stopping at
    the first success; an image that is done costs no further passes.

    The change may leave the box, where it has no gradient any more; the model sees it clipped. Without a success the
    image with the most pixels at their goal is returned, where the published code returns the clean one. Published:
    one of the two steps of arXiv 2206.07179, the other is 0.003.

    Args:
        steps: gradients, at most.
        gamma: length of a step in the norm, in image units; None: 0.003 (Linf), 0.1 (L2).
    """

    steps: int = 200
    gamma: float | str | None = None

    norms: ClassVar[tuple[str, ...]] = tuple(GAMMA)
    paper: ClassVar[str] = "arXiv 1703.08603"
    published: ClassVar = {"norm": "Linf", "steps": 500, "gamma": 0.001}

    def __post_init__(self) -> None:
        super().__post_init__()
        self._image_units("gamma")
        self._numbers("gamma", above=0)

    def search(self, problem: Problem, closest: Closest) -> None:
        engine, free = problem.engine, problem.clean
        rows = torch.arange(len(free), device=free.device)
        hopeless = engine.goal.pixels == 0
        for step in range(self.steps):
            points = free.clamp(0, 1)
            gradient, margins = margin_gradient(engine, points, unreached)
            done = closest.update(points, margins.reached, rows if step else None) | hopeless[rows]
            free = free + self._step(gradient * (free == points))
            left = selected(~done)
            if not len(left):
                return
            if len(left) < len(rows):
                rows, free = rows[left], free[left]
                engine = problem.engine.subset(rows)
        points = free.clamp(0, 1)
        closest.update(points, engine.measure(points).reached, rows)

    def _step(self, gradient: Tensor) -> Tensor:
        """Towards smaller margins, ``gamma`` long."""
        largest = gradient.abs().flatten(1).amax(1).clamp_min(torch.finfo(gradient.dtype).tiny)
        direction = gradient / per_image(largest)  # squares of the gradient itself may underflow
        length = self.threat.distance(direction).clamp_min(1e-12)
        gamma = GAMMA[self.norm] if self.gamma is None else self.gamma
        return direction * per_image(-gamma / length)
