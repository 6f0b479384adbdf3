"""From rows to the records of ``summary.json``: one per attack and radius, and the worst case per radius."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from segrobust.evaluation.metrics import Scores, class_iou, dense_counts, pooled
from segrobust.evaluation.statistics import bootstrap_intervals
from segrobust.evaluation.store import Row, row_key

CLEAN = "clean"
WORST_CASE = "worst_case"
CONTROLS = ("UniformNoise",)
_DIGITS = 4

Record = dict[str, Any]


def summarise(
    rows: Sequence[Row],
    num_classes: int,
    timing: Iterable[dict[str, Any]] | None = None,
    controls: Iterable[str] = CONTROLS,
    samples: int = 1000,
) -> list[Record]:
    """The records of a run: clean first, then attacks by name and radius, then the worst cases by radius.

    A record is ``{attack, norm, eps, images, aAcc, mAcc, mIoU, ci, iou, forwards, backwards, seconds}``: percentages;
    ``ci`` holds 95 % intervals over images (null for one image); ``iou`` is per class, null without ground truth;
    passes are means per image, seconds a sum (null if not known). A minimum-norm attack has no radius, but
    ``median_distance`` (null: not found for half the images or more), ``found`` and ``apsr`` (percent of images found,
    and of labelled pixels not predicted as labelled).

    The worst case takes each image's lowest aAcc over all attacks at that radius; ``chosen`` counts whose it was. There
    is none at a radius that only ``controls`` (attacks that do not try, such as noise) were run at.
    """
    seconds = {row_key(entry): entry["seconds"] for entry in timing or ()}
    groups: dict[tuple, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=row_key):
        groups[row["attack"], row["norm"], row["eps"]].append(row)
    records = [_record(*group, members, num_classes, seconds, samples) for group, members in groups.items()]
    records.sort(key=lambda record: record["attack"] != CLEAN)
    return records + _worst_cases(groups, num_classes, seconds, set(controls) | {CLEAN}, samples)


def per_image_accuracy(rows: Sequence[Row]) -> np.ndarray:
    """aAcc [N] of each row in percent; NaN for an image without a labelled pixel."""
    correct = np.array([sum(row["tp"]) for row in rows], dtype=np.float64)
    labelled = correct + np.array([sum(row["fn"]) for row in rows], dtype=np.float64)
    return 100 * np.divide(correct, labelled, out=np.full(len(rows), np.nan), where=labelled > 0)


def _record(attack, norm, eps, rows: Sequence[Row], num_classes: int, seconds: dict, samples: int) -> Record:
    counts = dense_counts(rows, num_classes)
    summed = [field.sum(0) for field in counts]
    scores = pooled(*summed)
    bounds = bootstrap_intervals(*counts, samples=samples)
    record = {
        "attack": attack,
        "norm": norm,
        "eps": eps,
        "images": len(rows),
        **{name: _number(score) for name, score in zip(Scores._fields, scores, strict=True)},
        "ci": {
            name: None if math.isnan(low) else [_number(low), _number(high)] for name, (low, high) in bounds.items()
        },
        "iou": [_number(value) for value in class_iou(*summed)],
        **_cost(rows, len(rows), seconds),
    }
    return record | (_distances(rows, scores) if eps is None and attack != CLEAN else {})


def _distances(rows: Sequence[Row], scores: Scores) -> Record:
    distances = [row["distance"] if row["found"] else math.inf for row in rows]
    return {
        "median_distance": _number(np.median(distances), digits=8),
        "found": _number(100 * np.mean([row["found"] for row in rows])),
        "apsr": _number(100 - scores.aAcc),
    }


def _worst_cases(groups: dict[tuple, list[Row]], num_classes: int, seconds: dict, idle: set[str], samples: int):
    by_radius: dict[tuple, dict[str, list[Row]]] = defaultdict(dict)
    for (attack, norm, eps), rows in groups.items():
        if eps is not None:
            by_radius[norm, eps][attack] = rows
    radii = sorted(by_radius, key=lambda radius: (radius[0] or "", radius[1]))
    return [
        _worst_case(norm, eps, by_radius[norm, eps], num_classes, seconds, samples)
        for norm, eps in radii
        if not idle.issuperset(by_radius[norm, eps])
    ]


def _worst_case(norm, eps, attacks: dict[str, list[Row]], num_classes: int, seconds: dict, samples: int) -> Record:
    rows = [row for members in attacks.values() for row in members]
    candidates: dict[int, list[tuple[float, int]]] = defaultdict(list)
    for index, accuracy in enumerate(per_image_accuracy(rows)):
        candidates[rows[index]["image"]].append((-1.0 if math.isnan(accuracy) else accuracy, index))
    worst = [rows[min(candidates[image])[1]] for image in sorted(candidates)]
    record = _record(WORST_CASE, norm, eps, worst, num_classes, {}, samples)
    chosen = dict(sorted(Counter(row["attack"] for row in worst).items()))
    return record | _cost(rows, len(worst), seconds) | {"chosen": chosen}


def _cost(rows: Sequence[Row], images: int, seconds: dict) -> Record:
    times = [seconds[key] for row in rows if (key := row_key(row)) in seconds]
    return {
        "forwards": _number(sum(row["forwards"] for row in rows) / images),
        "backwards": _number(sum(row["backwards"] for row in rows) / images),
        "seconds": round(sum(times), 3) if times else None,
    }


def _number(value: float, digits: int = _DIGITS) -> float | None:
    """Rounded for the JSON file; null for what is not a finite number."""
    return round(float(value), digits) if math.isfinite(value) else None
