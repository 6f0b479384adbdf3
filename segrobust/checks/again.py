"""The run's attacks again, on a few images: what they reach, and what they saw on their way."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from segrobust.analysis.broken import shares_of
from segrobust.attacks.base import Attack, AttackResult
from segrobust.attacks.eight_bit import on_grid
from segrobust.attacks.segmentation import Task
from segrobust.checks.context import Context, once
from segrobust.checks.verdicts import Skip
from segrobust.core.errors import UserError
from segrobust.core.precision_names import FLOAT32
from segrobust.core.threats import allowed
from segrobust.models.expectation import drawing
from segrobust.models.precision import computing_in
from segrobust.models.segmenter import Segmenter
from segrobust.studies.base import Perturbed
from segrobust.studies.bench import Group
from segrobust.studies.rows import rows_of

TRACED, TRACED_STEPS = 8, 10


def call(
    context: Context,
    attack: Attack,
    group: Group,
    model: nn.Module | None = None,
    masked: bool = True,
) -> AttackResult:
    """Run an attack on a group, on the model itself unless another is given, in float32, behind the run's mask.

    A randomised model draws the same at every start.
    """
    bench = context.bench
    seeds = bench.seeds(group)
    with drawing(tuple(seeds), bench.device), computing_in(FLOAT32, bench.device):
        return attack(
            bench.attacked(seeds) if model is None else model,
            group.images,
            group.labels,
            task=bench.task,
            targets=group.targets if attack.targeted else None,
            kept=group.kept if attack.targeted else None,
            seeds=seeds,
            mask=bench.mask if masked else None,
        )


def reported(context: Context, group: Group, images: Tensor) -> dict[int, float]:
    """Percent at the goal of every image with a labelled pixel, measured as the run measures what it reports."""
    made = Perturbed(context.clean, images, [{}] * len(group.ids))
    return shares_of(list(rows_of(context.bench, group, made))).get(context.clean, {})


def shares_under(context: Context, attack: Attack, surrogate: Segmenter | None = None) -> dict[int, float]:
    """Percent at the goal of every judged image of the subset under an attack on the run's model or, measured on that
    all the same, on a surrogate."""
    found: dict[int, float] = {}
    for group in context.groups:
        found |= reported(context, group, call(context, attack, group, surrogate).images)
    return {image: found[image] for image in context.judged_ids}


def shortened(attack: Attack, steps: int) -> Attack:
    """The same attack with ``steps`` steps or the next possible number, where it has such a number and more of them."""
    own = getattr(attack, "steps", 0)
    for fewer in (steps, 2 * steps, 4 * steps, 8 * steps):
        if own is None or fewer < own:  # None: of an ensemble that leaves it to its members
            with contextlib.suppress(UserError):  # an ensemble needs a step for each member
                return dataclasses.replace(attack, steps=fewer)
    return attack


def saw_another(context: Context) -> str:
    """Which other model the run's attacks saw, in words; empty where they, or some of them, saw this one."""
    surrogate = context.strongest[0].surrogate if context.strongest else None
    return f"the run's attacks saw {surrogate.name}, not this model" if surrogate else ""


def refuse_transfer(context: Context) -> None:
    """Skip a check that runs the run's attacks again, where these saw another model."""
    if reason := saw_another(context):
        raise Skip(reason)


# --- what an attack saw


class Recorder(nn.Module):
    """The model, noting at every forward how far the points went and how much of them was at the goal.

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
    missed: by how many points the best point on the way and within the budget beats the returned one, at least 0; of a
        minimum-norm attack, by how many percent of its norm the result could be nearer.
    """

    attack: Attack
    returned: float
    rounded: float
    missed: float


@once
def traces(context: Context) -> list[Trace]:
    """What the run's strongest attack, shortened, sees on some images."""
    return traced_again(context)


def traced_again(context: Context) -> list[Trace]:
    """The same computed anew: equal, unless attacks do not repeat here."""
    attack = shortened(context.own, TRACED_STEPS)
    return [_trace(context, attack, group) for group in context.singles(TRACED, judged=True)]


def _trace(context: Context, attack: Attack, group: Group) -> Trace:
    bench = context.bench
    recorder = Recorder(bench.attacked(bench.seeds(group)), group, bench.task, attack)
    result = call(context, attack, group, recorder)
    seen = list(zip(recorder.shares, recorder.distances, strict=True))
    predictions = [bench.predict(one, group.ids) for one in (result.images, on_grid(result.images))]  # as attacked
    returned, rounded = (percent_at_goal(bench.task, one, group, attack.targeted)[0] for one in predictions)
    return Trace(attack, returned, rounded, max(0.0, _missed(attack, result, returned, seen)))


def _missed(attack: Attack, result: AttackResult, returned: float, seen: list[tuple[float, float]]) -> float:
    """See :class:`Trace`, from the share and the distance at every forward."""
    if not attack.minimum_norm:
        limit = allowed(attack.norm, attack.eps)
        return max((share for share, distance in seen if distance <= limit), default=0.0) - returned
    nearest = min((distance for share, distance in seen if share >= 100 * attack.apsr), default=math.inf)
    if math.isinf(nearest):
        return 0.0
    return 100 * (1 - nearest / max(float(result.distance), 1e-12)) if result.found else 100.0
