"""Was the run's strongest attack strong enough? Seen on a few images, on which it is made again.

The quick look has a cost that does not grow with the attack's steps: one of some tens of steps is run again with at
least twice as many, one of more is compared with itself at few. Where what is left to win falls like one over the
number of steps, the gain so far tells what twice as many would win. The full tier makes the experiment itself, on more
images, with other seeds, and with an adversary that is planted.
"""

from __future__ import annotations

import dataclasses
import math

import torch

from segrobust.attacks.base import Attack
from segrobust.checks.again import Trace, call, refuse_transfer, reported, trace
from segrobust.checks.context import Context, mean
from segrobust.checks.planted import Planted
from segrobust.checks.probe import refuse_random
from segrobust.checks.verdicts import NOISE, PASS, WARN, Check, NotApplicable, Skip, Verdict, graded, verdict
from segrobust.core.rows import ATTACK
from segrobust.core.threats import allowed
from segrobust.studies.bench import Group

FEWEST = 10  # schedules of losses and of radii have no room in fewer, whatever an image or two may show
TENS = 50  # the most that are doubled
PASSES = 340  # forwards and backwards in all, unless the fewest images spend more
QUICK_IMAGES = (2, 4)  # at least and at most; on a single one an attack may have come to rest by chance
# by whether it looks for the smallest norm: least steps of the longer run, steps that find something, and what may be
# won by measurement and by estimate, which is too high where an attack comes to rest sooner: points of the pixels,
# percent of the norm
LONG = {False: 40, True: 100}
SHORT = {False: 25, True: 50}
WON = {False: (0.5, 1.5), True: (5.0, 10.0)}


def enough_steps(context: Context) -> Verdict:
    """More steps win next to nothing."""
    refuse_transfer(context)
    attack, kind = context.own, context.own.minimum_norm
    if not context.strongest:
        raise Skip("the run has no attack that tries")
    own = getattr(attack, "steps", None)
    if own is None:
        raise NotApplicable(f"{attack.name} has no number of steps of its own")
    remedy = "the attack has not converged: raise --steps; --checks full tells what twice as many win"
    if own < FEWEST:
        text = f"{own} steps of {attack.name} are too few to come to rest on any model (at least {FEWEST})"
        return verdict(WARN, text, remedy, steps=own)
    longer = own <= TENS
    other = dataclasses.replace(attack, steps=max(LONG[kind], 2 * own) if longer else min(SHORT[kind], own // 2))
    groups = context.singles(min(max(QUICK_IMAGES[0], PASSES // sum(other.passes())), QUICK_IMAGES[1]), judged=True)
    pairs = [(_stored(context, one), _reached(context, other, one)) for one in groups]
    if not any(math.isfinite(own_result) for own_result, _ in pairs):
        text = f"{own} steps of {attack.name} find nothing on {len(groups)} image{'s' * (len(groups) > 1)}"
        return verdict(WARN, text, remedy, steps=own, images=len(groups))
    gain = mean(_gain(kind, *(pair if longer else pair[::-1])) for pair in pairs)
    left = 100.0 if kind else mean(100 - stored for stored, _ in pairs)
    expected = gain if longer else min(left, gain * other.steps / (2 * (own - other.steps)))
    unit = "% of the norm" if kind else "points of the pixels"
    text = f"{max(own, other.steps)} instead of {min(own, other.steps)} steps win {gain:.2f} {unit}"
    text += "" if longer else f", so that {2 * own} may win {expected:.2f} more"
    return verdict(
        WARN if expected > WON[kind][not longer] else PASS,
        f"{text} ({attack.name}, {len(groups)} image{'s' * (len(groups) > 1)})",
        remedy,
        steps=own,
        compared_with=other.steps,
        gain=gain,
        expected_gain=expected,
        images=len(groups),
    )


def _stored(context: Context, group: Group) -> float:
    """The run's own result on an image: percent of the pixels at the goal, or the norm."""
    (image,) = group.ids
    if not context.own.minimum_norm:
        return context.shares[context.strongest[1]][image]
    (search,) = (one for one in context.attempts if one.name == context.strongest[1].name and one.eps is None)
    (row,) = (row for row in context.rows if (row.condition, row.image) == (search, image))
    return row.extra["distance"] if row.found else math.inf


def _reached(context: Context, attack: Attack, group: Group) -> float:
    result = call(context, attack, group)
    if not attack.minimum_norm:
        return reported(context, group, result.images)[group.ids[0]]
    return float(result.distance) if result.found else math.inf


def _gain(minimum_norm: bool, fewer: float, more: float) -> float:
    """What more steps win on an image: points, or percent of the norm."""
    if not minimum_norm:
        return more - fewer
    if not math.isfinite(fewer):
        return 100.0  # what has found nothing yet has everything to win
    return max(-100.0, 100 * (1 - more / fewer)) if fewer else 0.0


# --- full tier

IMAGES = 8
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
        graded(max(gain, late), warn=NOISE),
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
        seed = context.bench.seed + n
        found = [(group, call(context, attack, group, seed=seed).images) for group in _images(context)]
        runs.append(mean(reported(context, group, images)[group.ids[0]] for group, images in found))
    spread = max(runs) - min(runs)
    return verdict(
        graded(spread, warn=NOISE),
        f"{len(runs)} seeds differ by {spread:.2f} points ({attack.name}, {len(before)} images: "
        f"{', '.join(f'{one:.2f}' for one in runs)} % of the pixels)",
        "the random start matters: use restarts, or more steps",
        spread_points=spread,
        percent_by_seed=runs,
    )


def planted_found(context: Context) -> Verdict:
    """A planted adversarial image is found."""
    refuse_random(context, ", and so would the planted image")
    attack = _attack(context)
    two_classes = {"targeted": False} | ({"class_counts": None} if hasattr(attack, "class_counts") else {})
    attack = dataclasses.replace(attack, **two_classes)
    found = planted = 0
    groups = _images(context)
    for group in groups:
        seed = context.bench.seeds(group)[0]
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
    """Percent at the goal in the run's own rows, per image of ``_images``."""
    return [context.shares[context.strongest[1]][group.ids[0]] for group in _images(context)]


CHECKS = (
    Check("enough steps", enough_steps, essential=True, studies=(ATTACK,)),
    Check("converged", converged, full=True, studies=(ATTACK,)),
    Check("seeds do not matter", seeds_agree, full=True, studies=(ATTACK,)),
    Check("planted adversary found", planted_found, full=True, studies=(ATTACK,)),
)
