"""From rows to the records of ``summary.json``: one per condition, and the worst case per radius."""

from __future__ import annotations

import itertools
import logging
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from segrobust.analysis.broken import all_broken_shares, distance_fields, success_rate
from segrobust.analysis.conditions import by_condition, complete, incomplete
from segrobust.analysis.corruption import add_degradation, corruption_means
from segrobust.analysis.metrics import Scores, class_iou, dense_counts, finite, pooled, share
from segrobust.analysis.readings import convergence, miou_of_images, miou_without_background, pooled_sizes
from segrobust.analysis.statistics import bootstrap_intervals
from segrobust.analysis.worst_case import WORST_CASE, Choice, choose, worst_choices
from segrobust.core.rows import ATTACK, Condition, Row

_DESCRIBED = ("study", "name", "norm", "eps", "severity", "surrogate")

Record = dict[str, Any]
_LOG = logging.getLogger(__name__)


def summarise(
    rows: Sequence[Row],
    num_classes: int,
    timing: Iterable[Mapping[str, Any]] | None = None,
    images: int | None = None,
    samples: int = 1000,
    class_names: Sequence[str] = (),
) -> list[Record]:
    """The records of a run: clean first, then the other conditions by study, name, radius and severity, then the worst
    cases by radius and the means over corruptions.

    A record is ``{study, name, norm, eps, severity, surrogate, images, aAcc, mAcc, mIoU, ci, iou, forwards, backwards,
    seconds, images_per_second, peak_bytes}``: percentages; ``ci`` holds 95 % intervals over images (null for one
    image); ``iou`` is per class, null without ground truth; passes are means per image, seconds a sum over all
    processes (null if not known), ``images_per_second`` those of one process, ``peak_bytes`` the most GPU memory of any
    batch (null on a CPU). Conditions without a row for each of the run's ``images`` are left out, with a warning.

    Clean images, bounded attacks and worst cases have ``broken``, the percent of images broken (see ``broken_shares``)
    within that radius by that attack. In a targeted run ``apsr`` is the percent of pixels at their target, of those
    that have one, being broken means that 99 % are, and ``judged`` counts the images with such a pixel. ``kept``, where
    the other pixels are to keep the clean prediction, is the percent of them that do. Conditions that tell regions of
    the image apart have ``regions`` (:func:`pooled_regions`); corruptions and their means ``degradation``
    (:mod:`segrobust.analysis.corruption`).

    ``mIoU_images`` is the mean over images of their own mIoU, and ``mIoU_without_background``, where one of the
    ``class_names`` is background, the mean over all other classes. ``sizes`` tells small things from large ones
    (:func:`pooled_sizes`). An attack that follows gradients has ``convergence`` (:func:`convergence`).

    The result of a minimum-norm attack has no radius and no ``broken``, but over images, failures counting as inf,
    ``median_distance`` and ``quantiles`` (null: inf) with ``ci.median_distance`` (null: inf at that end, or at both),
    ``distances`` (sorted, null: not found), ``found`` (percent of images), ``apsr`` (percent of all labelled pixels at
    the goal), ``apsr_correct`` (mean percent over images, of the pixels that were not at the goal before) and, where
    rounding to 8 bits was tried, ``median_distance_8bit`` and ``found_8bit``. Its records at radii come from the same
    search; passes and seconds of each are those of the whole search.

    The worst case takes each image's lowest aAcc over all attacks, candidates and radii up to this one, in targeted
    runs too: what matters to whoever uses the model is how much is right. ``chosen`` counts whose it was; passes and
    seconds are those of the attacks at the radius itself. There is none at a radius that only controls (attacks that
    do not try, such as noise) were run at.

    The worst case and attacks that return several candidates also have ``mIoU_greedy``, the lowest pooled mIoU that a
    greedy search over the candidates found, with an interval for the choice as it is; ``mIoU_per_image``, of each image
    at its own lowest mIoU; and ``mIoU_gap``, how far the search came below ``mIoU``, that at the lowest aAcc. Over
    growing radii the worst case's aAcc and mIoU_greedy never rise, by construction; its mIoU and mIoU_per_image and the
    numbers of single attacks may.
    """
    costs = {(entry["condition"], entry["image"]): entry for entry in timing or ()}
    images = len({row.image for row in rows}) if images is None else images
    if partial := incomplete(rows, images):
        named = dict.fromkeys(f"{one.title} ({count} of {images} images)" for one, count in partial.items())
        _LOG.warning("not in the results, as rows are missing: %s; ask for them again", ", ".join(named))
    rows = complete(rows, images)
    answers: dict[Condition, list[Row]] = {}
    candidates: dict[Condition, list[Row]] = defaultdict(list)
    for condition, members in by_condition(rows).items():
        if condition.candidate:
            candidates[replace(condition, candidate="")] += members
        else:
            answers[condition] = members
    records, broken = [], all_broken_shares(answers)
    for condition, members in answers.items():
        record = _record(condition, members, num_classes, costs, samples)
        line = broken.get(replace(condition, eps=None), {})
        if condition.eps in line and "median_distance" not in record:
            record["broken"] = line[condition.eps]
        if more := candidates.get(condition):
            _add_miou(record, choose(members + more, num_classes), num_classes, samples)
        records.append(record)
    for norm, eps, choice in worst_choices(rows, num_classes):
        record = _record(Condition(WORST_CASE, WORST_CASE, norm, eps), choice.by_accuracy, num_classes, {}, samples)
        here = [one for one in answers if (one.study, one.norm, one.eps) == (ATTACK, norm, eps)]
        record |= _cost([row for one in here for row in answers[one]], len(choice.by_accuracy), costs)
        record["chosen"] = dict(sorted(Counter(row.condition.name for row in choice.by_accuracy).items()))
        _add_miou(record, choice, num_classes, samples)
        records.append(record | {"broken": broken[norm][eps]})
    for record in records:
        record |= miou_without_background(record["iou"], class_names)
    records += corruption_means(records)
    add_degradation(records)
    return records


