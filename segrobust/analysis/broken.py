"""Which images an attack breaks: how far one has to go, and how many hold out within a radius."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from segrobust.analysis.conditions import by_condition
from segrobust.analysis.metrics import finite
from segrobust.analysis.statistics import median_interval, quantile
from segrobust.core.rows import ATTACK, CLEAN, Condition, Row

_DISTANCE_DIGITS = 8


def shares_of(rows: Sequence[Row]) -> dict[Condition, dict[int, float]]:
    """Percent of each image's counted pixels at the goal, ``{condition: {image: percent}}``.

    Images without a pixel that counts are left out.
    """
    return {
        condition: {row.image: success_rate([row]) for row in members if row.goal_counts[1]}
        for condition, members in by_condition(rows).items()
    }


def success_rate(rows: Sequence[Row]) -> float:
    """Percent of all counted pixels of all rows that are at the goal; NaN without a pixel."""
    reached, judged = np.sum([row.goal_counts for row in rows], axis=0)
    return 100 * reached / judged if judged else math.nan


def distance_fields(rows: Sequence[Row], samples: int) -> tuple[dict[str, Any], list[float | None] | None]:
    """What the record of a minimum-norm attack has more than others, and the interval of the median distance.

    Images without a pixel that counts take no part. An image that is not found has the distance inf: null here.
    """
    judged = [row for row in rows if row.goal_counts[1]]
    distances = np.array([row.extra["distance"] if row.found else math.inf for row in judged])
    of_correct = [row.extra["error_of_correct"] for row in judged if "error_of_correct" in row.extra]
    fields = {
        "median_distance": _length(quantile(distances, 0.5)),
        "quantiles": {"25": _length(quantile(distances, 0.25)), "75": _length(quantile(distances, 0.75))},
        "found": finite(100 * np.isfinite(distances).mean()) if len(distances) else None,
        "apsr": finite(success_rate(rows)),
        "apsr_correct": finite(100 * np.mean(of_correct)) if of_correct else None,
        "distances": [_length(distance) for distance in np.sort(distances)],
    }
    rounded = np.array([row.extra["distance_8bit"] for row in judged if "distance_8bit" in row.extra])
    if len(rounded):
        fields["median_distance_8bit"] = _length(quantile(rounded, 0.5))
        fields["found_8bit"] = finite(100 * np.isfinite(rounded).mean())
    low, high = median_interval(distances, samples)
    return fields, [_length(low), _length(high)] if math.isfinite(low) else None


def _length(distance: float) -> float | None:
    return finite(distance, _DISTANCE_DIGITS)


def broken_shares(clean: Sequence[Row], radii: Mapping[float, Sequence[Row]]) -> dict[float | None, float | None]:
    """Percent of the images that are broken within each radius, and on the clean images (None).

    An image is broken within a radius where it is found at that radius or a smaller one, or needs no attack. Rows of
    several attacks count together.
    """
    broken = {row.image for row in clean if row.found}
    shares = {None: _percent(broken, clean)}
    for eps in sorted(radii):
        broken |= {row.image for row in radii[eps] if row.found}
        shares[eps] = _percent(broken, radii[eps])
    return shares


def all_broken_shares(answers: Mapping[Condition, Sequence[Row]]) -> dict[Condition | str, dict]:
    """``broken_shares`` of the clean images, of each bounded attack, and of all of these under each norm.

    Args:
        answers: the rows of each condition, without further candidates.

    Returns:
        By condition without its radius, or by norm.
    """
    clean: list[Row] = []
    lines: dict[Condition | str, dict[float, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for condition, rows in answers.items():
        if condition.study == CLEAN:
            clean += rows
            lines[condition] = {}
        elif condition.study == ATTACK and condition.eps is not None:
            for line in (condition.norm, replace(condition, eps=None)):
                lines[line][condition.eps] += rows
    return {line: broken_shares(clean, radii) for line, radii in lines.items()}


def _percent(broken: set[int], rows: Sequence[Row]) -> float | None:
    images = {row.image for row in rows if row.goal_counts[1]}
    return round(100 * len(broken & images) / len(images), 4) if images else None
