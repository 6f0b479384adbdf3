"""Robust scores from the rows of one or more runs: for every image, the worst that anybody has found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from segrobust.analysis.metrics import dense_counts, finite, pooled
from segrobust.analysis.statistics import bootstrap_intervals
from segrobust.analysis.worst_case import worst_choices
from segrobust.core.rows import ATTACK, CLEAN, Row
from segrobust.leaderboard.evidence import Evidence

Scores = dict[str, Any]


def scores_of(rows: Sequence[Row], num_classes: int) -> Scores:
    """``{mIoU, aAcc, ci: {mIoU, aAcc}}`` of one row per image, in percent, with 95 % intervals over the images."""
    return _scores(rows, rows, num_classes)


def robust_scores(rows: Sequence[Row], num_classes: int, norm: str, radii: Iterable[float]) -> dict[float, Scores]:
    """The same of the worst case at each radius: mIoU of the greedy choice, aAcc of each image's lowest.

    Rows of conditions that have only some of the images count for these.
    """
    wanted = set(radii)
    return {
        eps: _scores(choice.greedy, choice.by_accuracy, num_classes)
        for one, eps, choice in worst_choices(rows, num_classes)
        if one == norm and eps in wanted
    }


def lower(first: Scores, second: Scores) -> Scores:
    """Per metric the lower one with its interval; of equal ones the first."""
    chosen = {name: second if second[name] < first[name] else first for name in ("mIoU", "aAcc")}
    return {name: one[name] for name, one in chosen.items()} | {
        "ci": {name: one["ci"][name] for name, one in chosen.items()}
    }


def on_images_of(base: Evidence, others: Sequence[Evidence]) -> list[Row]:
    """The rows of ``base``, and those of attacks in other runs on its images, as rows of these."""
    rows = list(base.rows)
    for other in others:
        place = {row_place: base.places.get(sha256) for sha256, row_place in other.places.items()}
        rows += [
            replace(row, image=place[row.image])
            for row in other.rows
            if row.condition.study == ATTACK and place.get(row.image) is not None
        ]
    return rows


def clean_rows(base: Evidence) -> list[Row]:
    return [row for row in base.rows if row.condition.study == CLEAN]


def _scores(for_miou: Sequence[Row], for_accuracy: Sequence[Row], num_classes: int) -> Scores:
    found: Scores = {"ci": {}}
    for name, rows in (("mIoU", for_miou), ("aAcc", for_accuracy)):
        counts = dense_counts(rows, num_classes)
        found[name] = finite(float(getattr(pooled(*(field.sum(0) for field in counts)), name)))
        low, high = bootstrap_intervals(*counts)[name]
        found["ci"][name] = None if low != low else [finite(low), finite(high)]
    return found
