"""What an attack saw on its way: a model that notes, at every forward, how far it went and how much was at the goal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from segrobust.attacks.base import Attack, AttackResult
from segrobust.core.threats import allowed
from segrobust.studies.outcomes import Group

if TYPE_CHECKING:
    from segrobust.checks.context import Context


class Recorder(nn.Module):
    """The model, noting every point at which it is asked.

    Args:
        group: one image; a forward of several points is of several candidates for it.
        void: the label that does not count.
    """

    def __init__(self, model: nn.Module, group: Group, void: int, attack: Attack) -> None:
        super().__init__()
        self.model, self.group, self.void, self.attack = model, group, void, attack
        self.distances: list[float] = []
        self.shares: list[float] = []

    def forward(self, images: Tensor) -> Tensor:
        logits = self.model(images)
        with torch.no_grad():
            self.distances += self.attack.threat.distance(images.detach().float() - self.group.images).tolist()
            self.shares += shares_at_goal(logits.argmax(1), self.group, self.void, self.attack.targeted).tolist()
        return logits


def shares_at_goal(prediction: Tensor, group: Group, void: int, targeted: bool) -> Tensor:
    """Percent of the judged pixels that are at an attack's goal, ``[N]``; several predictions may be of one image."""
    wanted = group.targets if targeted else group.labels
    valid = (group.labels != void) & (wanted != void)
    reached = (prediction == wanted) == targeted
    return 100 * (reached & valid).flatten(1).sum(1) / valid.flatten(1).sum(1).clamp_min(1)


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
    recorder = Recorder(context.white_box(group), group, context.void, attack)
    result = context.call(attack, group, recorder)
    shares, distances = list(recorder.shares), list(recorder.distances)
    points = [result.images, (result.images * 255).round() / 255]
    predictions = (context.evaluation.predict(one, group.ids) for one in points)  # at the size that the attack sees
    returned, rounded = (shares_at_goal(one, group, context.void, attack.targeted).item() for one in predictions)
    return Trace(group, attack, result, returned, rounded, shares, distances)
