"""Do the numbers make sense, and are they enough? Read from rows and summary."""

from __future__ import annotations

import math
from collections import defaultdict
from itertools import combinations
from typing import Any

import numpy as np

from segrobust.analysis.worst_case import WORST_CASE
from segrobust.checks.context import FEWEST, Context, is_single_step
from segrobust.checks.verdicts import FAIL, NOISE, PASS, WARN, Check, Skip, Verdict, graded, verdict
from segrobust.core.rows import ATTACK, CLEAN, Condition
from segrobust.core.units import format_eps

FEWEST_PIXELS = 10_000  # with a label


def monotone(context: Context) -> Verdict:
    """A larger radius never helps the model; a single step (FGSM) may overshoot and is left out."""
    lines: dict[tuple[str, str], dict[float | None, dict[int, float]]] = defaultdict(dict)
    for one in context.attempts:
        if one.eps is not None and context.shares.get(one) and not is_single_step(one):
            lines[one.name, one.norm][one.eps] = context.shares[one]
    steps = []
    for (name, norm), by_radius in lines.items():
        radii = sorted(by_radius)
        by_radius[None] = context.shares[context.clean]
        for small, large in zip([None, *radii], radii, strict=False):
            before, after = by_radius[small], by_radius[large]
            lost = np.array([before[image] - after[image] for image in after if image in before])
            steps.append((name, norm, small, large, lost))
    if not steps:
        raise Skip("no iterative attack of the run has a radius")
    name, norm, small, large, lost = max(steps, key=lambda step: step[-1].mean())
    worse = float(lost.mean())
    noise = 2 * float(lost.std(ddof=1)) / math.sqrt(len(lost)) if len(lost) > 1 else 0.0
    images = float(np.mean(np.concatenate([step[-1] for step in steps]) > 1))
    start = "clean" if small is None else format_eps(small, norm)
    level = FAIL if worse > max(NOISE, noise) else WARN if worse > NOISE else PASS
    return verdict(
        level,
        f"{len(steps)} steps to a larger radius; the least gain is {-worse:.2f} points of the pixels, by {name} "
        f"from {start} to {format_eps(large, norm)}; {100 * images:.1f} % of the images lose more than a point",
        "the attack does not use its room: more steps, a step size that fits the radius, or masked gradients",
        steps=len(steps),
        largest_loss_points=worse,
        images_that_lose_percent=100 * images,
    )


SAME = 90.0  # percent


def attacks_differ(context: Context) -> Verdict:
    """No two attacks with the same results."""
    clean = {row.image: row.counts for row in context.rows if row.condition == context.clean}
    counts: dict[Condition, dict[int, Any]] = defaultdict(dict)
    bounded = {one for one in context.attempts if one.eps}
    for row in context.rows:  # all broken is the same for all, and so is unharmed
        if row.condition in bounded and sum(row.counts["tp"]) and row.counts != clean.get(row.image):
            counts[row.condition][row.image] = row.counts
    compared = []
    for one, other in combinations(sorted(counts, key=lambda one: one.order), 2):
        common = counts[one].keys() & counts[other].keys()
        if len(common) >= 3:
            same = 100 * sum(counts[one][image] == counts[other][image] for image in common) / len(common)
            compared.append((same, [one.title, other.title], len(common)))
    if not compared:
        raise Skip("no two results with at least three images that are harmed and not wholly broken")
    same, titles, images = max(compared)
    return verdict(
        graded(same, warn=SAME),
        f"{len(compared)} pairs; most alike are {titles[0]} and {titles[1]}, equal on {same:.0f} % of {images} images",
        "equal integers from different attacks: a result filed twice, or attacks that do the same",
        pairs=len(compared),
        most_equal_percent=same,
        pair=titles,
    )


HALF_WIDTH = 2.0  # points


def enough_images(context: Context) -> Verdict:
    """Enough different images and labelled pixels, and narrow 95 % intervals of mIoU."""
    clean = [row for row in context.rows if row.condition == context.clean]
    judged = [row for row in clean if row.goal_counts[1]]
    pixels = sum(row.goal_counts[1] for row in judged)
    kind = "labelled pixels" + " that have a target" * bool(context.bench.target)
    if not pixels:
        text = f"nothing was measured: no pixel of {len(clean)} images has a label"
        remedy = f"every pixel is void ({context.void}): look at the labels and at how they are read"
        return verdict(FAIL, text, remedy, images=0, labelled_pixels=0)
    listed = context.folder.images().entries
    images = len({listed[row.image]["sha256"] for row in judged})
    halves = {}
    for record in context.summary:
        if record["study"] in (CLEAN, WORST_CASE) and "mIoU" in record["ci"]:
            where = "clean" if record["eps"] is None else format_eps(record["eps"], record["norm"])
            low, high = record["ci"]["mIoU"] or (-math.inf, math.inf)
            halves[where] = (high - low) / 2
    where, half = max(halves.items(), key=lambda one: one[1])
    width = f"+-{half:.2f} points" if math.isfinite(half) else "unknown"
    few = images < FEWEST or pixels < FEWEST_PIXELS
    return verdict(
        WARN if few else graded(half, warn=HALF_WIDTH),
        f"95 % interval of mIoU over {images} different images with {pixels} {kind}: {width} at its widest "
        f"({where})" + (f"; at least {FEWEST} and {FEWEST_PIXELS} are needed to say more" if few else ""),
        "more images: with --num-images larger, or left out",
        images=images,
        labelled_pixels=pixels,
        half_width_points=halves,
    )


CHECKS = (
    Check("monotone in the radius", monotone, studies=(ATTACK,)),
    Check("attacks differ", attacks_differ, studies=(ATTACK,)),
    Check("enough images", enough_images, essential=True),
)
