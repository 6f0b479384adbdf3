"""Was the run's strongest attack strong enough? More steps, and what follows no gradient, must win next to nothing.

The look at the steps has a cost that does not grow with their number: an attack of some tens is run again with at
least twice as many, one of more is compared with itself at few. Where what is left to win falls like one over the
number of steps, the gain so far tells what twice as many would win.
"""

from __future__ import annotations

import dataclasses
import math

from segrobust.attacks.base import Attack
from segrobust.attacks.registry import ATTACKS, build_attack
from segrobust.checks.again import call, refuse_transfer, reported, shares_under
from segrobust.checks.context import Context, mean
from segrobust.checks.verdicts import NOISE, PASS, WARN, Check, NotApplicable, Skip, Verdict, verdict
from segrobust.core.rows import ATTACK
from segrobust.core.units import format_eps
from segrobust.datasets.classes import plain_names
from segrobust.models.digests import weights_sha256
from segrobust.models.load import load_segmenter
from segrobust.models.mm import load_config
from segrobust.models.segmenter import Segmenter
from segrobust.studies.bench import Group

FEWEST = 10  # schedules of losses and of radii have no room in fewer, whatever an image or two may show
TENS = 50  # the most that are doubled
PASSES = 340  # forwards and backwards in all, unless the fewest images spend more
STEP_IMAGES = (2, 4)  # at least and at most; on a single one an attack may have come to rest by chance
# by whether it looks for the smallest norm: least steps of the longer run, steps that find something, and what may be
# won by measurement and by estimate, which is too high where an attack comes to rest sooner: points of the pixels,
# percent of the norm
LONG = {False: 40, True: 100}
SHORT = {False: 25, True: 50}
WON = {False: (0.5, 1.5), True: (5.0, 10.0)}
# a standard and a robust one of the shipped models: every further one costs passes
SURROGATES = ("camvid-fpn-r18w24-pgdat-linf4-180x240", "camvid-fpn-r18w24-std-180x240")


def enough_steps(context: Context) -> Verdict:
    """More steps win next to nothing."""
    refuse_transfer(context)
    attack, kind = context.own, context.own.minimum_norm
    if not context.strongest:
        raise Skip("the run has no attack that tries")
    own = getattr(attack, "steps", None)
    if own is None:
        raise NotApplicable(f"{attack.name} has no number of steps of its own")
    remedy = "the attack has not converged: raise --steps"
    if own < FEWEST:
        text = f"{own} steps of {attack.name} are too few to come to rest on any model (at least {FEWEST})"
        return verdict(WARN, text, remedy, steps=own)
    longer, other = own <= TENS, compared_with(attack)
    groups = context.singles(images_for(other), judged=True)
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


def compared_with(attack: Attack) -> Attack | None:
    """The same attack with the steps that it is compared with; None where it has no such number, or too few."""
    own, kind = getattr(attack, "steps", None), attack.minimum_norm
    if own is None or own < FEWEST:
        return None
    return dataclasses.replace(attack, steps=max(LONG[kind], 2 * own) if own <= TENS else min(SHORT[kind], own // 2))


def images_for(other: Attack) -> int:
    """How many images the comparison takes, at most."""
    return min(max(STEP_IMAGES[0], PASSES // sum(other.passes())), STEP_IMAGES[1])


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


BLACK_BOX = "Square"
QUERIES = 4  # noise draws per image
BLACK_BOX_QUERIES = 20
TRANSFER = "TsallisPGD"
TRANSFER_STEPS = 5
MANY = 100 / 3  # percent of the images; on one or two a search that sees nothing may be lucky


def blind_search_loses(context: Context) -> Verdict:
    """Noise, searches without a gradient and other models' gradients do not beat the run's attacks."""
    refuse_transfer(context)
    norm, eps = context.radius
    if context.own.targeted:
        raise NotApplicable("noise and black-box searches have no target")
    best = {image: max(s[image] for s in context.at_radius().values() if image in s) for image in context.judged_ids}
    found = {name: shares_under(context, *attack) for name, *attack in _blind_attacks(context, norm, eps)}
    won = {name: 100 * mean(shares[i] > best[i] + NOISE for i in best) for name, shares in found.items()}
    winner, ahead = max(((name, mean(s) - mean(best)) for name, s in found.items()), key=lambda one: one[1])
    share = max(won.values())
    tried = ", ".join(f"{name} {mean(shares):.2f} %" for name, shares in found.items())
    return verdict(
        WARN if ahead > NOISE or share > MANY else PASS,
        f"the run's attacks take {mean(best):.2f} % of the pixels at {format_eps(eps, norm)}; {tried}; "
        f"a blind search wins on {share:.0f} % of {len(best)} images",
        f"{winner} finds what gradients do not: gradients are masked; report the blind result",
        white_box_percent=mean(best),
        tried={name: mean(shares) for name, shares in found.items()},
        images_won_percent=won,
    )


def _blind_attacks(context: Context, norm: str, eps: float) -> list[tuple[str, Attack, Segmenter | None]]:
    """Name, attack, and the model that it attacks instead of the run's."""
    blind = [build_attack("UniformNoise", norm=norm, eps=eps, samples=QUERIES)]
    if norm in ATTACKS[BLACK_BOX].norms:
        blind.append(build_attack(BLACK_BOX, norm=norm, eps=eps, steps=BLACK_BOX_QUERIES))
    transfer = build_attack(TRANSFER, norm=norm, eps=eps, steps=TRANSFER_STEPS)
    return [
        *((attack.name, attack, None) for attack in blind),
        *((f"{TRANSFER}@{name}", transfer, other) for name, other in _relatives(context).items()),
    ]


def _relatives(context: Context) -> dict[str, Segmenter]:
    """The models to transfer from that know the data's classes, but for the run's own."""
    own, found = context.identity["weights_sha256"], {}
    names = plain_names(context.source.class_names)
    for name in shipped_with(context.source.num_classes):
        model = load_segmenter(name, device=context.bench.device)
        if plain_names(model.class_names) == names and weights_sha256(model) != own:
            found[name] = model
    return found


def shipped_with(num_classes: int) -> list[str]:
    """Names of the models to transfer from with so many classes."""
    return [name for name in SURROGATES if load_config(name).model.decode_head.num_classes == num_classes]


CHECKS = (
    Check("enough steps", enough_steps, essential=True, studies=(ATTACK,)),
    Check("noise, black box and transfer lose", blind_search_loses, essential=True, studies=(ATTACK,)),
)
