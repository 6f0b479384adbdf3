"""Passes that the trust checks will take on images, told before the run from what each of them does.

Where a check looks again only at what it finds, the first look counts. A test holds these numbers to counted ones.
"""

from __future__ import annotations

from collections.abc import Sequence

from segrobust.attacks.base import Attack
from segrobust.attacks.registry import ATTACKS, build_attack
from segrobust.checks import attack as attacking
from segrobust.checks import clean, gradient, integrity, strength
from segrobust.checks.again import TRACED, TRACED_STEPS, shortened
from segrobust.checks.context import chosen_batches
from segrobust.runs.executor import Executor
from segrobust.studies.attack import AttackStudy

PROBE = 6  # on every image, one of them a backward
REPORT = 1  # of attacked images


def passes_of_checks(executor: Executor) -> int:
    """Forwards and backwards of single images, for a run that computes all of its rows."""
    batches = chosen_batches(executor)
    images = sum(map(len, batches))
    attacks = [one for one in executor.studies if isinstance(one, AttackStudy) and not one.attack.control]
    again = images + min((one.passes * len(batches[0]) for one in attacks), default=0) * _made_again(attacks, batches)
    slopes = 2 * gradient.DIRECTIONS + 2
    plain = PROBE * images + again + (1 + len(clean.INPUTS)) * min(clean.IMAGES, images) + slopes
    if not attacks:
        return plain
    own = max((one.attack for one in attacks), key=lambda attack: not attack.minimum_norm)
    bench, relatives = executor.bench, None
    if not all(one.surrogate for one in attacks):
        relatives = len({*strength.shipped_with(bench.source.num_classes)} - {bench.model.name})
    return plain + _of_attacks(attacks, own, images, relatives)


def _made_again(attacks: Sequence[AttackStudy], batches: Sequence[range]) -> bool:
    cheapest = min((one.passes for one in attacks), default=0)
    return cheapest * len(batches[0]) <= integrity.MOST_PASSES


def _of_attacks(attacks: Sequence[AttackStudy], own: Attack, images: int, relatives: int | None) -> int:
    """``relatives``: models that images are made on for a transfer; None where the run's attacks are one themselves."""
    kinds = {type(one.attack): one.attack for one in attacks}
    void = sum(2 * _passes(shortened(attack, 3)) for attack in kinds.values()) * min(attacking.VOID_IMAGES, images)
    far = build_attack("MaskedPGD", steps=40, optimiser="pgd", radius_reduction=False)
    large = _passes(far) * min(attacking.FEW, images)
    if relatives is None:
        return void + large
    traced = (_passes(shortened(own, TRACED_STEPS)) + 2 * REPORT) * min(TRACED, images)
    single = (_passes(build_attack("FGSM")) + REPORT) * images
    return void + large + traced + single + _blind(own, relatives) * images + _more_steps(own, images)


def _blind(own: Attack, relatives: int) -> int:
    """On every image: noise, a black box and the relatives' gradients."""
    if own.targeted:
        return 0
    transfer = _passes(build_attack(strength.TRANSFER, steps=strength.TRANSFER_STEPS)) + REPORT
    queries = strength.QUERIES + REPORT
    if own.norm in ATTACKS[strength.BLACK_BOX].norms:
        queries += _passes(build_attack(strength.BLACK_BOX, steps=strength.BLACK_BOX_QUERIES)) + REPORT
    return queries + transfer * relatives


def _more_steps(own: Attack, images: int) -> int:
    longer = strength.compared_with(own)
    if longer is None:
        return 0
    return (_passes(longer) + (not own.minimum_norm) * REPORT) * min(strength.images_for(longer), images)


def _passes(attack: Attack) -> int:
    return sum(attack.passes())
