"""Can the model be attacked through its gradient at all, and is it the gradient of what it computes?"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor

from segrobust.attacks import weights
from segrobust.attacks.gradient import Engine, ModelError
from segrobust.attacks.segmentation import Goal
from segrobust.checks.context import Context
from segrobust.checks.probe import probe
from segrobust.checks.verdicts import FAIL, FOLLOWING, PASS, WARN, Check, Skip, Verdict, graded, verdict
from segrobust.core.errors import first_line
from segrobust.models.expectation import drawing
from segrobust.models.segmenter import frozen_eval
from segrobust.studies.bench import Group

MASKED = "white-box attacks see no gradient there: attack a smooth version (BPDA), or without gradients"

SATURATED = "the softmax rounds to 0 and 1: divide the logits by a constant, which changes no prediction"


def usable(context: Context) -> Verdict:
    """Gradients exist, are finite, and reach the pixels."""
    seen = probe(context)
    if seen.broken:
        remedy = "no attack can follow this: return differentiable, finite logits, or attack without gradients"
        return verdict(FAIL, seen.broken, remedy, error=seen.broken)
    pixels, saturated = (100 * part / max(seen.valid, 1) for part in (seen.still, seen.saturated))
    return verdict(
        graded(max(pixels, saturated), warn=1, fail=50),
        f"no gradient at {pixels:.3g} % of the pixels; cross-entropy saturated at {saturated:.3g} %",
        MASKED if pixels >= saturated else SATURATED,
        pixels_without_gradient_percent=pixels,
        saturated_pixels_percent=saturated,
        dtypes=sorted(seen.dtypes),
    )


SIDE = 64  # of the crop, in pixels
DIRECTIONS = 4
FINE, COARSE = 1e-7, 4 / 255
TOLERANCE = 0.01
MAY_KINK = 1  # direction in which a ReLU may turn within the difference


def correct(context: Context) -> Verdict:
    """Autograd's slope against finite differences of the loss, of a copy of the model in float64."""
    with drawing((context.bench.seed,), context.bench.device):
        return _agreement(*_in_double(context))


def _agreement(loss: Callable[[Tensor], float], gradient: Tensor) -> Verdict:
    directions = _directions(gradient)
    slopes = [float((gradient * direction).sum()) for direction in directions]
    measured = [(loss(FINE * one) - loss(-FINE * one)) / (2 * FINE) for one in directions]
    scale = max(map(abs, slopes + measured))
    errors = [abs(one - other) / max(abs(one), abs(other), 1e-6 * scale, 1e-12) for one, other in
              zip(slopes, measured, strict=True)]  # fmt: skip
    wrong = sum(error > TOLERANCE for error in errors)
    numbers = {"largest_relative_error": max(errors), "wrong_directions": wrong, "directions": len(directions)}
    if scale == 0:
        moves = abs(loss(COARSE * directions[0]) - loss(0 * directions[0]))
        numbers["loss_change_at_4_255"] = moves
        text = f"the gradient is zero everywhere, yet the loss changes by {moves:.3g} over 4/255"
        return verdict(WARN if moves > 0 else PASS, text, MASKED, **numbers)
    return verdict(
        WARN if wrong > MAY_KINK else PASS,
        f"slope and finite difference of a float64 copy agree in {len(errors) - wrong} of {len(errors)} directions "
        f"(largest relative error {max(errors):.2g})",
        "the gradient is not that of the output (straight-through, hook, noise?): attack without gradients as well",
        **numbers,
    )


def _in_double(context: Context) -> tuple[Callable[[Tensor], float], Tensor]:
    """``_loss_on`` a crop from the middle or, where the model takes no such size, the whole of an image.

    Raises:
        Skip: the model cannot be copied, does not run in float64, or has no gradient.
    """
    group = context.singles(1)[0]
    top, left = (max(0, (side - SIDE) // 2) for side in group.labels.shape[1:])
    crop = (..., slice(top, top + SIDE), slice(left, left + SIDE))
    if not (group.labels[crop] != context.void).any():
        return _loss_on(context, group, (...,))
    try:
        return _loss_on(context, group, crop)
    except Skip:
        return _loss_on(context, group, (...,))


def _loss_on(context: Context, group: Group, crop: tuple) -> tuple[Callable[[Tensor], float], Tensor]:
    """The loss as a function of a change of a part of an image, and its gradient there, in float64."""
    labels, image = group.labels[crop], group.images[crop].double()
    # flat regions tie in max-pooling, where no gradient is right: a little noise unties them
    noise = torch.rand(image.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    image = image.lerp(noise.to(image), 1 / 255)
    valid = labels != context.void
    if not valid.any():
        raise Skip("the image has no labelled pixel")
    try:
        model = deepcopy(context.model).double()
        engine = Engine(model, Goal(labels.masked_fill(~valid, 0), valid))
        with frozen_eval(model):
            gradient = engine.gradient(image, weights.ce, 0.0).gradient
    except ModelError as error:
        raise Skip(f"there is no gradient to compare: {error}") from error
    except Exception as error:  # models fail in their own ways on another type or size
        raise Skip(f"the model does not run in float64: {first_line(error)[:120]}") from error

    def loss(change: Tensor) -> float:
        with frozen_eval(model):
            return float(engine.measure(image + change).ce.sum() * valid.sum())

    return loss, gradient


def _directions(gradient: Tensor) -> list[Tensor]:
    """Its own sign, where the slope is largest, and random ones; the largest value of each is 1 at most."""
    generator = torch.Generator().manual_seed(0)
    draws = (torch.rand(gradient.shape, generator=generator, dtype=torch.float64) for _ in range(DIRECTIONS))
    mixed = [(2 * draw - 1).to(gradient) for draw in draws]
    return [gradient.sign(), *mixed[1:]] if gradient.any() else mixed


CHECKS = (
    Check("gradient usable", usable, unfinished=True, essential=True, studies=FOLLOWING),
    Check("gradient correct", correct, unfinished=True, essential=True, studies=FOLLOWING),
)
