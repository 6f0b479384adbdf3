"""Which images an attack breaks: how far one has to go, and how many hold out within a radius."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from segrobust.analysis.statistics import median_interval, quantile
from segrobust.core.rows import Row
from segrobust.core.units import FOUND_SHARE

_DISTANCE_DIGITS = 8


def goal_counts(row: Row) -> tuple[int, int]:
    """Pixels at the goal (wrong or, in a targeted run, at their target), and pixels that count."""
    if "target_pixels" in row:
        return row["at_target"], row["target_pixels"]
    return sum(row["fn"]), sum(row["fn"]) + sum(row["tp"])


def shares_of(rows: Sequence[Row]) -> dict[tuple[str, str | None, float | None], dict[int, float]]:
    """Percent of each image's counted pixels at the goal, ``{(attack, norm, eps): {image: percent}}``.

    Args:
        rows: one per attack, norm, radius and image; images without a pixel that counts are left out.
    """
    found: dict[tuple, dict[int, float]] = defaultdict(dict)
    for row in rows:
        reached, judged = goal_counts(row)
        if judged:
            found[row["attack"], row["norm"], row["eps"]][row["image"]] = 100 * reached / judged
    return dict(found)


def success_rate(rows: Sequence[Row]) -> float:
    """Percent of all counted pixels of all rows that are at the goal; NaN without a pixel."""
    reached, judged = np.sum([goal_counts(row) for row in rows], axis=0)
    return 100 * reached / judged if judged else math.nan


def distance_fields(rows: Sequence[Row], samples: int) -> tuple[dict[str, Any], list[float | None] | None]:
    """What the record of a minimum-norm attack has more than others, and the interval of the median distance.

    Images without a pixel that counts take no part. An image that is not found has the distance inf: null here.
    """
    judged = [row for row in rows if goal_counts(row)[1]]
    distances = np.array([row["distance"] if row["found"] else math.inf for row in judged])
    fields = {
        "median_distance": _length(quantile(distances, 0.5)),
        "quantiles": {"25": _length(quantile(distances, 0.25)), "75": _length(quantile(distances, 0.75))},
        "found": finite(100 * np.isfinite(distances).mean()) if len(distances) else None,
        "apsr": finite(success_rate(rows)),
        "apsr_correct": None,
        "distances": [_length(distance) for distance in np.sort(distances)],
    }
    of_correct = [row["error_of_correct"] for row in judged if "error_of_correct" in row]
    if of_correct:
        fields["apsr_correct"] = finite(100 * float(np.mean(of_correct)))
    rounded = np.array([row["distance_8bit"] for row in judged if "distance_8bit" in row])
    if len(rounded):
        fields["median_distance_8bit"] = _length(quantile(rounded, 0.5))
        fields["found_8bit"] = finite(100 * np.isfinite(rounded).mean())
    low, high = median_interval(distances, samples)
    return fields, [_length(low), _length(high)] if math.isfinite(low) else None


def finite(value: float, digits: int = 4) -> float | None:
    """Rounded for the JSON file; null for what is not a finite number."""
    return round(float(value), digits) if math.isfinite(value) else None


def _length(distance: float) -> float | None:
    return finite(distance, _DISTANCE_DIGITS)


def broken_shares(clean: Sequence[Row], radii: Mapping[float, Sequence[Row]]) -> dict[float | None, float | None]:
    """Percent of the images that are broken within each radius, and on the clean images (None).

    An image is broken within a radius where it is found at that radius or a smaller one, or needs no attack: at least
    99 % of its pixels are at the goal already. Rows of several attacks count together.
    """
    broken = {row["image"] for row in clean if _is_broken(row)}
    shares = {None: _percent(broken, clean)}
    for eps in sorted(radii):
        broken |= {row["image"] for row in radii[eps] if row["found"]}
        shares[eps] = _percent(broken, radii[eps])
    return shares


def _is_broken(row: Row) -> bool:
    reached, judged = goal_counts(row)
    return judged > 0 and reached >= FOUND_SHARE * judged


def _percent(broken: set[int], rows: Sequence[Row]) -> float | None:
    images = {row["image"] for row in rows if goal_counts(row)[1]}
    return round(100 * len(broken & images) / len(images), 4) if images else None
