"""Did the run's attacks do something, and do they behave as attacks must on this model?"""

from __future__ import annotations

import functools
import math

from torch import Tensor

from segrobust.attacks.base import Answer, Attack, Problem
from segrobust.attacks.gradient import Engine
from segrobust.attacks.registry import build_attack
from segrobust.attacks.segmentation import Goal
from segrobust.checks.again import (
    Trace,
    call,
    refuse_transfer,
    saw_another,
    shares_under,
    shortened,
    traced_again,
    traces,
)
from segrobust.checks.context import Context, is_single_step, mean
from segrobust.checks.probe import refuse_random
from segrobust.checks.repeats import FACTOR, Apart, apart, attacks_repeat
from segrobust.checks.verdicts import (
    FAIL,
    FOLLOWING,
    NOISE,
    PASS,
    WARN,
    Check,
    NotApplicable,
    Skip,
    Verdict,
    graded,
    verdict,
)
from segrobust.core.draws import Draws
from segrobust.core.precision_names import FLOAT32
from segrobust.core.rows import ATTACK, CLEAN
from segrobust.core.threats import allowed
from segrobust.core.units import format_eps
from segrobust.models.expectation import drawing
from segrobust.models.precision import computing_in
from segrobust.models.segmenter import frozen_eval
from segrobust.studies.bench import Group

MATTERS = {"Linf": 0.1 / 255, "L2": 1 / 255, "L1": 1 / 255}  # L2 and L1: one value of one pixel by one 8-bit level


def something_attacked(context: Context) -> Verdict:
    """Every attack that tries, and every universal perturbation, has moved an image by what can matter."""
    tried = {one for one in context.conditions if one.study in FOLLOWING and one.norm in MATTERS}
    tried = {one for one in tried if not one.control and not one.candidate}
    if not tried:
        return _nothing_tries(context)
    judged = {image for shares in context.shares.values() for image in shares}
    if not judged:
        raise Skip("no image of the run has a labelled pixel: nothing was measured")
    farthest = {(one.name, one.norm): 0.0 for one in sorted(tried, key=lambda one: one.order)}
    for row in context.rows:
        if row.condition in tried and row.image in judged:
            key = row.condition.name, row.condition.norm
            farthest[key] = max(farthest[key], row.extra["distance"])
    idle = [key for key in farthest if farthest[key] < MATTERS[key[1]]]
    text = ", ".join(f"{name} by {_length(farthest[name, norm], norm)}" for name, norm in idle or farthest)
    moved = {name: distance for (name, _), distance in farthest.items()}
    if not idle:
        return verdict(PASS, f"farthest that each attack moved an image: {text}", moved=moved)
    nothing = len(idle) == len(farthest)
    remedy = "these rows are those of the clean images: choose radii such as 1/255 to 8/255, and an attack that moves"
    text = f"{'nothing was attacked' if nothing else 'an attack did nothing'}: no image was moved farther than {text}"
    still = all(distance <= allowed(norm, 0.0) for (_, norm), distance in farthest.items())
    return verdict(FAIL if nothing and still else WARN, text, remedy, moved=moved)


def _nothing_tries(context: Context) -> Verdict:
    """A warning, unless the run is about something else than attacks."""
    kinds = {one.study for one in context.conditions} - {CLEAN}
    if kinds and ATTACK not in kinds:
        raise NotApplicable(f"the run has no attack, but {' and '.join(sorted(kinds))}")
    others = ", ".join(dict.fromkeys(one.name for one in context.conditions if one.study == ATTACK)) or "nothing"
    text = f"nothing was attacked: beside the clean images the run has {others}, and no attack that tries"
    return verdict(WARN, text, "add an attack, such as --attack tsallis-pgd", moved={})


def _length(distance: float, norm: str) -> str:
    if not math.isfinite(distance):
        return "no limit"
    return f"{255 * distance:.3g}/255" if norm == "Linf" else f"{norm} {distance:.3g}"


FEW = 4


