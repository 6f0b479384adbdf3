"""From rows to the records of ``summary.json``: one per attack and radius, and the worst case per radius."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from segrobust.analysis.broken import broken_shares, distance_fields, finite, success_rate
from segrobust.analysis.metrics import Scores, class_iou, dense_counts, pooled
from segrobust.analysis.statistics import bootstrap_intervals
from segrobust.analysis.worst_case import Choice, choose, worst_choices
from segrobust.core.rows import Row, row_key

CLEAN = "clean"
WORST_CASE = "worst_case"
CONTROLS = ("UniformNoise",)

Record = dict[str, Any]


def summarise(
    rows: Sequence[Row],
    num_classes: int,
    timing: Iterable[dict[str, Any]] | None = None,
    controls: Iterable[str] = CONTROLS,
    samples: int = 1000,
) -> list[Record]:
    """The records of a run: clean first, then attacks by name and radius, then the worst cases by radius.

    A record is ``{attack, norm, eps, images, aAcc, mAcc, mIoU, ci, iou, broken, forwards, backwards, seconds,
    images_per_second, peak_bytes}``:
    percentages; ``ci`` holds 95 % intervals over images (null for one image); ``iou`` is per class, null without ground
    truth; ``broken`` is the percent of images broken (see ``broken_shares``) within that radius by that attack; passes
    are means per image, seconds a sum over all processes (null if not known), ``images_per_second`` those of one
    process, ``peak_bytes`` the most GPU memory of any batch (null on a CPU). In a targeted run ``apsr`` is the percent
    of pixels at their target, and being broken means that 99 % are.

    The result of a minimum-norm attack has no radius and no ``broken``, but over images, failures counting as inf,
    ``median_distance`` and ``quantiles`` (null: inf) with ``ci.median_distance`` (null: inf at that end, or at both),
    ``distances`` (sorted, null: not found), ``found`` (percent of images), ``apsr`` (percent of all labelled pixels at
    the goal), ``apsr_correct`` (mean percent over images, of the pixels that were not at the goal before) and, where
    rounding to 8 bits was tried, ``median_distance_8bit`` and ``found_8bit``. Its records at radii come from the same
    search; passes and seconds of each are those of the whole search.

    The worst case takes each image's lowest aAcc over all attacks, candidates and radii up to this one, in targeted
    runs too: what matters to whoever uses the model is how much is right. ``chosen`` counts whose it was; passes and
    seconds are those of the attacks at the radius itself. There is none at a radius that only ``controls`` (attacks
    that do not try, such as noise) were run at.

    The worst case and attacks that return several candidates also have ``mIoU_greedy``, the lowest pooled mIoU that a
    greedy search over the candidates found, with an interval for the choice as it is; ``mIoU_per_image``, of each image
    at its own lowest mIoU; and ``mIoU_gap``, how far the search came below ``mIoU``, that at the lowest aAcc. Over
    growing radii the worst case's aAcc and mIoU_greedy never rise, by construction; its mIoU and mIoU_per_image and the
    numbers of single attacks may.
    """
    costs = {row_key(entry): entry for entry in timing or ()}
    groups: dict[tuple, list[Row]] = defaultdict(list)
    candidates: dict[tuple, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=row_key):
        kind = candidates if row.get("candidate") else groups
        kind[row["attack"], row["norm"], row["eps"]].append(row)
    records = []
    for group, members in groups.items():
        record = _record(*group, members, num_classes, costs, samples)
        if more := candidates.get(group):
            _add_miou(record, choose(members + more, num_classes), num_classes, samples)
        records.append(record)
    records.sort(key=lambda record: record["attack"] != CLEAN)
    for norm, eps, choice in worst_choices(rows, num_classes, set(controls) | {CLEAN}):
        at_radius = [row for group, members in groups.items() if group[1:] == (norm, eps) for row in members]
        records.append(_worst_case(norm, eps, choice, at_radius, num_classes, costs, samples))
    _add_broken(records, groups)
    return records


def per_image_accuracy(rows: Sequence[Row]) -> np.ndarray:
    """aAcc [N] of each row in percent; NaN for an image without a labelled pixel."""
    correct = np.array([sum(row["tp"]) for row in rows], dtype=np.float64)
    labelled = correct + np.array([sum(row["fn"]) for row in rows], dtype=np.float64)
    return 100 * np.divide(correct, labelled, out=np.full(len(rows), np.nan), where=labelled > 0)


def _record(attack, norm, eps, rows: Sequence[Row], num_classes: int, costs: dict, samples: int) -> Record:
    counts = dense_counts(rows, num_classes)
    summed = [field.sum(0) for field in counts]
    scores = pooled(*summed)
    bounds = bootstrap_intervals(*counts, samples=samples)
    record = {
        "attack": attack,
        "norm": norm,
        "eps": eps,
        "images": len(rows),
        **{name: finite(score) for name, score in zip(Scores._fields, scores, strict=True)},
        "ci": {name: None if math.isnan(low) else [finite(low), finite(high)] for name, (low, high) in bounds.items()},
        "iou": [finite(value) for value in class_iou(*summed)],
        **_cost(rows, len(rows), costs),
    }
    if eps is None and attack != CLEAN:
        fields, record["ci"]["median_distance"] = distance_fields(rows, samples)
        return record | fields
    return record | ({"apsr": finite(success_rate(rows))} if "target_pixels" in rows[0] else {})


def _add_broken(records: Sequence[Record], groups: dict[tuple, list[Row]]) -> None:
    """Give every record but the results of minimum-norm attacks its ``broken``; to worst cases that of all attacks."""
    clean = groups.get((CLEAN, None, None), [])
    radii: dict[tuple, dict[float, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for (attack, norm, eps), rows in groups.items():
        if eps is not None:
            radii[attack, norm][eps] += rows
            radii[WORST_CASE, norm][eps] += rows
    shares = {(CLEAN, None): broken_shares(clean, {})}
    shares |= {line: broken_shares(clean, by_radius) for line, by_radius in radii.items()}
    for record in records:
        if "median_distance" not in record:
            record["broken"] = shares[record["attack"], record["norm"]][record["eps"]]


def _worst_case(norm, eps, choice: Choice, at_radius: Sequence[Row], num_classes, costs, samples) -> Record:
    worst = choice.by_accuracy
    record = _record(WORST_CASE, norm, eps, worst, num_classes, {}, samples)
    chosen = dict(sorted(Counter(row["attack"] for row in worst).items()))
    record |= _cost(at_radius, len(worst), costs) | {"chosen": chosen}
    _add_miou(record, choice, num_classes, samples)
    return record


def _add_miou(record: Record, choice: Choice, num_classes: int, samples: int) -> None:
    """The readings of the worst mIoU beside that of the rows with the lowest aAcc, which the record has."""
    counts = dense_counts(choice.greedy, num_classes)
    greedy = float(pooled(*(field.sum(0) for field in counts)).mIoU)
    per_image = float(pooled(*(field.sum(0) for field in dense_counts(choice.by_image, num_classes))).mIoU)
    record |= {"mIoU_greedy": finite(greedy), "mIoU_per_image": finite(per_image), "mIoU_gap": None}
    if record["mIoU"] is not None:
        record["mIoU_gap"] = finite(record["mIoU"] - greedy)
    low, high = bootstrap_intervals(*counts, samples=samples)["mIoU"]
    record["ci"]["mIoU_greedy"] = None if math.isnan(low) else [finite(low), finite(high)]


def _cost(rows: Sequence[Row], images: int, costs: dict) -> Record:
    known = [costs[key] for row in rows if (key := row_key(row)) in costs]
    seconds = sum(cost["seconds"] for cost in known)
    peaks = [cost["peak_bytes"] for cost in known if "peak_bytes" in cost]
    return {
        "forwards": finite(sum(row["forwards"] for row in rows) / images),
        "backwards": finite(sum(row["backwards"] for row in rows) / images),
        "seconds": round(seconds, 3) if known else None,
        "images_per_second": finite(images * len(known) / len(rows) / seconds) if seconds else None,
        "peak_bytes": max(peaks, default=None),
    }
