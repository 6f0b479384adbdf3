"""How large the things are that pixels belong to: connected components of one label."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from segrobust.core.rows import SIZE_BOUNDS

_TOUCHING = 8  # neighbours of a pixel, those at its corners among them


def size_classes(labels: Tensor) -> Tensor:
    """The place in ``SIZE_BOUNDS`` of every pixel's component, ``[N, H, W]`` uint8; one more for the largest.

    Args:
        labels: ``[N, H, W]`` integers; a component is what is connected and has one label, void too.
    """
    classes = [_of_map(one) for one in labels.cpu().numpy()]
    return torch.from_numpy(np.stack(classes)).to(labels.device)


def _of_map(label: np.ndarray) -> np.ndarray:
    classes = np.zeros(label.shape, dtype=np.uint8)
    label = label.astype(np.int32)
    for one in np.unique(label):
        mask = label == one
        left, top, width, height = cv2.boundingRect(mask.view(np.uint8))
        window = slice(top, top + height), slice(left, left + width)
        inside = np.ascontiguousarray(mask[window])
        _, places, stats, _ = cv2.connectedComponentsWithStats(inside.view(np.uint8), connectivity=_TOUCHING)
        of_components = np.searchsorted(SIZE_BOUNDS, stats[:, cv2.CC_STAT_AREA]).astype(np.uint8)
        np.copyto(classes[window], of_components[places], where=inside)
    return classes