def eight_bits(context: Context) -> Verdict:
    """Attacked images survive being saved as PNG."""
    refuse_transfer(context)
    seen = traces(context)
    lost = mean(one.returned - one.rounded for one in seen)
    return verdict(
        graded(lost, warn=1),
        f"rounding the attacked images to 8 bits gives back {lost:.2f} points of aAcc ({_about(seen)})",
        "do not judge saved PNGs by these scores; --save-adversarial keeps exact float files",
        lost_points=lost,
        images=len(seen),
    )


VOID_IMAGES = 2


def void_ignored(context: Context) -> Verdict:
    """What stands below a void label does not matter, by more than the attack differs from itself."""
    model_void = getattr(context.model, "ignore_index", context.void)
    kinds = {type(study.attack): study.attack for study in context.attacks if not study.attack.control}
    attacks = [shortened(attack, 3) for attack in kinds.values() or [context.own]]
    singles = context.singles(2 * FEW, judged=context.bench.target is not None)
    groups = [one for one in singles if (one.labels == context.void).any()][:VOID_IMAGES]
    seen = [(attack.name, _apart_by_void(context, attack, group)) for attack in attacks for group in groups]
    moved = list(dict.fromkeys(name for name, one in seen if one.differs))
    numbers = {"attacks": [attack.name for attack in attacks], "moved": moved, "images": len(groups)}
    numbers |= {"void_of_data": context.void, "void_of_model": model_void}
    numbers |= {"largest_between": max((one.between for _, one in seen), default=0.0)}
    numbers |= {"largest_between_repeats": max((one.within for _, one in seen), default=0.0)}
    if moved:
        text = f"other labels at void pixels change the result of {', '.join(moved)}"
        if differing := [one for _, one in seen if one.differs and one.within]:
            text += f" ({differing[0].text})"
        return verdict(FAIL, text, "leave void pixels out of the attack's loss and bookkeeping", **numbers)
    if model_void != context.void:
        text = f"void is {model_void} for the model, {context.void} in the data"
        return verdict(WARN, text, "give model and data set the same ignore_index, and train with it", **numbers)
    if not groups:
        raise NotApplicable(f"no image of the subset has a void pixel ({context.void})")
    text = f"other labels at void pixels of {len(groups)} images leave {', '.join(numbers['attacks'])} as it was"
    name, worst = max(seen, key=lambda one: one[1].within)
    if worst.within:
        text += f", as far as it repeats at all ({name}: {worst.text})"
    remedy = "attacks hardly repeat here: run on a CPU, or without what draws or sums in another order each time"
    return verdict(WARN if worst.hidden else PASS, text, remedy, **numbers)


def _apart_by_void(context: Context, attack: Attack, group: Group) -> Apart:
    """How far apart the attack ends where void pixels hold another class; both runs bypass its own masking.

    A randomised model draws the same in both.
    """
    wanted = group.targets if attack.targeted else group.labels
    valid = (group.labels != context.void) & (wanted != context.void)
    clean, seeds, device = group.images.float(), tuple(context.bench.seeds(group)), context.bench.device
    highest = context.model.num_classes - 1

    def run(below: int) -> Tensor:
        labels = wanted.masked_fill(~valid, below)
        engine = Engine(context.bench.attacked(seeds), Goal(labels, valid, attack.targeted, highest))
        with frozen_eval(context.model), drawing(seeds, device), computing_in(FLOAT32, device):
            answer = Answer(*attack.run(Problem(engine, clean, Draws.of(seeds, device))))
            engine.check_finite()
        return answer.points

    runs = tuple(functools.partial(run, below) for below in (0, highest))
    return apart(runs, clean, attacks_repeat(context))


MASKED_OR_WRONG = "a single step beats the iterations: masked gradients or a wrong step size, as other checks may tell"


