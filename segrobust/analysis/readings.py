"""Further readings of the rows of one condition: by the size of objects, by passes, by image and without background."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from segrobust.analysis.metrics import finite, pooled, share
from segrobust.core.rows import SIZE_BOUNDS, Row

MOST_POINTS = 25
BACKGROUND = "background"


def pooled_sizes(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """``{"upto", "right", "pixels"}`` per size of the labelled component that a pixel lies in; none where rows lack it.

    upto: the largest component in pixels, null for the open end. right: percent of these pixels, null without any.
    """
    if not all("sizes" in row.extra for row in rows):
        return []
    totals = np.sum([row.extra["sizes"] for row in rows], axis=0).tolist()
    return [
        {"upto": bound, "right": finite(100 * right / pixels) if pixels else None, "pixels": pixels}
        for bound, (right, pixels) in zip((*SIZE_BOUNDS, None), totals, strict=True)
    ]


def convergence(rows: Sequence[Row]) -> list[list[float]]:
    """``[[backwards, error], ...]``, at most 25: the mean over images, in percent, of the error at their best points.

    An image that spent fewer passes counts with its last error; the first point is the first that all images have.
    Images without a pixel that counts take no part. None where no row has a trace.
    """
    traces = [np.array(row.extra["trace"]) for row in rows if row.extra.get("trace") and row.goal_counts[1]]
    if not traces:
        return []
    first = max(trace[0, 0] for trace in traces)
    spent = np.array(sorted({int(one) for trace in traces for one in trace[:, 0] if one >= first}))
    if len(spent) > MOST_POINTS:
        spent = spent[np.linspace(0, len(spent) - 1, MOST_POINTS).round().astype(int)]
    errors = [trace[np.searchsorted(trace[:, 0], spent, side="right") - 1, 1] for trace in traces]
    return [[int(one), finite(100 * error)] for one, error in zip(spent, np.mean(errors, axis=0), strict=True)]


def miou_of_images(tp: np.ndarray, fp: np.ndarray, fn: np.ndarray) -> float | None:
    """Mean over images of their own mIoU in percent, from counts ``[N, K]``: of each the classes that its labels have.

    Images without a labelled pixel take no part; None where that is all of them.
    """
    own = pooled(tp, fp, fn).mIoU
    known = own[~np.isnan(own)]
    return finite(known.mean()) if len(known) else None


def miou_without_background(iou: Sequence[float | None], class_names: Sequence[str]) -> dict[str, float | None]:
    """``{"mIoU_without_background": percent}`` from the IoU per class; empty where no class is called background.

    None where no other class has ground truth.
    """
    named = [name.strip().lower() == BACKGROUND for name in class_names]
    if not any(named):
        return {}
    others = [value for value, left_out in itertools.zip_longest(iou, named) if value is not None and not left_out]
    return {"mIoU_without_background": finite(float(share(sum(others), len(others))))}
