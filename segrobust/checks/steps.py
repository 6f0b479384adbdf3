"""Has the run's strongest attack enough steps? Seen on a few images, at a cost that does not grow with its steps.

An attack of some tens of steps is run again with at least twice as many. One of more is compared with itself at few:
where what is left to win falls like one over the number of steps, the gain so far tells what twice as many would win.
The full tier makes the experiment itself, on more images (``strength.py``).
"""

from __future__ import annotations

import dataclasses
import math

from segrobust.attacks.base import Attack
from segrobust.checks.base import PASS, WARN, Check, NotApplicable, Skip, Verdict, verdict
from segrobust.checks.context import Context, mean, refuse_transfer
from segrobust.studies.outcomes import Group

FEWEST = 10  # schedules of losses and of radii have no room in fewer, whatever an image or two may show
TENS = 50  # the most that are doubled
PASSES = 340  # forwards and backwards in all, unless the fewest images spend more
IMAGES = (2, 4)  # at least and at most; on a single one an attack may have come to rest by chance
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
    groups = context.singles(min(max(IMAGES[0], PASSES // sum(other.passes())), IMAGES[1]), judged=True)
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
    label, eps = context.strongest[0].label, context.strongest[1]
    (image,) = group.ids
    if not context.own.minimum_norm:
        return context.shares[label, context.own.norm, eps][image]
    (row,) = (row for row in context.rows if (row["attack"], row["eps"], row["image"]) == (label, None, image))
    return row["distance"] if row["found"] else math.inf


def _reached(context: Context, attack: Attack, group: Group) -> float:
    result = context.call(attack, group)
    if not attack.minimum_norm:
        return context.reported(attack, group, result.images)[0]
    return float(result.distance) if result.found else math.inf


def _gain(minimum_norm: bool, fewer: float, more: float) -> float:
    """What more steps win on an image: points, or percent of the norm."""
    if not minimum_norm:
        return more - fewer
    if not math.isfinite(fewer):
        return 100.0  # what has found nothing yet has everything to win
    return max(-100.0, 100 * (1 - more / fewer)) if fewer else 0.0


CHECKS = (Check("enough steps", enough_steps, essential=True),)
