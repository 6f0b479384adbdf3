"""Do the numbers make sense, and are they enough? Read from rows and summary."""

from __future__ import annotations

import hashlib
import math
import sys
from collections import defaultdict
from itertools import combinations

import numpy as np
import torch

from segrobust.analysis.summary import CLEAN, WORST_CASE
from segrobust.checks.base import FAIL, INFO, PASS, WARN, Check, Skip, Verdict, graded, verdict
from segrobust.checks.context import Context
from segrobust.core.rows import Row
from segrobust.core.threats import THREATS
from segrobust.core.units import format_eps

FEWEST = 16  # images whose interval says something about others: rare classes are missing on fewer
FEWEST_PIXELS = 10_000  # with a label


def clean_score(context: Context) -> Verdict:
    """The clean score is the one the model is known for."""
    declared = (context.declared or {}).get("mIoU")
    if declared is None:
        raise Skip("no declared score; a config may have declared = dict(mIoU=PERCENT, images=NUMBER)")
    clean = next(record for record in context.summary if record["attack"] == CLEAN)
    measured, interval = clean["mIoU"], clean["ci"]["mIoU"]
    gap = abs(measured - declared)
    # a part of the images may differ by chance: the gap beyond the interval counts, and it must be clear to fail
    whole = context.declared.get("images", clean["images"]) == clean["images"]
    if not whole and clean["images"] < FEWEST:
        raise Skip(f"declared on other images, and {clean['images']} are too few to compare (at least {FEWEST})")
    low, high = (measured, measured) if whole else interval
    beyond = max(low - declared, declared - high, 0.0)
    fail = 1.0 if whole else 1.0 + (high - low) / 2
    return verdict(
        graded(beyond, warn=0.3, fail=fail),
        f"clean mIoU {measured:.2f}, declared {declared:.2f}"
        + ("" if whole else f" on other images; 95 % interval here {low:.2f} to {high:.2f}"),
        "check normalisation, channel order, input size, label map and weights before believing any robust score",
        measured=measured,
        declared=declared,
        gap=gap,
        images=clean["images"],
    )


NOISE = 0.5  # points


def monotone(context: Context) -> Verdict:
    """A larger radius never helps the model; a single step (FGSM) may overshoot and is left out."""
    steps = []
    for name in (name for name, job in context.attempts.items() if job.attack.name != "FGSM"):
        for norm in THREATS:
            radii = sorted(key[2] for key in context.shares if key[:2] == (name, norm) and key[2] is not None)
            for small, large in zip([None, *radii], radii, strict=False):
                before = context.shares[(CLEAN, None, None) if small is None else (name, norm, small)]
                after = context.shares[name, norm, large]
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
    counts: dict[tuple, dict[int, tuple]] = defaultdict(dict)
    for row in context.rows:
        if row["attack"] in context.attempts and row["eps"] and sum(row["tp"]):  # all broken is the same for all
            counts[row["attack"], row["norm"], row["eps"]][row["image"]] = _counts(row)
    for key in counts.values():
        for image, clean in {row["image"]: _counts(row) for row in context.rows if row["attack"] == CLEAN}.items():
            if key.get(image) == clean:  # unharmed is the same for all, too
                del key[image]
    compared = []
    for one, other in combinations(sorted(counts), 2):
        common = counts[one].keys() & counts[other].keys()
        if len(common) >= 3:
            same = 100 * sum(counts[one][image] == counts[other][image] for image in common) / len(common)
            compared.append((same, one, other, len(common)))
    if not compared:
        raise Skip("no two results with at least three images that are harmed and not wholly broken")
    same, one, other, images = max(compared)
    titles = [f"{name} {format_eps(eps, norm)}" for name, norm, eps in (one, other)]
    return verdict(
        graded(same, warn=SAME),
        f"{len(compared)} pairs; most alike are {titles[0]} and {titles[1]}, equal on {same:.0f} % of {images} images",
        "equal integers from different attacks: a result filed twice, or attacks that do the same",
        pairs=len(compared),
        most_equal_percent=same,
        pair=titles,
    )


def worst_case_readings(context: Context) -> Verdict:
    """The worst case by image and by the data set's mIoU."""
    readings = []
    for record in (one for one in context.summary if one["attack"] == WORST_CASE and one["mIoU"] is not None):
        about = {name: record[name] for name in ("norm", "eps")}
        readings.append({**about, "by_image": record["mIoU"], "searched": record["mIoU_greedy"]})
    if not readings:
        raise Skip("the run has no worst case: no attack that tries has a radius")
    widest = max(readings, key=lambda one: one["by_image"] - one["searched"])
    at = format_eps(widest["eps"], widest["norm"])
    return verdict(
        INFO,
        f"mIoU {widest['by_image']:.2f} with each image's lowest aAcc, {widest['searched']:.2f} by a greedy search "
        f"over the set, at {at}, where they differ most",
        readings=readings,
    )