def per_image_accuracy(rows: Sequence[Row]) -> np.ndarray:
    """aAcc [N] of each row in percent; NaN for an image without a labelled pixel."""
    correct = np.array([sum(row.counts["tp"]) for row in rows], dtype=np.float64)
    labelled = correct + np.array([sum(row.counts["fn"]) for row in rows], dtype=np.float64)
    return 100 * share(correct, labelled)


def _record(condition: Condition, rows: Sequence[Row], num_classes: int, costs: dict, samples: int) -> Record:
    counts = dense_counts(rows, num_classes)
    summed = [field.sum(0) for field in counts]
    scores = pooled(*summed)
    bounds = bootstrap_intervals(*counts, samples=samples)
    record = {
        **{name: getattr(condition, name) for name in _DESCRIBED},
        "images": len(rows),
        **{name: finite(score) for name, score in zip(Scores._fields, scores, strict=True)},
        "mIoU_images": miou_of_images(*counts),
        "ci": {name: _interval(*ends) for name, ends in bounds.items()},
        "iou": [finite(value) for value in class_iou(*summed)],
        **_cost(rows, len(rows), costs),
    }
    if "target_pixels" in rows[0].extra:
        record["judged"] = sum(row.goal_counts[1] > 0 for row in rows)
    if "rest_pixels" in rows[0].extra:
        kept, rest = np.sum([(row.extra["kept"], row.extra["rest_pixels"]) for row in rows], axis=0)
        record["kept"] = finite(100 * share(kept, rest))
    if sizes := pooled_sizes(rows):
        record["sizes"] = sizes
    if condition.study != WORST_CASE and (curve := convergence(rows)):
        record["convergence"] = curve
    if condition.study == ATTACK and condition.eps is None:
        fields, record["ci"]["median_distance"] = distance_fields(rows, samples)
        return record | fields
    if "target_pixels" in rows[0].extra:
        record["apsr"] = finite(success_rate(rows))
    if regions := pooled_regions(rows):
        record["regions"] = regions
    return record


def pooled_regions(rows: Sequence[Row]) -> list[Record]:
    """``{"within", "right", "pixels"}`` per region, of the rows of one condition; none where it tells no regions apart.

    within: the region's upper bound in pixels, from the condition's ``rings``; null for an open one. right: percent of
    the pixels counted there, pooled over images; null without any.
    """
    counted = itertools.zip_longest(*(row.extra.get("regions", ()) for row in rows), fillvalue=(0, 0))
    totals = [np.sum(region, axis=0).tolist() for region in counted]  # an image may be too small for the outer ones
    bounds = [*rows[0].condition.fields.get("rings", ()), *[None] * len(totals)]
    return [
        {"within": bound, "right": finite(100 * right / pixels) if pixels else None, "pixels": pixels}
        for bound, (right, pixels) in zip(bounds, totals, strict=False)
    ]


def _add_miou(record: Record, choice: Choice, num_classes: int, samples: int) -> None:
    """The readings of the worst mIoU beside that of the rows with the lowest aAcc, which the record has."""
    counts = dense_counts(choice.greedy, num_classes)
    greedy = float(pooled(*(field.sum(0) for field in counts)).mIoU)
    per_image = float(pooled(*(field.sum(0) for field in dense_counts(choice.by_image, num_classes))).mIoU)
    gap = None if record["mIoU"] is None else finite(record["mIoU"] - greedy)
    record |= {"mIoU_greedy": finite(greedy), "mIoU_per_image": finite(per_image), "mIoU_gap": gap}
    record["ci"]["mIoU_greedy"] = _interval(*bootstrap_intervals(*counts, samples=samples)["mIoU"])


def _interval(low: float, high: float) -> list[float | None] | None:
    return None if math.isnan(low) else [finite(low), finite(high)]


def _cost(rows: Sequence[Row], images: int, costs: dict) -> Record:
    known = [costs[row.key] for row in rows if row.key in costs]
    seconds = sum(cost["seconds"] for cost in known)
    peaks = [cost["peak_bytes"] for cost in known if "peak_bytes" in cost]
    return {
        "forwards": finite(sum(row.extra["forwards"] for row in rows) / images),
        "backwards": finite(sum(row.extra["backwards"] for row in rows) / images),
        "seconds": round(seconds, 3) if known else None,
        "images_per_second": finite(images * len(known) / len(rows) / seconds) if seconds else None,
        "peak_bytes": max(peaks, default=None),
    }
