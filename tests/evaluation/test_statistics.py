import math

import numpy as np
import pytest

from segrobust.evaluation import statistics
from segrobust.evaluation.metrics import pooled
from segrobust.evaluation.statistics import (
    bootstrap_intervals,
    draw_weights,
    median_interval,
    quantile,
    resampled_scores,
)


def random_counts(rng, images, classes=4, shape=2.0):
    """Images of 1000 pixels whose accuracy varies from image to image."""
    share = rng.dirichlet(np.ones(classes), images)
    truth = np.array([rng.multinomial(1000, p) for p in share])
    tp = rng.binomial(truth, rng.beta(shape, shape, (images, 1)))
    fn = truth - tp
    return tp, np.roll(fn, 1, axis=1), fn


def test_scores_equal_direct_resampling():
    """The same draws, image by image: repeat every image as often as it was drawn and pool the copies."""
    tp, fp, fn = random_counts(np.random.default_rng(1), images=13)
    got = resampled_scores(tp, fp, fn, samples=40, seed=7)
    for sample, weights in enumerate(np.concatenate(draw_weights(13, 40, 7)).astype(int)):
        assert weights.sum() == 13
        drawn = [image for image in range(13) for _ in range(weights[image])]
        expected = pooled(*(np.sum([field[image] for image in drawn], axis=0) for field in (tp, fp, fn)))
        assert [field[sample] for field in got] == pytest.approx(list(expected), abs=1e-10)


def test_intervals_are_quantiles_of_the_scores():
    counts = random_counts(np.random.default_rng(2), images=25)
    scores = resampled_scores(*counts, samples=1000, seed=0)
    intervals = bootstrap_intervals(*counts)
    for name in ("aAcc", "mAcc", "mIoU"):
        low, high = intervals[name]
        assert low < getattr(pooled(*(field.sum(0) for field in counts)), name) < high
        inside = (getattr(scores, name) >= low) & (getattr(scores, name) <= high)
        assert inside.mean() == pytest.approx(0.95, abs=0.002)


def test_small_blocks_draw_the_same(monkeypatch):
    counts = random_counts(np.random.default_rng(3), images=10)
    whole = bootstrap_intervals(*counts, samples=101, seed=5)
    monkeypatch.setattr(statistics, "_WEIGHTS_AT_ONCE", 70)
    assert len(draw_weights(10, 101, 5)) == 15
    assert bootstrap_intervals(*counts, samples=101, seed=5) == whole
    assert bootstrap_intervals(*counts, samples=101, seed=6) != whole


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    """300 samples of 40 images from a source whose aAcc is 50 %: a 95 % interval misses it about 15 times."""
    rng = np.random.default_rng(4)
    covered = 0
    for _ in range(300):
        low, high = bootstrap_intervals(*random_counts(rng, images=40), samples=400)["aAcc"]
        covered += low <= 50.0 <= high
    assert 0.90 <= covered / 300 <= 0.98


def test_one_image_has_no_interval():
    tp, fp, fn = random_counts(np.random.default_rng(5), images=1)
    assert all(math.isnan(bound) for bounds in bootstrap_intervals(tp, fp, fn).values() for bound in bounds)


def test_identical_images_have_an_interval_of_no_width():
    tp, fp, fn = (np.repeat(field, 8, axis=0) for field in random_counts(np.random.default_rng(6), images=1))
    low, high = bootstrap_intervals(tp, fp, fn)["mIoU"]
    assert low == pytest.approx(high, abs=1e-12)


def test_images_without_labels_do_not_disturb():
    empty = np.zeros((3, 4), dtype=np.int64)
    assert all(math.isnan(bound) for bounds in bootstrap_intervals(empty, empty, empty).values() for bound in bounds)


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([3.0, 1.0, 2.0], 0.5, 2.0),
        ([1.0, 2.0, 4.0, 8.0], 0.5, 3.0),
        ([1.0, 2.0, math.inf, math.inf], 0.5, math.inf),  # one of the two middle values is infinite
        ([1.0, 2.0, math.inf], 0.5, 2.0),
        ([math.inf, 1.0], 0.0, 1.0),  # and not NaN
        ([math.inf, math.inf], 0.5, math.inf),
        ([0.0, 1.0, 2.0, 3.0, 4.0], 0.25, 1.0),
        ([0.0, 1.0], 0.25, 0.25),
    ],
)
def test_quantiles_with_infinite_values(values, share, expected):
    assert quantile(np.array(values), share) == expected


def test_no_quantile_of_nothing():
    assert math.isnan(quantile(np.array([]), 0.5))


@pytest.mark.parametrize("images", [8, 9])
def test_the_interval_of_the_median_equals_direct_resampling(images):
    values = np.random.default_rng(2).random(images)
    values[3] = math.inf
    weights = np.concatenate(draw_weights(images, 200, 5)).astype(int)
    medians = [np.median(np.repeat(values, one)) for one in weights]
    assert median_interval(values, samples=200, seed=5) == pytest.approx(
        [quantile(np.array(medians), share) for share in (0.025, 0.975)], abs=1e-12
    )


def test_intervals_of_the_median_that_are_open_or_do_not_exist():
    far = np.array([0.1] * 6 + [math.inf] * 5)
    low, high = median_interval(far)
    assert low == pytest.approx(0.1) and math.isinf(high)
    assert median_interval(np.full(5, math.inf)) == [math.inf, math.inf]
    assert all(math.isnan(bound) for bound in median_interval(np.array([0.3])))
    assert median_interval(np.full(4, 0.3)) == pytest.approx([0.3, 0.3])


def test_the_interval_covers_the_true_median():
    rng = np.random.default_rng(0)
    bounds = [median_interval(rng.exponential(size=60), samples=200) for _ in range(200)]
    covered = np.mean([low <= math.log(2) <= high for low, high in bounds])
    assert 0.9 <= covered <= 0.99
