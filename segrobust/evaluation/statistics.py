"""Intervals over images: how much would the scores move with another sample of images from the same source?"""

from __future__ import annotations

import math

import numpy as np

from segrobust.evaluation.metrics import Scores, pooled

_WEIGHTS_AT_ONCE = 1 << 22


def resampled_scores(tp: np.ndarray, fp: np.ndarray, fn: np.ndarray, samples: int = 1000, seed: int = 0) -> Scores:
    """Scores [samples] of bootstrap samples of the images (drawn with replacement), pooled anew for each sample.

    How often each image is drawn is multinomial, so a sample's pooled counts are one matrix product away. The
    product runs in float64 and is exact: every sum stays far below 2^53.
    """
    images = len(tp)
    counts = np.concatenate([tp, fp, fn], axis=1).astype(np.float64)
    parts = [_pool(weights @ counts) for weights in draw_weights(images, samples, seed)]
    return Scores(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def draw_weights(images: int, samples: int, seed: int) -> list[np.ndarray]:
    """How often each image occurs in each sample: integer weights [samples, images], in blocks of bounded size."""
    rng = np.random.default_rng(seed)
    block = max(1, _WEIGHTS_AT_ONCE // images)
    uniform = np.full(images, 1 / images)
    sizes = [min(block, samples - start) for start in range(0, samples, block)]
    return [rng.multinomial(images, uniform, size=size).astype(np.float64) for size in sizes]


def _pool(summed: np.ndarray) -> Scores:
    return pooled(*np.split(summed, 3, axis=1))


def bootstrap_intervals(
    tp: np.ndarray, fp: np.ndarray, fn: np.ndarray, samples: int = 1000, seed: int = 0
) -> dict[str, list[float]]:
    """95 % percentile bootstrap intervals over images (Efron, 1979) of aAcc, mAcc and mIoU.

    Args:
        tp, fp, fn: counts [N, K] per image and class.

    Returns:
        ``{"aAcc": [low, high], "mAcc": ..., "mIoU": ...}`` in percent; NaN for fewer than two images, which say
        nothing about how images differ.
    """
    if len(tp) < 2:
        return {name: [math.nan, math.nan] for name in Scores._fields}
    scores = resampled_scores(tp, fp, fn, samples, seed)
    return {
        name: [float(bound) for bound in np.nanquantile(values, (0.025, 0.975))] if not np.isnan(values).all()
        else [math.nan, math.nan]
        for name, values in zip(Scores._fields, scores, strict=True)
    }  # fmt: skip


def quantile(values: np.ndarray, share: float) -> float:
    """Linearly interpolated quantile of values that may be infinite; one infinite neighbour makes it infinite.

    So the median of an even number is finite only where both middle values are.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    if not len(ordered):
        return math.nan
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    part = place - low
    return float(ordered[low] if part == 0 else (1 - part) * ordered[low] + part * ordered[low + 1])


def median_interval(values: np.ndarray, samples: int = 1000, seed: int = 0) -> list[float]:
    """95 % percentile bootstrap interval over images of the median of ``values [N]``, which may be infinite.

    NaN for fewer than two images.
    """
    if len(values) < 2:
        return [math.nan, math.nan]
    order = np.argsort(values, kind="stable")
    ordered = np.asarray(values, dtype=np.float64)[order]
    middle = ((len(values) - 1) // 2, len(values) // 2)
    medians = []
    for weights in draw_weights(len(values), samples, seed):
        drawn = weights[:, order].cumsum(1)  # how many drawn values are at most the n-th smallest
        lower, upper = (ordered[(drawn <= place).sum(1)] for place in middle)
        medians.append(lower / 2 + upper / 2)
    return [quantile(np.concatenate(medians), share) for share in (0.025, 0.975)]
