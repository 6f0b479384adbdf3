"""Rings around a patch, by distances worked out from its sides."""

from __future__ import annotations

import torch

from segrobust.studies.universal import rings


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
