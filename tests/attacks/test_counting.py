"""Pixels counted per class, against a loop over pixels; rows hold them sparsely."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from segrobust.analysis.metrics import dense_counts
from segrobust.attacks.segmentation import confusion_counts, sparse_counts
from segrobust.core.errors import UserError
from segrobust.core.rows import Condition, Row


def counts_by_loop(prediction, label, num_classes, void):
    """Pixel by pixel, in plain Python."""
    tp, fp, fn = ([0] * num_classes for _ in range(3))
    for guess_row, truth_row in zip(prediction.tolist(), label.tolist(), strict=True):
        for guess, truth in zip(guess_row, truth_row, strict=True):
            if truth == void:
                continue
            if guess == truth:
                tp[truth] += 1
            else:
                fp[guess] += 1
                fn[truth] += 1
    return tp, fp, fn


def random_maps(seed, images, num_classes, void, dtype=torch.int64):
    generator = torch.Generator().manual_seed(seed)
    prediction = torch.randint(num_classes, (images, 7, 9), generator=generator)
    label = torch.randint(num_classes, (images, 7, 9), generator=generator)
    label[torch.rand(label.shape, generator=generator) < 0.2] = void
    return prediction, label.to(dtype)


@pytest.mark.parametrize("void", [255, -1, 0, 5, 1000])
@pytest.mark.parametrize("num_classes", [1, 2, 6])
def test_counts_equal_the_loop(void, num_classes):
    prediction, label = random_maps(void + num_classes, 3, num_classes, void)
    batched = confusion_counts(prediction, label, num_classes, void)
    for image in range(3):
        expected = counts_by_loop(prediction[image], label[image], num_classes, void)
        single = confusion_counts(prediction[image], label[image], num_classes, void)
        for got, got_batched, want in zip(single, batched, expected, strict=True):
            assert got.dtype == torch.int64
            assert got.tolist() == want
            assert got_batched[image].tolist() == want


def test_unsigned_bytes_are_enough():
    prediction, label = random_maps(1, 2, 6, 255, torch.uint8)
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            confusion_counts(prediction.to(torch.uint8), label, 6, 255),
            confusion_counts(prediction, label.long(), 6, 255),
            strict=True,
        )
    )
    with pytest.raises(UserError, match="label 255"):
        confusion_counts(prediction, label, 6, -1)


def test_nothing_at_void_pixels_has_an_effect():
    prediction, label = random_maps(2, 2, 4, 255)
    before = confusion_counts(prediction, label, 4, 255)
    prediction[label == 255] = torch.tensor(987654321)
    other_void = label.clone()
    other_void[label == 255] = -7
    for after in (confusion_counts(prediction, label, 4, 255), confusion_counts(prediction, other_void, 4, -7)):
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_an_image_of_void_alone_counts_nothing():
    void = torch.full((2, 5, 5), 255)
    assert all(field.sum() == 0 and field.shape == (2, 3) for field in confusion_counts(void, void, 3, 255))


@pytest.mark.parametrize("value", [4, 254, -1])
def test_wrong_labels_are_named(value):
    prediction, label = random_maps(3, 1, 4, 255)
    label[0, 3, 3] = value
    with pytest.raises(UserError, match=f"label {value} "):
        confusion_counts(prediction, label, 4, 255)


@pytest.mark.parametrize("value", [4, -1])
def test_predictions_out_of_range_are_impossible(value):
    prediction, label = random_maps(4, 1, 4, 255)
    label[0, 2, 2] = 1
    prediction[0, 2, 2] = value
    with pytest.raises(ValueError, match="predictions range"):
        confusion_counts(prediction, label, 4, 255)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"\[2, 3\] and \[3, 2\]"):
        confusion_counts(torch.zeros(2, 3), torch.zeros(3, 2), 4)


def test_sparse_and_dense_are_inverse():
    prediction, label = random_maps(5, 4, 6, 255)
    label[0] = 2
    prediction[0] = 2
    label[1] = 255
    counts = confusion_counts(prediction, label, 6, 255)
    rows = [sparse_counts(*(field[i] for field in counts)) for i in range(4)]
    assert rows[0] == {"classes": [2], "tp": [63], "fp": [0], "fn": [0]}
    assert rows[1] == {"classes": [], "tp": [], "fp": [], "fn": []}
    rows = [Row(i, Condition("clean", "clean"), row) for i, row in enumerate(rows)]
    for dense, original in zip(dense_counts(rows, 6), counts, strict=True):
        assert dense.dtype == np.int64
        assert np.array_equal(dense, original.numpy())
    with pytest.raises(UserError, match="class 5"):
        dense_counts(rows, 5)
