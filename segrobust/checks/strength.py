"""Were the attacks strong enough? Each of these runs the run's strongest attack again."""

from __future__ import annotations

import dataclasses

import torch

from segrobust.attacks.base import Attack
from segrobust.checks.base import Check, Skip, Verdict, graded, verdict
from segrobust.checks.context import Context, mean, refuse_transfer
from segrobust.checks.contract import random
from segrobust.checks.planted import Planted
from segrobust.checks.trace import Trace, trace
from segrobust.core.threats import allowed
from segrobust.studies.outcomes import Group

IMAGES = 8
POINTS = 0.5  # of pixels, that more work may win
LAST = 10  # steps whose gain tells that an attack has not come to rest
SEEDS = 2


def converged(context: Context) -> Verdict:
    """Twice the steps change nothing, nor do the last ten."""
    attack = _attack(context)
    if not hasattr(attack, "steps"):
        raise Skip(f"{attack.name} has no number of steps to double")
    traces = [trace(context, dataclasses.replace(attack, steps=2 * attack.steps), one) for one in _images(context)]
    gain = mean(one.returned - before for one, before in zip(traces, _before(context), strict=True))
    late = mean(map(_late_gain, traces))
    return verdict(
        graded(max(gain, late), warn=POINTS),
        f"{2 * attack.steps} instead of {attack.steps} steps take {gain:+.2f} points of the pixels, the last {LAST} of "
        f"them {late:.2f} ({attack.name}, {len(traces)} images)",
        "the attack has not converged: raise --steps until this number is small",
        gain_points=gain,
        late_points=late,
    )


def _late_gain(one: Trace) -> float:
    """What the last steps added to the best point within the budget."""
    limit = allowed(one.attack.norm, one.attack.eps)
    within = [share if far <= limit else 0.0 for share, far in zip(one.shares, one.distances, strict=True)]
    return max(within) - max(within[:-LAST], default=0.0)


def seeds_agree(context: Context) -> Verdict:
    """Three seeds, three times the same score."""
    attack = _attack(context)
    before = _before(context)
    runs = [mean(before)]
    for n in range(1, SEEDS + 1):
        seed = context.evaluation.seed + n
        found = [(group, context.call(attack, group, seed=seed).images) for group in _images(context)]
        runs.append(mean(context.reported(attack, *one)[0] for one in found))
    spread = max(runs) - min(runs)
    return verdict(
        graded(spread, warn=POINTS),
        f"{len(runs)} seeds differ by {spread:.2f} points ({attack.name}, {len(before)} images: "
        f"{', '.join(f'{one:.2f}' for one in runs)} % of the pixels)",
        "the random start matters: use restarts, or more steps",
        spread_points=spread,
        percent_by_seed=runs,
    )


def planted_found(context: Context) -> Verdict:
    """A planted adversarial image is found."""
    if random(context):
        raise Skip("two forwards of the same batch differ already, and so would the planted image")
    attack = _attack(context)
    two_classes = {"targeted": False} | ({"class_counts": None} if hasattr(attack, "class_counts") else {})
    attack = dataclasses.replace(attack, **two_classes)
    found = planted = 0
    groups = _images(context)
    for group in groups:
        seed = context.seeds(group)[0]
        model = Planted(context.model, group.images.float(), attack, seed)
        if model.hidden:
            planted += 1
            found += bool(attack(model, group.images, torch.zeros_like(group.labels), seeds=[seed]).found)
    if not planted:
        raise Skip("the logits do not move within the radius, or as much with every noise: nothing to plant")
    return verdict(
        graded(100 * (1 - found / planted), fail=5),
        f"{attack.name} finds {found} of {planted} planted adversarial images",
        "the attack misses what surely exists: it is too weak for this model, or gradients are masked",
        found=found,
        planted=planted,
        not_plantable=len(groups) - planted,
    )


def _attack(context: Context) -> Attack:
    refuse_transfer(context)
    if context.own.minimum_norm:
        raise Skip(f"{context.own.name} searches for a distance; this check is for attacks at a radius")
    if not context.strongest:
        raise Skip("the run has no attack that tries")
    return context.own


def _images(context: Context) -> list[Group]:
    return context.singles(IMAGES, judged=True)


def _before(context: Context) -> list[float]:
    """Percent at the goal in the run's own rows, per image of this file's checks."""
    label, eps = context.strongest[0].label, context.strongest[1]
    shares = context.shares[label, context.own.norm, eps]
    return [shares[group.ids[0]] for group in _images(context)]


CHECKS = (
    Check("converged", converged, tier="full"),
    Check("seeds do not matter", seeds_agree, tier="full"),
    Check("planted adversary found", planted_found, tier="full"),
)
