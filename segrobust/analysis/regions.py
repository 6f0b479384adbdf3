"""How much is right in each region of the images, such as rings around a patch."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from segrobust.analysis.metrics import finite
from segrobust.core.rows import Row


def pooled_regions(rows: Sequence[Row]) -> list[dict[str, Any]]:
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
