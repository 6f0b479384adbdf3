"""Intervals over images: how much would the scores move with another sample of images from the same source?

The classes that count are those with ground truth in the whole set, in every sample of it too: were a rare class left
out wherever its few images were not drawn, mIoU would rise with every such sample, and its interval with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from segrobust.analysis.metrics import Scores, dense_counts, pooled, share
from segrobust.core.errors import UserError
from segrobust.core.rows import Row

LOW, HIGH = 0.025, 0.975  # the ends of a 95 % interval


def resampled_scores(tp: np.ndarray, fp: np.ndarray, fn: np.ndarray, samples: int = 1000, seed: int = 0) -> Scores:
    """Scores [samples] of bootstrap samples of the images (drawn with replacement), pooled anew for each sample.

    A class that a sample has no ground truth of, but predictions, has an IoU of 0 there. What a sample says nothing
    about (0/0: the accuracy of such a class, the IoU of one that is not predicted either) stays as in the whole set.

    How often each image is drawn is multinomial, so a sample's pooled counts are one matrix product away. The
    product runs in float64 and is exact: every sum stays far below 2^53.
    """
    counts = np.concatenate([tp, fp, fn], axis=1).astype(np.float64)
    drawn = draw_weights(len(tp), samples, seed) @ counts
    tp, fp, fn = (field.sum(0) for field in (tp, fp, fn))
    present = tp + fn > 0
    if not present.any():
        return Scores(*np.full((3, samples), np.nan))
    hit, more, missed = (part[:, present] for part in np.split(drawn, 3, axis=1))
    tp, fp, fn = (part[present] for part in (tp, fp, fn))
    return Scores(
        100 * share(hit.sum(1), (hit + missed).sum(1), tp.sum() / (tp + fn).sum()),
        100 * share(hit, hit + missed, tp / (tp + fn)).mean(1),
        100 * share(hit, hit + more + missed, tp / (tp + fp + fn)).mean(1),
    )


def draw_weights(images: int, samples: int, seed: int) -> np.ndarray:
    """How often each image occurs in each sample: integer weights [samples, images]."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(images, np.full(images, 1 / images), size=samples).astype(np.float64)


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
    return _intervals(resampled_scores(tp, fp, fn, samples, seed), len(tp))


def _intervals(scores: Scores, images: int) -> dict[str, list[float]]:
    ends = np.quantile(scores, (LOW, HIGH), axis=1).T if images > 1 else np.full((len(scores), 2), math.nan)
    return dict(zip(Scores._fields, ends.tolist(), strict=True))


def paired_difference(
    rows_a: Sequence[Row], rows_b: Sequence[Row], num_classes: int, samples: int = 1000, seed: int = 0
) -> dict[str, list[float]]:
    """What b has more than a over the same images, in points, with its 95 % percentile bootstrap interval.

    Both are scored on the same samples of the images, so that what makes an image hard for either cancels out: an
    interval without 0 says that they differ, also where their own intervals overlap.

    Args:
        rows_a, rows_b: one row per image, of one condition or of the worst case; in any order. Rows with the same
            ``image`` belong together.

    Returns:
        ``{"aAcc": [difference, low, high], "mAcc": ..., "mIoU": ...}``; NaN bounds for fewer than two images.

    Raises:
        UserError: an image with two rows, or other images or labels in one than in the other.
    """
    counts_a, counts_b = _paired_counts(rows_a, rows_b, num_classes)
    at_a, at_b = (pooled(*(field.sum(0) for field in counts)) for counts in (counts_a, counts_b))
    drawn_a, drawn_b = (resampled_scores(*counts, samples, seed) for counts in (counts_a, counts_b))
    bounds = _intervals(Scores(*(b - a for a, b in zip(drawn_a, drawn_b, strict=True))), len(rows_a))
    return {name: [float(b - a), *bounds[name]] for name, a, b in zip(bounds, at_a, at_b, strict=True)}


def _paired_counts(rows_a: Sequence[Row], rows_b: Sequence[Row], num_classes: int) -> list[tuple[np.ndarray, ...]]:
    """The counts of both, image by image in the same order."""
    by_image = [{row.image: row for row in rows} for rows in (rows_a, rows_b)]
    if any(len(found) < len(rows) for found, rows in zip(by_image, (rows_a, rows_b), strict=True)):
        raise UserError("a paired difference takes one row per image and run; choose one condition")
    if by_image[0].keys() != by_image[1].keys() or not rows_a:
        raise UserError(f"not paired: {len(rows_a)} and {len(rows_b)} images that are not the same ones")
    order = sorted(by_image[0])
    counts = [dense_counts([rows[image] for image in order], num_classes) for rows in by_image]
    if not np.array_equal(*(tp + fn for tp, _, fn in counts)):
        raise UserError("not paired: the same images with other labels")
    return counts


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
    drawn = draw_weights(len(values), samples, seed)[:, order].cumsum(1)  # how many are at most the n-th smallest
    lower, upper = (ordered[(drawn <= place).sum(1)] for place in middle)
    return [quantile(lower / 2 + upper / 2, end) for end in (LOW, HIGH)]