def iterative_beats_single_step(context: Context) -> Verdict:
    """FGSM against the run's best iterative attack at the same radius."""
    if reason := saw_another(context):
        text = f"{reason}: transfer overrates every model"
        return verdict(WARN, text, "evaluate without --surrogate as well, and report that")
    norm, eps = context.radius
    rival = build_attack("FGSM", norm=norm, eps=eps, targeted=context.own.targeted)
    iterative = {one.name: shares for one, shares in context.at_radius().items() if not is_single_step(one)}
    if not iterative:
        text = "the run has no iterative attack: single steps overrate every model"
        return verdict(WARN, text, "add an iterative attack, such as --attack tsallis-pgd")
    single = mean(shares_under(context, rival))
    name, best = max(((name, mean(shares)) for name, shares in iterative.items()), key=lambda one: one[1])
    level, remedy = graded(single - best, fail=NOISE), MASKED_OR_WRONG
    if level == FAIL and name in context.searches:
        level, remedy = WARN, "minimum-norm attacks look for distances: add a bounded attack for scores at a radius"
    return verdict(
        level,
        f"{name} takes {best:.2f} % of the pixels, FGSM {single:.2f} % at {format_eps(eps, norm)}",
        remedy,
        iterative_percent=best,
        single_step_percent=single,
        attack=name,
    )


ALL = 99.0  # percent of the pixels, as for a broken image


def large_radius_breaks(context: Context) -> Verdict:
    """With enough room every pixel falls."""
    # steps of one size throughout leave 4 % of the pixels of an honest robust model, shrinking ones next to none
    settings = {"steps": 40, "optimiser": "pgd", "step_schedule": "cosine", "radius_reduction": False}
    far, unbounded = (build_attack("MaskedPGD", eps=eps, **settings) for eps in ("64/255", 1.0))
    images = context.singles(FEW, judged=True)
    at_64 = mean(100 * float(call(context, far, one, masked=False).pixel_error) for one in images)
    text = f"{at_64:.2f} % of the pixels of {len(images)} images fall at Linf 64/255"
    everywhere = at_64  # where that is not yet all, the bound may be the reason
    if at_64 < ALL:
        everywhere = mean(100 * float(call(context, unbounded, one, masked=False).pixel_error) for one in images)
        text += f", {everywhere:.2f} % without a bound"
    return verdict(
        graded(ALL - everywhere, fail=0),
        text,
        "an attack without a bound must succeed: the gradients mislead it (masking, randomness); see their own checks",
        apsr_64_255_percent=at_64,
        apsr_unbounded_percent=everywhere,
    )


MISSED = (0.1, 1.0)  # points or percent of the norm, from which on to warn and to fail


def nothing_missed(context: Context) -> Verdict:
    """The returned image is the best that the attack saw."""
    refuse_transfer(context)
    refuse_random(context, ": the best may have been a lucky draw")
    seen = traces(context)
    attack = seen[0].attack
    if getattr(attack, "quantise", False):
        raise NotApplicable(f"{attack.name} returns 8-bit images, and sees others on its way")
    missed, differ, told = mean(one.missed for one in seen), 0.0, ""
    if missed > MISSED[0] and (again := traced_again(context)) != seen:
        pairs = [(one.missed, other.missed) for one, other in zip(seen, again, strict=True)]
        missed, differ = mean(map(min, pairs)), mean(abs(one - other) for one, other in pairs)
        told = f"; the attack does not repeat, by {differ:.3g}, and {FACTOR:g} times as much would count"
    unit = "% of the norm" if attack.minimum_norm else "points"
    return verdict(
        graded(missed, warn=MISSED[0], fail=MISSED[1] + FACTOR * differ),
        f"the best image on the way beats the returned one by {missed:.3g} {unit} ({_about(seen)}){told}",
        "let the attack return its best iterate (keep='best'), not its last",
        missed=missed,
        images=len(seen),
    )


def _about(seen: list[Trace]) -> str:
    attack = seen[0].attack
    where = "" if attack.minimum_norm else f" at {format_eps(attack.eps, attack.norm)}"
    steps = f", {attack.steps} steps" if hasattr(attack, "steps") else ""
    return f"{attack.name}{where}{steps}, {len(seen)} images"


CHECKS = (
    Check("something was attacked", something_attacked, essential=True),
    Check("survives 8 bits", eight_bits, studies=(ATTACK,)),
    Check("void ignored", void_ignored, essential=True, studies=(ATTACK,)),
    Check("iterations beat a single step", iterative_beats_single_step, essential=True, studies=(ATTACK,)),
    Check("a large radius breaks everything", large_radius_breaks, essential=True, studies=FOLLOWING),
    Check("best image returned", nothing_missed, essential=True, studies=(ATTACK,)),
)