HALF_WIDTH = 2.0  # points


def enough_images(context: Context) -> Verdict:
    """Enough different images and labelled pixels, and narrow 95 % intervals of mIoU."""
    clean = [row for row in context.rows if row["attack"] == CLEAN]
    pixels = sum(sum(row["tp"]) + sum(row["fn"]) for row in clean)
    if not pixels:
        text = f"nothing was measured: no pixel of {len(clean)} images has a label"
        remedy = f"every pixel is void ({context.void}): look at the labels and at how they are read"
        return verdict(FAIL, text, remedy, images=0, labelled_pixels=0)
    images = _different(context, [row for row in clean if sum(row["tp"]) + sum(row["fn"])])
    halves = {}
    for record in context.summary:
        if record["attack"] in (CLEAN, WORST_CASE) and "mIoU" in record["ci"]:
            where = "clean" if record["eps"] is None else format_eps(record["eps"], record["norm"])
            low, high = record["ci"]["mIoU"] or (-math.inf, math.inf)
            halves[where] = (high - low) / 2
    where, half = max(halves.items(), key=lambda one: one[1])
    width = f"+-{half:.2f} points" if math.isfinite(half) else "unknown"
    few = images < FEWEST or pixels < FEWEST_PIXELS
    return verdict(
        WARN if few else graded(half, warn=HALF_WIDTH),
        f"95 % interval of mIoU over {images} different images with {pixels} labelled pixels: {width} at its widest "
        f"({where})" + (f"; at least {FEWEST} and {FEWEST_PIXELS} are needed to say more" if few else ""),
        "more images: with --num-images larger, or left out",
        images=images,
        labelled_pixels=pixels,
        half_width_points=halves,
    )


def _different(context: Context, rows: list[Row]) -> int:
    """How many of the images differ; counted no further than to FEWEST where their own counts do not tell."""
    if len({(row["height"], row["width"], *_counts(row)) for row in rows}) >= FEWEST:
        return len(rows)
    seen: set[bytes] = set()
    for row in rows:
        pixels = context.source[row["image"]].image.contiguous().numpy()
        seen.add(hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).digest())
        if len(seen) >= FEWEST:
            return len(rows)
    return len(seen)


def cost(context: Context) -> Verdict:
    """What the run took."""
    passes = {
        f"{one['attack']} {format_eps(one['eps'], one['norm'])}" if one["eps"] is not None else one["attack"]: [
            one["forwards"], one["backwards"]
        ]
        for one in context.summary
        if one["attack"] not in (CLEAN, WORST_CASE)
    }  # fmt: skip
    # one search of a minimum-norm attack, and one call that gives several candidates, count once
    searches = {job.label for job in context.jobs if job.minimum_norm}
    timings = (one for one in context.folder.timings() if one["eps"] is None or one["attack"] not in searches)
    calls = {(one["attack"], one["norm"], one["eps"], one["image"]): one["seconds"] for one in timings}
    seconds, memory = sum(calls.values()), _peak_memory(context)
    dearest = max((sum(one) for one in passes.values()), default=0)
    return verdict(
        INFO,
        f"{seconds / 3600:.3g} device hours, up to {dearest:.0f} passes per image and attack, "
        f"peak memory of this process {memory / 2**30:.2f} GiB",
        device_hours=seconds / 3600,
        passes=passes,
        peak_memory_bytes=memory,
    )


def _peak_memory(context: Context) -> int:
    """Bytes: of the GPU, or of the process where there is none."""
    if context.evaluation.device.type == "cuda":
        return torch.cuda.max_memory_allocated(context.evaluation.device)
    try:
        import resource
    except ImportError:  # not a POSIX system
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _counts(row: Row) -> tuple:
    return tuple(tuple(row[name]) for name in ("classes", "tp", "fp", "fn"))


CHECKS = (
    Check("clean score as declared", clean_score),
    Check("monotone in the radius", monotone),
    Check("attacks differ", attacks_differ),
    Check("worst case by image and by set", worst_case_readings),
    Check("enough images", enough_images, essential=True),
    Check("cost", cost),
)
