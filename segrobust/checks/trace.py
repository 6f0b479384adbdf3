"""What an attack saw on its way: a model that notes, at every forward, how far it went and how much was at the goal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from segrobust.attacks.base import Attack, AttackResult
from segrobust.attacks.eight_bit import on_grid
from segrobust.attacks.task import Task
from segrobust.core.threats import allowed
from segrobust.studies.outcomes import Group

if TYPE_CHECKING:
    from segrobust.checks.context import Context


class Recorder(nn.Module):
    """The model, noting every point at which it is asked.

    Args:
        group: one image; a forward of several points is of several candidates for it.
    """

    def __init__(self, model: nn.Module, group: Group, task: Task, attack: Attack) -> None:
        super().__init__()
        self.model, self.group, self.task, self.attack = model, group, task, attack
        self.distances: list[float] = []
        self.shares: list[float] = []

    def forward(self, images: Tensor) -> Tensor:
        logits = self.model(images)
        with torch.no_grad():
            self.distances += self.attack.threat.distance(images.detach().float() - self.group.images).tolist()
            self.shares += percent_at_goal(self.task, logits.argmax(1), self.group, self.attack.targeted)
        return logits


def percent_at_goal(task: Task, prediction: Tensor, group: Group, targeted: bool) -> list[float]:
    """Percent of the judged pixels that are at an attack's goal; several predictions may be of one image."""
    reached, judged = task.at_goal(prediction, group.labels, group.targets if targeted else None)
    return (100 * reached / judged.clamp_min(1)).tolist()


@dataclass(frozen=True)
class Trace:
    """One image under one attack.

    returned, rounded: percent at the goal at the result, and at the result rounded to 8 bits.
    shares, distances: percent at the goal and norm of the change at every forward of the attack, in order.
    """

    group: Group
    attack: Attack
    result: AttackResult
    returned: float
    rounded: float
    shares: list[float]
    distances: list[float]

    @property
    def missed(self) -> float:
        """By how many points the best point on the way and within the budget beats the returned one; at least 0.

        Of a minimum-norm attack: by how many percent of its norm the result could be nearer.
        """
        attack, seen = self.attack, zip(self.shares, self.distances, strict=True)
        if not attack.minimum_norm:
            limit = allowed(attack.norm, attack.eps)
            best = max((share for share, distance in seen if distance <= limit), default=0.0)
            return max(0.0, best - self.returned)
        nearest = min((distance for share, distance in seen if share >= 100 * attack.apsr), default=None)
        if nearest is None:
            return 0.0
        returned = float(self.result.distance)
        return 100.0 if not self.result.found else max(0.0, 100 * (1 - nearest / max(returned, 1e-12)))


def trace(context: Context, attack: Attack, group: Group) -> Trace:
    """Run ``attack`` on one image and note what it sees."""
    recorder = Recorder(context.white_box(group), group, context.task, attack)
    result = context.call(attack, group, recorder)
    shares, distances = list(recorder.shares), list(recorder.distances)
    points = [result.images, on_grid(result.images)]
    predictions = (context.evaluation.predict(one, group.ids) for one in points)  # at the size that the attack sees
    returned, rounded = (percent_at_goal(context.task, one, group, attack.targeted)[0] for one in predictions)
    return Trace(group, attack, result, returned, rounded, shares, distances)
