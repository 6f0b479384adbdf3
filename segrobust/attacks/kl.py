"""The attack inside TRADES: it moves the prediction away from the clean one, wherever the labels are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor

from segrobust.attacks.base import Problem
from segrobust.attacks.bounded import PGD_SETTINGS
from segrobust.attacks.gradient import Measurement
from segrobust.attacks.gradient_attack import GradientAttack
from segrobust.attacks.registry import register_attack
from segrobust.core.errors import UserError


@register_attack
class KLPGD(GradientAttack):
    """KL(softmax of the clean image || softmax under attack), summed over the valid pixels (Zhang et al., 2019,
    arXiv 1901.08573).

    The logit gradient is the difference of the two, which is zero at the clean image: a search starts from noise in the
    ball. (TRADES starts from Gaussian noise of 0.001.) One more forward per search. Best iterates and ``found`` go by
    the labels, as for every attack. Published: settings of the paper for CIFAR-10.
    """

    paper: ClassVar[str] = "arXiv 1901.08573"
    published: ClassVar = {**PGD_SETTINGS, "eps": 0.031, "steps": 10, "step_size": 0.007, "keep": "last"}
    logits_kept: ClassVar[int] = 4  # they, the clean probabilities, those under attack, their difference

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.random_start:
            raise UserError(f"{self.name}: there is no gradient at the clean image; leave random_start out")

    def passes(self) -> tuple[int, int]:
        forwards, backwards = super().passes()
        return forwards + self.restarts, backwards

    def begin(self, problem: Problem) -> Callable[[Tensor, float], Measurement]:
        engine, goal = problem.engine, problem.engine.goal
        clean = engine.forward(problem.clean, lambda logits: logits.softmax(1))

        def ascent(logits: Tensor) -> tuple[Tensor, Any]:
            difference = (logits.softmax(1) - clean) * goal.valid.unsqueeze(1)
            return difference, goal.measure(logits, engine.memory)

        return lambda points, progress: engine.measured_gradient(points, ascent)
