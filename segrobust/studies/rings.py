"""Rings around a patch: how far its effect reaches."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

RINGS = (8, 16, 32, 64)  # pixels from the patch's edge, the largest of each ring; one more ring holds the rest


def rings(covered: Tensor) -> Tensor:
    """The ring of every pixel, ``[N, H, W]`` int64, by its distance to the nearest covered one: 0 from 1 to 8 pixels
    (and under the patch), 1 up to 16, ..., 4 beyond 64.

    Args:
        covered: ``[N, H, W]`` bool, the pixels under the patch, at least one per image.
    """
    free = (~covered).to("cpu", torch.uint8).numpy()
    away = np.stack([cv2.distanceTransform(one, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) for one in free])
    return torch.from_numpy(np.searchsorted(RINGS, away)).to(covered.device)
