"""The one way labels change size: nearest neighbour between pixel centres, so they stay on the image's pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def resize_nearest(label: Tensor, size: Sequence[int]) -> Tensor:
    """Class ids ``[h, w]`` at ``size`` (height, width), of the same type.

    A pixel takes the id of the pixel in which its centre lies; of a centre between two of them the upper or left one
    (halves, the commonest factor, give every second pixel from the first). ``cv2.INTER_NEAREST`` takes the upper left
    corner instead, which moves labels against images by almost half a pixel of the new grid.
    """
    if tuple(label.shape) == tuple(size):
        return label
    rows, columns = (_centres(old, new) for old, new in zip(label.shape, size, strict=True))
    return label[rows.to(label.device)][:, columns.to(label.device)]


def _centres(old: int, new: int) -> Tensor:
    """Where the centres of ``new`` pixels lie among ``old`` ones, in whole numbers: ceil((i + 1/2) old / new) - 1."""
    return ((2 * torch.arange(new) + 1) * old - 1) // (2 * new)
