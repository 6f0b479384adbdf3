"""Rings around a patch: the distances, and that they hold every pixel that counts once."""

from __future__ import annotations

import torch

from segrobust.studies.rings import count_by_ring, rings


def test_the_ring_of_a_pixel_is_that_of_its_distance_to_the_patch():
    covered = torch.zeros(2, 120, 190, dtype=torch.bool)
    covered[0, 20:30, 40:45] = True
    covered[1, 0, 0] = True
    y, x = torch.meshgrid(torch.arange(120), torch.arange(190), indexing="ij")
    outside = [(20 - y).clamp_min(0) + (y - 29).clamp_min(0), (40 - x).clamp_min(0) + (x - 44).clamp_min(0)]
    for found, (down, across) in zip(rings(covered), [outside, (y, x)], strict=True):
        away = (down.double() ** 2 + across.double() ** 2).sqrt()
        wanted = sum((away > edge).long() for edge in (8, 16, 32, 64))
        assert torch.equal(found, wanted) and set(wanted.unique().tolist()) == {0, 1, 2, 3, 4}


def test_every_pixel_that_counts_is_in_one_ring():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (2, 90, 100), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = 9
    prediction = torch.randint(0, 3, labels.shape, generator=generator)
    covered = torch.zeros(labels.shape, dtype=torch.bool)
    covered[0, 5:20, 5:20] = covered[1, 60:80, 10:50] = True
    right, counted = count_by_ring(prediction, labels, covered, ignore_index=9)
    valid = (labels != 9) & ~covered
    assert right.shape == counted.shape == (2, 5) and not counted.is_floating_point()
    assert torch.equal(counted.sum(1), valid.flatten(1).sum(1))
    assert torch.equal(right.sum(1), (valid & (prediction == labels)).flatten(1).sum(1))
    away = torch.arange(100) - 49  # to the right of the second patch, in its rows
    alone = torch.full_like(labels[1:], 9)
    alone[0, 70] = prediction[1, 70] = 1
    _, row = count_by_ring(prediction[1:], alone, covered[1:], ignore_index=9)
    left = 10 - torch.arange(10)
    distances = torch.cat([left, away[50:]])
    assert row[0].tolist() == [int(((distances > low) & (distances <= high)).sum()) for low, high in
                               ((0, 8), (8, 16), (16, 32), (32, 64), (64, 999))]  # fmt: skip
