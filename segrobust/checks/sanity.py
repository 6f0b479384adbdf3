"""Do the attacks behave as attacks must on this model?"""

from __future__ import annotations

from segrobust.attacks.base import Answer, Attack, Problem
from segrobust.attacks.gradient import Engine
from segrobust.attacks.registry import build_attack
from segrobust.attacks.segmentation import Goal
from segrobust.checks.base import (
    FAIL,
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
from segrobust.checks.context import Context, mean, refuse_transfer, saw_another, shortened
from segrobust.checks.contract import random
from segrobust.core.units import format_eps
from segrobust.models.expectation import drawing
from segrobust.models.segmenter import frozen_eval
from segrobust.studies.outcomes import Group

TRACED, TRACED_STEPS = 8, 10
FEW = 4


def eight_bits(context: Context) -> Verdict:
    """Attacked images survive being saved as PNG."""
    refuse_transfer(context)
    traces = context.traces(TRACED, TRACED_STEPS)
    lost = mean(one.returned - one.rounded for one in traces)
    return verdict(
        graded(lost, warn=1),
        f"rounding the attacked images to 8 bits gives back {lost:.2f} points of aAcc ({_about(traces)})",
        "do not judge saved PNGs by these scores; --save-adversarial keeps exact float files",
        lost_points=lost,
        images=len(traces),
    )


def void_ignored(context: Context) -> Verdict:
    """What stands below a void label does not matter."""
    model_void = getattr(context.model, "ignore_index", context.void)
    attacks = [shortened(attack, 3) for attack in _kinds(context)]
    groups = [one for one in context.singles(TRACED) if (one.labels == context.void).any()][:FEW]
    moved = [attack.name for attack in attacks if any(_moved_by_void(context, attack, group) for group in groups)]
    numbers = {"attacks": [attack.name for attack in attacks], "moved": moved, "images": len(groups)}
    numbers |= {"void_of_data": context.void, "void_of_model": model_void}
    if moved:
        text = f"other labels at void pixels change the result of {', '.join(moved)}"
        return verdict(FAIL, text, "leave void pixels out of the attack's loss and bookkeeping", **numbers)
    if model_void != context.void:
        text = f"void is {model_void} for the model, {context.void} in the data"
        return verdict(WARN, text, "give model and data set the same ignore_index, and train with it", **numbers)
    if not groups:
        raise NotApplicable(f"no image of the subset has a void pixel ({context.void})")
    text = f"other labels at void pixels of {len(groups)} images leave {', '.join(numbers['attacks'])} as it was"
    return verdict(PASS, text, **numbers)


def _kinds(context: Context) -> list[Attack]:
    """The run's strongest attack or, in the full tier, one of each kind."""
    if not context.full:
        return [context.own]
    return list({type(job.attack): job.attack for job in context.attempts.values()}.values()) or [context.own]


def _moved_by_void(context: Context, attack: Attack, group: Group) -> bool:
    """Whether the attack goes elsewhere where void pixels hold another class; both runs bypass its own masking.

    A randomised model draws the same in both.
    """
    wanted = group.targets if attack.targeted else group.labels
    valid = (group.labels != context.void) & (wanted != context.void)
    classes = context.model.num_classes
    points = []
    for below in (0, classes - 1):
        labels = wanted.masked_fill(~valid, below)
        seeds = tuple(context.seeds(group))
        engine = Engine(context.white_box(group), Goal(labels, valid, attack.targeted))
        with frozen_eval(context.model), drawing(seeds, context.evaluation.device):
            answer = Answer(*attack.run(Problem(engine, group.images.float(), seeds)))
        points.append(answer.points)
    return not points[0].equal(points[1])


MASKED_OR_WRONG = "a single step beats the iterations: masked gradients or a wrong step size, as other checks may tell"


def iterative_beats_single_step(context: Context) -> Verdict:
    """FGSM against the run's best iterative attack at the same radius."""
    if reason := saw_another(context):
        text = f"{reason}: transfer overrates every model"
        return verdict(WARN, text, "evaluate without --surrogate as well, and report that")
    norm, eps = context.radius
    rival = build_attack("FGSM", norm=norm, eps=eps, targeted=context.own.targeted)
    iterative = {name: s for name, s in context.at_radius().items() if context.attempts[name].attack.name != "FGSM"}
    if not iterative:
        text = "the run has no iterative attack: single steps overrate every model"
        return verdict(WARN, text, "add an iterative attack, such as --attack tsallis-pgd")
    single = mean(context.shares_under(rival))
    name, best = max(((name, mean(shares)) for name, shares in iterative.items()), key=lambda one: one[1])
    level, remedy = graded(single - best, fail=NOISE), MASKED_OR_WRONG
    if level == FAIL and context.attempts[name].minimum_norm:
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
    at_64 = mean(100 * float(context.call(far, one, masked=False).pixel_error) for one in images)
    text = f"{at_64:.2f} % of the pixels of {len(images)} images fall at Linf 64/255"
    everywhere = at_64  # where that is not yet all, the bound may be the reason
    if at_64 < ALL:
        everywhere = mean(100 * float(context.call(unbounded, one, masked=False).pixel_error) for one in images)
        text += f", {everywhere:.2f} % without a bound"
    return verdict(
        graded(ALL - everywhere, fail=0),
        text,
        "an attack without a bound must succeed: the gradients mislead it (masking, randomness); see their own checks",
        apsr_64_255_percent=at_64,
        apsr_unbounded_percent=everywhere,
    )


def nothing_missed(context: Context) -> Verdict:
    """The returned image is the best that the attack saw."""
    refuse_transfer(context)
    if random(context):
        raise Skip("two forwards of the same batch differ already: the best may have been a lucky draw")
    traces = context.traces(TRACED, TRACED_STEPS)
    attack = traces[0].attack
    if getattr(attack, "quantise", False):
        raise NotApplicable(f"{attack.name} returns 8-bit images, and sees others on its way")
    missed = mean(one.missed for one in traces)
    unit = "% of the norm" if attack.minimum_norm else "points"
    return verdict(
        graded(missed, warn=0.1, fail=1),
        f"the best image on the way beats the returned one by {missed:.3g} {unit} ({_about(traces)})",
        "let the attack return its best iterate (keep='best'), not its last",
        missed=missed,
        images=len(traces),
    )


def _about(traces: list) -> str:
    attack = traces[0].attack
    where = "" if attack.minimum_norm else f" at {format_eps(attack.eps, attack.norm)}"
    steps = f", {attack.steps} steps" if hasattr(attack, "steps") else ""
    return f"{attack.name}{where}{steps}, {len(traces)} images"


CHECKS = (
    Check("survives 8 bits", eight_bits),
    Check("void ignored", void_ignored, essential=True),
    Check("iterations beat a single step", iterative_beats_single_step, essential=True),
    Check("a large radius breaks everything", large_radius_breaks, essential=True),
    Check("best image returned", nothing_missed, essential=True),
)
