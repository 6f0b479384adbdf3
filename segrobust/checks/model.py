"""Does the model keep the contract that every attack relies on?"""

from __future__ import annotations

from segrobust.checks.context import Context
from segrobust.checks.probe import CHANGED_PERCENT, floating_types, probe, refuse_random
from segrobust.checks.repeats import FACTOR
from segrobust.checks.verdicts import FAIL, FOLLOWING, INFO, PASS, WARN, Check, Skip, Verdict, graded, verdict
from segrobust.core.precision_names import FLOAT32
from segrobust.models.digests import weights_sha256

SHOWN = 3


def unchanged(context: Context) -> Verdict:
    """Weights and buffers as before the run, every module in eval mode."""
    seen = probe(context)
    whole = not context.altered and weights_sha256(context.model) == context.identity["weights_sha256"]
    numbers = {
        "weights_as_before_the_run": whole,
        "changed_by_the_checks": len(seen.changed_state),
        "modules_in_training_mode": len(seen.training),
    }
    if seen.training:
        text = f"{len(seen.training)} modules in training mode after a forward ({_some(seen.training)})"
        return verdict(FAIL, text, "the forward must not switch modules to training mode; remove that call", **numbers)
    if seen.changed_state or not whole:
        what = f"a forward changes {_some(seen.changed_state)}" if seen.changed_state else "changed during the run"
        return verdict(
            FAIL,
            f"weights or buffers are not what they were: {what}",
            "let batch normalisation use its stored statistics: evaluate in eval mode, update no buffer in forward",
            **numbers,
        )
    return verdict(PASS, "all parameters and buffers as before the run, no module in training mode", **numbers)


def deterministic(context: Context) -> Verdict:
    """The same batch twice."""
    seen, seeded = probe(context).repeated, probe(context).seeded
    numbers = {
        "changed_percent": seen.percent,
        "largest_relative_difference": seen.largest,
        "under_one_seed": seeded.largest,
    }
    text = f"{seen.percent:.3g} % of the pixels change their class between two forwards, logits by {seen.largest:.2g}"
    if seeded.beyond_rounding:
        text += "; under one seed too, so another start of this run finds other numbers"
        remedy = "draw from the global generators of torch, numpy or Python, which are seeded here, not from one's own"
        return verdict(WARN, text, remedy, **numbers)
    if seen.beyond_rounding:
        return verdict(WARN, text, "attack the mean over several draws (EOT) and report scores over several", **numbers)
    return verdict(INFO if seen.largest else PASS, text, **numbers)


def batch_invariant(context: Context) -> Verdict:
    """An image alone and among others, by more than it differs from itself."""
    refuse_random(context)
    seen, twice = probe(context).alone, probe(context).repeated
    return verdict(
        graded(seen.percent, warn=max(CHANGED_PERCENT, FACTOR * twice.percent)),
        f"{seen.percent:.3g} % of the pixels change their class in another batch, logits by {seen.largest:.2g}",
        "an image's result depends on its neighbours: no statistics over the batch in forward, or --batch-size 1",
        changed_percent=seen.percent,
        largest_relative_difference=seen.largest,
    )


def logits(context: Context) -> Verdict:
    """Logits, not probabilities."""
    seen = probe(context)
    inside = 100 * seen.bounded / max(seen.pixels, 1)
    return verdict(
        graded(inside, warn=99),
        f"{inside:.4g} % of the pixels have all outputs inside [0, 1], as probabilities have",
        "return the logits before softmax or sigmoid: a second softmax flattens every attack's gradient",
        inside_unit_interval_percent=inside,
    )


def plain_inference(context: Context) -> Verdict:
    """No random numbers and no optimisation inside the forward."""
    seen = probe(context)
    numbers = {"random_operations": sorted(seen.sampled), "autograd_in_forward": seen.differentiated}
    if not seen.sampled and not seen.differentiated:
        return verdict(PASS, "the forward draws no random number and does not use autograd", **numbers)
    found = [f"draws random numbers ({_some(sorted(seen.sampled))})"] * bool(seen.sampled)
    found += ["switches autograd on"] * seen.differentiated
    remedy = "standard attacks overrate such defences: average over draws (EOT) or attack through the optimisation"
    return verdict(WARN, f"the forward {' and '.join(found)}", remedy, **numbers)


def one_path(context: Context) -> Verdict:
    """The forward that is attacked is the one that is reported."""
    refuse_random(context)
    seen = probe(context)
    if seen.broken:
        raise Skip("there is no attacked forward to compare")
    twice, level = seen.repeated, PASS
    text = f"{seen.attacked.percent:.3g} % of the pixels differ between attacked and reported forward, logits by "
    text += f"{seen.attacked.largest:.2g}"
    if seen.attacked.beyond_rounding:
        level = FAIL if seen.attacked.beyond(twice, FACTOR) else WARN
    if twice.largest:
        text += f"; two reported ones differ by {twice.percent:.3g} % and {twice.largest:.2g} already"
    return verdict(
        level,
        text,
        "the model computes something else where a gradient is wanted; use one inference path for both",
        changed_percent=seen.attacked.percent,
        largest_relative_difference=seen.attacked.largest,
    )


def full_precision(context: Context) -> Verdict:
    """Gradients and predictions in float32. The logits do not tell: a segmenter casts them."""
    seen, own = probe(context), context.bench.precision
    reduced = [] if own == FLOAT32 else [f"the attacks compute in {own} (--precision {own})"]
    kinds = {"has weights": floating_types(context.model.parameters()), "computes": seen.dtypes}
    for what, found in kinds.items():
        reduced += [f"the model {what} in {name}" for name in sorted(found - {"float32", "float64"})]
    reduced += [f"the model lets products be rounded to {name}" for name in sorted(seen.rounded)]
    if not reduced:
        return verdict(PASS, "float32 throughout", reduced=[])
    remedy = "rounding can hide gradients: repeat a few images without --precision and --amp, and with a model that "
    remedy += "leaves torch's autocast and fp32_precision alone"
    return verdict(WARN, "; ".join(reduced), remedy, reduced=reduced)


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


CHECKS = (
    Check("model unchanged, in eval mode", unchanged, unfinished=True, essential=True),
    Check("deterministic forward", deterministic, unfinished=True, essential=True),
    Check("independent of the batch", batch_invariant, unfinished=True, essential=True),
    Check("logits, not probabilities", logits, unfinished=True, essential=True, studies=FOLLOWING),
    Check("forward neither samples nor optimises", plain_inference, unfinished=True, studies=FOLLOWING),
    Check("attacked forward is the reported one", one_path, unfinished=True, essential=True, studies=FOLLOWING),
    Check("full precision", full_precision, unfinished=True),
)
